"""What every command and stage begins and ends with: its command line, its environment, its expected errors."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from golf.base.errors import GolfError
from golf.base.params import read_params

__all__ = ["environment_number", "main_guard", "printable", "run_stage"]

_LONGEST = 4000  # characters of a message


def run_stage(run: Callable[..., int | None], *, description: str | None, modes: Sequence[str] = ()) -> None:
    """Call ``run(params=..., root=...)`` of a file in ``stages/`` with its command line, and leave the process.

    ``description`` is the file's docstring. With ``modes`` the first argument is one of them: ``run(mode=..., ...)``.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}", description=description)
    if modes:
        parser.add_argument("mode", choices=modes)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    parser.add_argument("--root", type=Path, default=Path("."), help="folder of artifacts/ (default: .)")
    arguments = vars(parser.parse_args())

    def main() -> int | None:
        read_params(arguments["params"])  # a missing or unreadable file is told before anything heavy is imported
        return run(**arguments)

    main_guard(main, name=name)


def main_guard(main: Callable[[], int | None], *, name: str) -> None:
    """Run ``main`` and leave the process: 0 on success, 1 with one line on stderr for an expected error, 130 on Ctrl-C.

    Expected are ``GolfError``, the parent of every named error of the library, and ``OSError`` (a full disk, a missing
    permission, a folder in a file's place), told with the name of its file. Anything else, a ``ValueError`` of numpy
    or torch too, is a fault of the program and keeps its traceback.
    """
    for stream in ("stdout", "stderr"):  # a closed one is None, and its number free for the next file that is opened
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
    if isinstance(sys.stdout, io.TextIOWrapper):  # what goes into a file is the same in every locale
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
            for part in os.environ.get(variable, "").split(","):
                environment_number({variable: part}, variable, 1)
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


def environment_number(environment: Mapping[str, str], name: str, default: int, *, least: int = 1) -> int:
    """The whole number that the variable ``name`` holds, ``default`` where it is not set or empty.

    Raises ``GolfError`` naming the variable for anything else than ``least`` to 65536.
    """
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text[:9]) <= 1 << 16):
        raise GolfError(f"environment variable {name}: found {text[:40]!r}, expected a whole number, {least} to 65536")
    return int(text)


def printable(text: str) -> str:
    """``text`` for a terminal: characters that would act on it (escapes, returns) are shown by their numbers."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _about(error: OSError) -> str:
    """The error's file and reason. The system names none for a write; ``golf.base.files`` names its own."""
    reason = error.strerror or str(error) or type(error).__name__
    files = [str(file) for file in (error.filename, error.filename2) if file is not None]
    unnamed = "standard output" if isinstance(error, BrokenPipeError) else "standard output or a file in writing"
    return f"{' -> '.join(files) or unnamed}: {reason}"


def _tell(name: str, text: str) -> int:
    """One line, whatever a file has put into the message: nothing that a terminal obeys, and no book."""
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    print(printable(f"{name}: {cut}").replace("\n", "\\n"), file=sys.stderr)
    return 1
