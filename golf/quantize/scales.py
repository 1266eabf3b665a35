"""Row steps as integer codes: log2(step) in 1/8 octaves, entropy-coded instead of fp16 scales.

The step follows SDClip (parameter-golf record of 04-05): clip * sigma_row / 31 with sigma the standard deviation of
the row. Rounding its logarithm to 1/8 octave costs about 0.12 % of squared error at the same rate, and the codes of
a matrix take 2 to 3.5 bits per row instead of 16. Codes become float32 steps by a table of mantissas and ``ldexp``
(``golf.quantize.tensors.row_steps``): no logarithm or power is evaluated when decoding.

Shapes: R rows, C columns of a weight matrix.
"""

from __future__ import annotations

import numpy as np

from golf.errors import GolfError

__all__ = ["LEVELS", "StepError", "code_bits", "row_codes", "row_sigma", "step_codes"]

LEVELS = 31
"""``clip`` counts standard deviations up to this integer, as in the records' int6; integers are never clipped."""


class StepError(GolfError):
    """A quantization step cannot be coded; the message says which and what was wanted."""


def row_sigma(weights: np.ndarray) -> np.ndarray:
    """Standard deviation of each row about its mean, float64 (R,), of ``weights`` (R, C).

    Raises ``StepError`` for anything but a non-empty finite matrix.
    """
    weights = np.asarray(weights)
    if weights.ndim != 2 or 0 in weights.shape:
        raise StepError(f"weights: found shape {weights.shape}, wanted a matrix with rows and columns")
    sigma = np.std(weights, axis=1, dtype=np.float64)
    if not np.isfinite(sigma).all():
        row = int(np.flatnonzero(~np.isfinite(sigma))[0])
        raise StepError(f"weights: row {row} holds NaN or infinity; training diverged or the file is damaged")
    return sigma


def step_codes(steps: np.ndarray, *, per_octave: int) -> np.ndarray:
    """int8 (N,) codes round(per_octave * log2(step)) of ``steps`` (N,) >= 0.

    A step of 0 (constant row) takes the smallest code in use, so that it costs next to nothing. A step below the
    smallest code, 2 ** (-128 / per_octave), takes that code: such a row is zero next to any other. Raises
    ``StepError`` for a step above the largest code, a negative one, NaN or infinity.
    """
    steps = np.asarray(steps, dtype=np.float64)
    if steps.ndim != 1 or not np.isfinite(steps).all() or (steps < 0).any():
        raise StepError("steps: wanted a vector of finite numbers >= 0")
    used = steps > 0
    if not used.any():
        return np.zeros(len(steps), dtype=np.int8)
    codes = np.zeros(len(steps), dtype=np.int64)
    codes[used] = np.rint(np.log2(steps[used]) * per_octave).astype(np.int64)
    if codes.max() > 127:
        limit = 2 ** (127 / per_octave)
        raise StepError(f"steps: found {steps.max():.3g}, wanted at most {limit:.3g}; the weights are too large")
    codes[~used] = codes[used].min()
    return np.maximum(codes, -128).astype(np.int8)


def row_codes(weights: np.ndarray, *, clip: float) -> np.ndarray:
    """SDClip row codes int8 (R,) of ``weights`` (R, C): step = clip * sigma_row / 31, to the nearest 1/8 octave.

    ``clip`` is k of the records, in standard deviations: 12.85 gives about 3.33 bits per Gaussian weight, 16 and 20
    coarser steps at 3.0 and 2.7 bits. Rows cross code borders one by one as ``clip``
    moves, so the rate of a matrix follows it almost continuously. Raises ``StepError`` for bad weights or clip.
    """
    if not (np.isfinite(clip) and clip > 0):
        raise StepError(f"clip: found {clip}, wanted a positive number of standard deviations (12.85 is usual)")
    return step_codes(row_sigma(weights) * (clip / LEVELS), per_octave=8)


def code_bits(codes: np.ndarray) -> float:
    """Order-0 entropy of integer ``codes`` in bits per code, tables not included; 0.0 when empty."""
    counts = np.unique(np.asarray(codes), return_counts=True)[1]
    share = counts / max(1, counts.sum())
    return float(abs((share * np.log2(share)).sum()))
