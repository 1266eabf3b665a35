"""How the per-token functions are compiled.

``step``: inlined into its caller and without numba's reference counting, which took two thirds of the time; such code
must not allocate. ``caller``: calls functions of other files, whose checksum (``stamp``) keeps its cache on disk true.
No fast-math anywhere: same bits every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from golf.numba_cache import jit_with_parts

__all__ = ["caller", "counted_caller", "step"]

_CALLER: dict[str, Any] = {"forceinline": True, "error_model": "numpy", "_nrt": False}


def step(function: Callable[..., Any]) -> Any:
    """Compile a function that calls functions of its own file only."""
    return njit(cache=True, **_CALLER)(function)


def caller(stamp: int) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that calls functions of the files behind ``stamp`` and allocates nothing."""
    return lambda function: jit_with_parts(function, stamp, **_CALLER)


def counted_caller(stamp: int) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that calls functions of the files behind ``stamp`` and may allocate."""
    return lambda function: jit_with_parts(function, stamp, error_model="numpy")
