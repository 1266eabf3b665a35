"""What all plain row quantizers share: input checks, fp16 steps, rounding, and error measures.

``R`` rows, ``C`` columns of a float32 matrix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from golf.errors import GolfError

__all__ = [
    "FLOOR",
    "MAX_VALUE",
    "SMALLEST_HALF",
    "check_matrix",
    "half_steps",
    "order0_bits",
    "round_rows",
    "row_errors",
]

FLOOR = 1e-12  # smallest step asked for; the public baseline's floor of 1/levels wrecked rows of small weights
SMALLEST_HALF = float(np.finfo(np.float16).smallest_subnormal)  # 2^-24: what the floor becomes once stored as fp16
MAX_VALUE = (1 << 15) - 1  # integers are int16


def check_matrix(name: str, weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """``weights`` as float32 rows (all axes but the last joined); ``ValueError`` names the tensor and what is wrong."""
    if weights.ndim < 2 or 0 in weights.shape:
        raise GolfError(f"{name}: shape {weights.shape} cannot be quantized by rows, wanted a matrix")
    matrix = np.ascontiguousarray(weights, np.float32).reshape(-1, weights.shape[-1])
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise GolfError(f"{name}: row {row} holds NaN or infinity; training diverged, see artifacts/train/history.tsv")
    return matrix


def half_steps(name: str, steps: NDArray[np.floating]) -> NDArray[np.float16]:
    """Steps as fp16, never 0 and never infinite; ``ValueError`` names the tensor when one is above 65,504."""
    if steps.size and steps.max() > float(np.finfo(np.float16).max):
        raise GolfError(f"{name}: a row step of {steps.max():.6g} does not fit fp16 (65504 at most); weights exploded")
    return np.maximum(np.maximum(steps, FLOOR).astype(np.float16), np.float16(SMALLEST_HALF))


def round_rows(matrix: NDArray[np.float32], steps: NDArray[np.float16], most: int) -> NDArray[np.int16]:
    """Nearest integers (R, C) of ``matrix / step`` (ties to even), held within ``-most..most``."""
    scaled = np.rint(matrix / steps.astype(np.float32)[:, None])
    return np.clip(scaled, -most, most).astype(np.int16)


def row_errors(
    matrix: NDArray[np.float32],
    values: NDArray[np.int16],
    steps: NDArray[np.float16],
    hessian: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Squared error of each row (R,) float64, reconstructed in float32 exactly as the decoder does.

    With ``hessian`` H (C, C) that of what the row gives: (w - ŵ) H (w - ŵ)^T.
    """
    rebuilt = values.astype(np.float32) * steps.astype(np.float32)[:, None]
    difference = matrix.astype(np.float64) - rebuilt
    weighted = difference if hessian is None else difference @ hessian.astype(np.float64)
    return (difference * weighted).sum(axis=1)


def order0_bits(values: NDArray[np.integer]) -> float:
    """Empirical entropy of ``values`` (any shape) taken as one source, in bits for all of them together."""
    if values.size == 0:
        return 0.0
    counts = np.bincount(values.ravel().astype(np.int64) - int(values.min()))
    counts = counts[counts > 0]
    return max(0.0, float(-(counts * np.log2(counts / values.size)).sum()))
