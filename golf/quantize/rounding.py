"""Plain rounding: input checks, fp16 steps, error measures, the quantizer `sdclip`, and control tensors.

``R`` rows, ``C`` columns of a float32 matrix. SDClip: the step of a row is a fixed multiple of its standard deviation,
so the rate is chosen directly; with ``clip`` k and ``levels`` L a Gaussian row costs about ``log2(L / k) + 2.05`` bits
a weight after entropy coding. Nothing is clipped although the name says so: entropy coding makes the far integers free
and hard limits are what wrecks outliers. Source: parameter-golf records of 04-05.

Control tensors (vectors, scalars, mixing weights) become fp16. Ten of its sixteen bits are mantissa that no lossless
coder removes, and training does not set most of them; multiples of a power of two have zeros there instead, which the
file's byte planes under zstd do not pay for. Rounding happens here, so the score of the artifact knows it.

GPTQ-lite: symmetric integers per row, the clip of each row searched over percentiles of its magnitudes. Despite the
name no Hessian is involved. Source: parameter-golf PR #414 (wide percentile grid, fp16 scale inside the search) and
#148 (search per row).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError
from golf.base.tensor_file import LARGE
from golf.quantize.steps import row_steps_by_spread
from golf.quantize.tensors import QuantizedTensor

__all__ = [
    "MAX_VALUE", "PERCENTILES", "SMALLEST_HALF", "check_matrix", "entropy_bits", "half_steps", "quantize_gptq_lite",
    "quantize_sdclip", "round_rows", "row_errors", "stored_control",
]  # fmt: skip

_FLOOR = 1e-12  # smallest step asked for; the public baseline's floor of 1/levels wrecked rows of small weights
_HALF_MAX = float(np.finfo(np.float16).max)
SMALLEST_HALF = float(np.finfo(np.float16).smallest_subnormal)  # 2^-24: what the floor becomes once stored as fp16
MAX_VALUE = (1 << 15) - 1  # integers are int16


def check_matrix(name: str, weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """``weights`` as float32 rows (all axes but the last joined); ``GolfError`` names the tensor and what is wrong."""
    if weights.ndim < 2 or 0 in weights.shape:
        raise GolfError(f"{name}: shape {weights.shape} cannot be quantized by rows, expected a matrix")
    matrix = np.ascontiguousarray(weights, np.float32).reshape(-1, weights.shape[-1])
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise GolfError(f"{name}: row {row} holds NaN or infinity; training diverged, see artifacts/train/history.tsv")
    return matrix


def half_steps(name: str, steps: NDArray[np.floating]) -> NDArray[np.float16]:
    """Steps as fp16, never 0 and never infinite; ``GolfError`` names the tensor when one is above 65,504."""
    if steps.size and steps.max() > _HALF_MAX:
        raise GolfError(f"{name}: a row step of {steps.max():.6g} does not fit fp16 (65504 at most); weights exploded")
    return np.maximum(np.maximum(steps, _FLOOR).astype(np.float16), np.float16(SMALLEST_HALF))


def round_rows(matrix: NDArray[np.float32], steps: NDArray[np.float16], largest: int) -> NDArray[np.int16]:
    """Nearest integers (R, C) of ``matrix / step`` (ties to even), held within ``-largest..largest``."""
    scaled = np.rint(matrix / steps.astype(np.float32)[:, None])
    return np.clip(scaled, -largest, largest).astype(np.int16)


def row_errors(
    matrix: NDArray[np.float32], values: NDArray[np.int16], steps: NDArray[np.float16]
) -> NDArray[np.float64]:
    """Squared error of each row (R,) float64, reconstructed in float32 exactly as the decoder does."""
    rebuilt = values.astype(np.float32) * steps.astype(np.float32)[:, None]
    difference = matrix.astype(np.float64) - rebuilt
    return (difference * difference).sum(axis=1)


def entropy_bits(values: NDArray[np.integer]) -> float:
    """Empirical order-0 code length of all ``values`` (any shape) together, in bits; tables not counted."""
    if values.size == 0:
        return 0.0
    flat, low = values.ravel(), int(values.min())
    counts = np.zeros(int(values.max()) - low + 1, np.int64)
    for i in range(0, flat.size, LARGE):
        counts += np.bincount(flat[i : i + LARGE].astype(np.int64) - low, minlength=len(counts))
    counts = counts[counts > 0]
    return abs(float(-(counts * np.log2(counts / flat.size)).sum()))  # abs: a constant gives -0.0


def quantize_sdclip(
    name: str, weights: NDArray[np.floating], *, role: str, levels: int, clip: float
) -> QuantizedTensor:
    """Quantize ``weights`` (..., C) with one fp16 step ``clip * sigma_row / levels`` per row, integers int16.

    Two exceptions keep every row representable: a row without spread takes step ``max|w| / levels``, and a step is at
    least ``max|w| / 32767``. Raises ``GolfError`` naming the tensor for NaN, infinity, steps above fp16, or bad
    ``levels`` and ``clip``.
    """
    if not 1 <= levels <= 127:
        raise GolfError(f"{name}: levels is {levels}, expected 1 to 127")
    if not (np.isfinite(clip) and clip > 0):
        raise GolfError(f"{name}: clip is {clip}, expected a positive number of standard deviations")
    matrix = check_matrix(name, weights)
    largest = np.abs(matrix).max(axis=1).astype(np.float64)
    # a constant row has a computed sigma of rounding size, not exactly 0
    has_spread = matrix.max(axis=1) > matrix.min(axis=1)
    steps = np.where(has_spread, row_steps_by_spread(matrix, clip=clip, levels=levels), largest / levels)
    halves = half_steps(name, steps)
    # rounding to fp16 may have lowered a step that was just wide enough: go up one fp16 number
    narrow = largest > halves.astype(np.float64) * MAX_VALUE
    halves = np.where(narrow, np.nextafter(half_steps(name, largest / MAX_VALUE), np.float16(np.inf)), halves)
    return QuantizedTensor(name, role, weights.shape, round_rows(matrix, halves, MAX_VALUE), halves)


def stored_control(name: str, weights: NDArray[np.float32], *, step: float) -> NDArray[Any]:
    """``weights`` (any shape) as fp16, or fp32 where a number leaves the fp16 range; rounded first when ``step`` > 0.

    They become multiples of the largest power of two that is at most ``step`` times their root mean square. Raises
    ``GolfError`` naming the tensor for NaN or infinity.
    """
    if not np.isfinite(weights).all():
        raise GolfError(f"{name}: holds NaN or infinity; training diverged, see artifacts/train/history.tsv")
    if step and weights.any():
        size = float(np.sqrt(np.mean(np.square(weights, dtype=np.float64))))
        grid = 2.0 ** np.floor(np.log2(step * size))
        weights = (np.rint(weights.astype(np.float64) / grid) * grid).astype(np.float32)
    fits = weights.size == 0 or float(np.abs(weights).max()) <= _HALF_MAX
    return weights.astype(np.float16 if fits else np.float32)


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
    squared error with that very step; the first percentile with the smallest error wins. Raises ``ValueError`` naming
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
