"""SDClip: the step of a row is a fixed multiple of its standard deviation, so the rate is chosen directly.

``R`` rows, ``C`` columns. With ``clip`` k and ``levels`` L the step is ``k * sigma / L``; a Gaussian row then costs
about ``log2(L / k) + 2.05`` bits a weight after entropy coding. Nothing is clipped although the name says so: entropy
coding makes the far integers free and hard limits are what wrecks outliers. Source: parameter-golf records of 04-05.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from golf.errors import GolfError
from golf.quantize.grid import MAX_VALUE, check_matrix, half_steps, round_rows
from golf.quantize.tensors import QuantizedTensor

__all__ = ["quantize_sdclip"]


def quantize_sdclip(
    name: str, weights: NDArray[np.floating], *, role: str, levels: int, clip: float
) -> QuantizedTensor:
    """Quantize ``weights`` (..., C) with one fp16 step ``clip * sigma_row / levels`` per row, integers int16.

    Two exceptions keep every row representable: a row without spread takes step ``max|w| / levels``, and a step is at
    least ``max|w| / 32767``. Raises ``ValueError`` naming the tensor for NaN, infinity, steps above fp16, or bad
    ``levels`` and ``clip``.
    """
    if not 1 <= levels <= 127:
        raise GolfError(f"{name}: levels is {levels}, wanted 1 to 127")
    if not (np.isfinite(clip) and clip > 0):
        raise GolfError(f"{name}: clip is {clip}, wanted a positive number of standard deviations")
    matrix = check_matrix(name, weights)
    largest = np.abs(matrix).max(axis=1).astype(np.float64)
    # a constant row has a computed sigma of rounding size, not exactly 0
    spread = matrix.max(axis=1) > matrix.min(axis=1)
    wanted = np.where(spread, clip * np.std(matrix, axis=1, dtype=np.float64) / levels, largest / levels)
    steps = half_steps(name, wanted)
    # rounding to fp16 may have lowered a step that was just wide enough: go up one fp16 number
    narrow = largest > steps.astype(np.float64) * MAX_VALUE
    steps = np.where(narrow, np.nextafter(half_steps(name, largest / MAX_VALUE), np.float16(np.inf)), steps)
    return QuantizedTensor(name, role, weights.shape, round_rows(matrix, steps, MAX_VALUE), steps)
