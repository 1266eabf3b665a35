"""How the per-token functions are compiled.

``step``: inlined into its caller and without numba's reference counting, which took two thirds of the time; such code
must not allocate. ``caller``: calls functions of other files, so it is compiled anew in every process, because numba's
cache on disk does not see changes in the files a function calls into. No fast-math anywhere: same bits every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["caller", "counted_caller", "step"]

_STEP: dict[str, Any] = {"cache": True, "forceinline": True, "error_model": "numpy", "_nrt": False}
_CALLER: dict[str, Any] = {"forceinline": True, "error_model": "numpy", "_nrt": False}


def step(function: Callable[..., Any]) -> Any:
    """Compile a function that calls functions of its own file only."""
    return njit(**_STEP)(function)


def caller(function: Callable[..., Any]) -> Any:
    """Compile a function that calls functions of other files and allocates nothing."""
    return njit(**_CALLER)(function)


def counted_caller(function: Callable[..., Any]) -> Any:
    """Compile a function that calls functions of other files and may allocate."""
    return njit(error_model="numpy")(function)
