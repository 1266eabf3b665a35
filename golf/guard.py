"""One place where an expected error becomes one clear line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["main_guard"]


def main_guard(main: Callable[[], int | None], *, name: str) -> None:
    """Run ``main`` and leave the process: 0 on success, 1 with one line on stderr for ``ValueError``, 130 on Ctrl-C.

    ``ValueError`` covers every named error of the library (parameters, files, corpus, artifact). Anything else is a
    fault of the program and keeps its traceback.
    """
    try:
        code = main()
    except ValueError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)
