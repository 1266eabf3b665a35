"""The root of every error that is the input's fault, not the program's."""

from __future__ import annotations

__all__ = ["GolfError"]


class GolfError(ValueError):
    """Parameters, files, text, environment or outputs are wrong; the message says which, and what was expected.

    ``main_guard`` prints it as one line. Any other exception is a fault of the program and shows its traceback.
    """
