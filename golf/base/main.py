"""One place where an expected error becomes one clear line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from golf.base.errors import GolfError

__all__ = ["main_guard"]


def main_guard(main: Callable[[], int | None], *, name: str) -> None:
    """Run ``main`` and leave the process: 0 on success, 1 with one line on stderr for an expected error, 130 on Ctrl-C.

    Expected are ``GolfError``, the parent of every named error of the library, and ``OSError`` (a full disk, a missing
    permission, a folder in a file's place), told with the name of its file. Anything else, a ``ValueError`` of numpy
    or torch too, is a fault of the program and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # what goes into a file is the same in every locale
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        code = main() or 0
    except GolfError as error:
        code = _tell(name, f"error: {error}")
    except OSError as error:
        code = _tell(name, f"error: {_about(error)}")
    except KeyboardInterrupt:
        _tell(name, "interrupted")
        code = 130
    try:
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (flushed once more at exit)
        code = code or _tell(name, f"error: standard output: {error.strerror}")
    sys.exit(code)


def _about(error: OSError) -> str:
    """The error's file and reason. The system names none for a write; ``golf.base.files`` names its own."""
    reason = error.strerror or str(error) or type(error).__name__
    files = [str(file) for file in (error.filename, error.filename2) if file is not None]
    unnamed = "standard output" if isinstance(error, BrokenPipeError) else "standard output or a file in writing"
    return f"{' -> '.join(files) or unnamed}: {reason}"


def _tell(name: str, text: str) -> int:
    print(f"{name}: {text}", file=sys.stderr)
    return 1
