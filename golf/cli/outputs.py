"""What a command will write is tried before its work, so that no minutes are lost to a missing permission."""

from __future__ import annotations

import contextlib
from pathlib import Path

from golf.base.files import atomic_directory, atomic_file

__all__ = ["tried"]


class _Tried(Exception):
    """Leaves an output before anything is renamed."""


def tried(path: str | Path | None, *, folder: bool = False) -> None:
    """Raise ``FileError`` now where a file (or a ``folder``) could not be written at ``path`` later; None is no output.

    Folders above it are made, nothing else is left.
    """
    if path is not None:
        with contextlib.suppress(_Tried), (atomic_directory if folder else atomic_file)(path):
            raise _Tried
