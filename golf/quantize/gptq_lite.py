"""GPTQ-lite: symmetric integers per row, the clip of each row searched over percentiles of its magnitudes.

``R`` rows, ``C`` columns. Despite the name no Hessian is involved. Source: parameter-golf PR #414 (wide percentile
grid, fp16 scale inside the search) and #148 (search per row).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError
from golf.quantize.rounding import check_matrix, half_steps, round_rows, row_errors
from golf.quantize.tensors import QuantizedTensor

__all__ = ["PERCENTILES", "quantize_gptq_lite"]

PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
_CHUNK_WEIGHTS = 1 << 22  # rows are handled in chunks of about this many weights, to bound memory


def quantize_gptq_lite(
    name: str,
    weights: NDArray[np.floating],
    *,
    role: str,
    levels: float,
    percentiles: Sequence[float] = PERCENTILES,
) -> QuantizedTensor:
    """Quantize ``weights`` (..., C) to integers in ``-levels..levels`` with one fp16 step per row.

    ``levels`` may lie between two whole numbers, for steps of any width; integers then reach the nearer one.
    Per row and percentile p: clip = p-quantile of ``|w|`` (linear interpolation), step = clip / levels rounded to fp16,
    squared error with that very step; the first percentile with the smallest error wins. Raises ``GolfError`` naming
    the tensor for NaN, infinity or steps above fp16, and for bad levels or percentiles.
    """
    if not 1 <= levels <= 127:
        raise GolfError(f"{name}: levels is {levels}, expected 1 to 127")
    if not percentiles or not all(0.0 < p <= 1.0 for p in percentiles):
        raise GolfError(f"{name}: percentiles are {list(percentiles)}, expected at least one in (0, 1]")
    matrix = check_matrix(name, weights)
    rows_at_once = max(1, _CHUNK_WEIGHTS // matrix.shape[1])
    chunks = [
        _search(name, matrix[start : start + rows_at_once], levels, percentiles)
        for start in range(0, len(matrix), rows_at_once)
    ]
    steps = np.concatenate(chunks)
    return QuantizedTensor(name, role, weights.shape, round_rows(matrix, steps, round(levels)), steps)


def _quantile(ordered: NDArray[np.float32], p: float) -> NDArray[np.float32]:
    """The p-quantile of each row of ``ordered`` (R, C), ascending, by linear interpolation."""
    position = p * (ordered.shape[1] - 1)
    below = int(position)
    above = min(below + 1, ordered.shape[1] - 1)
    share = np.float32(position - below)
    return ordered[:, below] + (ordered[:, above] - ordered[:, below]) * share


def _search(
    name: str,
    matrix: NDArray[np.float32],
    levels: float,
    percentiles: Sequence[float],
) -> NDArray[np.float16]:
    ordered = np.sort(np.abs(matrix), axis=1)
    best = np.full(len(matrix), np.inf)
    chosen = np.zeros(len(matrix), np.float16)
    for p in percentiles:
        steps = half_steps(name, _quantile(ordered, p) / np.float32(levels))
        errors = row_errors(matrix, round_rows(matrix, steps, round(levels)), steps)
        better = errors < best
        best, chosen = np.where(better, errors, best), np.where(better, steps, chosen)
    return chosen
