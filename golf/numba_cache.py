"""numba's cache on disk for kernels with parts in other files.

numba compiles a function anew when its own file changes and sees no change of the files whose functions it calls. But
what a function closes over is part of the cache's key: a checksum of those files, closed over, makes the cache safe.
"""

from __future__ import annotations

import inspect
import types
import zlib
from collections.abc import Callable
from typing import Any

__all__ = ["jit_with_parts", "source_stamp"]


def source_stamp(*modules: types.ModuleType) -> int:
    """A checksum of the modules' source texts; 0 where there is none to read."""
    try:
        return zlib.crc32("".join(inspect.getsource(module) for module in modules).encode())
    except (OSError, TypeError):
        return 0


def jit_with_parts(function: Callable[..., Any], stamp: int, **options: Any) -> Any:
    """``numba.njit(**options)`` of a plain function, kept on disk for as long as its file and ``stamp`` stay.

    Without the cache where the source file allows none (a file inside a zip).
    """
    import numba

    assert not function.__code__.co_freevars, "a second closure would hide the stamp"
    code = function.__code__.replace(co_freevars=("stamp",))
    keyed = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, (types.CellType(stamp),)
    )
    keyed.__qualname__, keyed.__module__, keyed.__doc__ = function.__qualname__, function.__module__, function.__doc__
    try:
        return numba.njit(cache=True, **options)(keyed)
    except RuntimeError:
        return numba.njit(**options)(keyed)
