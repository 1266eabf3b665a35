"""All that decides a quantization step: of a row by its spread and its damage, of a column by its Hessian.

Row: the step is clip * sigma_row / levels, with sigma the standard deviation of the row; entropy coding turns it into a
rate, and nothing is clipped although the parameter of the public records has that name (SDClip, parameter-golf records
of 04-05). Stored as log2(step) in 1/8 octaves, entropy-coded instead of fp16 scales: rounding costs about 0.12 % of
squared error at the same rate, and the codes of a matrix take 2 to 3.5 bits per row instead of 16.

Column: reverse water-filling, the input channels that matter most get the finest grid. With H the Hessian of a layer's
inputs and U the upper Cholesky factor of its inverse, the GPTQ loss is the sum over columns of (error_j * d_j) ** 2
with d_j = 1 / U_jj. At a fixed sum of log steps (a fixed rate) it is smallest when step_j * d_j is constant, exponent
1. Exponent 0.5 keeps half of that in logarithm, for a Hessian from few samples.

Damage: rows of all matrices and tables by what a squared step costs, measured (``golf.quantize.sensitivity``); it spans
orders of magnitude. At a fixed sum of log steps the sum of damage_r * step_r ** 2 over all rows is least for steps ~
damage ** -1/2, whatever the spread of a row, so the rule also says which matrices get the bits. Half to three quarters
of it in logarithm, exponents 1/4 to 3/8, was best on held-out text: the damage is that of the calibration text.

Only the encoder knows of all this; codes become float32 steps by a table and ``ldexp`` (``golf.quantize.tensors``), no
logarithm or power is evaluated when decoding. Sources: reverse water-filling, Cover & Thomas ch. 10; WaterSIC (arXiv
2603.04956). Shapes: R rows, C columns of a weight matrix, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError
from golf.base.tensor_file import LARGE

__all__ = ["StepError", "column_codes", "row_codes", "row_factors", "row_steps_by_spread", "step_codes"]

_LARGEST = 16000.0  # a row's largest integer before feedback, half of what the kernels accept
_WIDEST = 2.5  # octaves by which a row's damage may move its step


class StepError(GolfError):
    """A quantization step cannot be coded; the message names the tensor and what was expected."""


def row_steps_by_spread(matrix: NDArray[np.floating], *, clip: float, levels: int) -> NDArray[np.float64]:
    """Steps (R,) of ``matrix`` (R, C): clip * sigma_row / levels, before any rounding of the step."""
    return _spreads(matrix) * (clip / levels)


def _spreads(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standard deviation of each row, (R,); in parts, for its steps are float64."""
    some = max(1, LARGE // matrix.shape[1])
    parts = [np.std(matrix[i : i + some], axis=1, dtype=np.float64) for i in range(0, len(matrix), some)]
    return np.concatenate(parts)


def row_codes(
    matrix: NDArray[np.float32],
    *,
    clip: float,
    levels: int,
    factors: NDArray[np.float64] | None = None,
    name: str = "weights",
) -> NDArray[np.int8]:
    """Row codes int8 (R,) of ``matrix`` (R, C): ``row_steps_by_spread`` times ``factors`` (R,), to 1/8 octave.

    A step is at least max|w| / 16000, for a row without spread and for one far outlier. Rows cross code borders one by
    one as ``clip`` moves, so the rate of a matrix follows it almost continuously. Raises ``StepError`` for steps that
    are too large.
    """
    steps = row_steps_by_spread(matrix, clip=clip, levels=levels)
    steps = steps if factors is None else steps * factors
    floor = np.maximum(matrix.max(axis=1), -matrix.min(axis=1)).astype(np.float64) / _LARGEST
    return step_codes(np.maximum(steps, floor), per_octave=8, name=name)


def step_codes(steps: NDArray[np.floating], *, per_octave: int, name: str = "weights") -> NDArray[np.int8]:
    """int8 (N,) codes round(per_octave * log2(step)) of ``steps`` (N,) >= 0.

    A step of 0 (row of zeros) takes the smallest code in use, so that it costs next to nothing. A step below the
    smallest code, 2 ** (-128 / per_octave), takes that code: such a row is zero next to any other. Raises
    ``StepError`` naming ``name`` for a step above the largest code, a negative one, NaN or infinity.
    """
    steps = np.asarray(steps, dtype=np.float64)
    if steps.ndim != 1 or not np.isfinite(steps).all() or (steps < 0).any():
        raise StepError(f"{name}: its steps must be finite numbers >= 0; the weights are damaged or too large")
    used = steps > 0
    if not used.any():
        return np.zeros(len(steps), dtype=np.int8)
    codes = np.zeros(len(steps), dtype=np.int64)
    codes[used] = np.rint(np.log2(steps[used]) * per_octave).astype(np.int64)
    if codes.max() > 127:
        limit = 2 ** (127 / per_octave)
        raise StepError(
            f"{name}: found a step of {steps.max():.3g}, expected {limit:.3g} at most; its weights are too large"
        )
    codes[~used] = codes[used].min()
    return np.maximum(codes, -128).astype(np.int8)


def column_codes(importance: NDArray[np.floating], *, exponent: float, name: str = "weights") -> NDArray[np.int8]:
    """int8 (C,) codes, in 1/4 octave, of column steps ~ importance ** -exponent with geometric mean near 1.

    ``importance`` is d_j = 1 / U_jj in storage order (``Factor.importance_in_storage_order``), (C,) and positive. The
    geometric mean of 1 leaves the mean log2 step, hence the rate, where the row steps put it. The float steps are
    ``golf.quantize.tensors.column_steps(codes)``. Raises ``StepError`` for an importance that is not positive and
    finite or an exponent outside [0, 1].
    """
    importance = np.asarray(importance, dtype=np.float64)
    if not 0 <= exponent <= 1:
        raise StepError(f"exponent: found {exponent}, expected a number from 0 (no column steps) to 1 (water-filling)")
    if importance.ndim != 1 or not len(importance) or not np.isfinite(importance).all() or (importance <= 0).any():
        raise StepError(f"{name}: importance must be positive finite numbers, 1 / diagonal of chol(H^-1)")
    log_step = -exponent * np.log2(importance)
    return step_codes(np.exp2(log_step - log_step.mean()), per_octave=4, name=name)


def row_factors(
    damages: Mapping[str, NDArray[np.floating]], matrices: Mapping[str, NDArray[np.floating]], *, exponent: float
) -> dict[str, NDArray[np.float64]]:
    """Factors (R,) by name on row steps that are proportional to the spread sigma of the rows of ``matrices`` (R, C).

    (damage * sigma ** 2) ** -exponent, 2.5 octaves at most, of geometric mean about 1 over all weights; exponent
    0 leaves the steps as they are, 0.5 makes them ~ damage ** -1/2. ``damages`` (R,) >= 0 are per squared step.
    """
    logs, weights = {}, {}
    for name, damage in damages.items():
        sigma = _spreads(matrices[name])
        sigma = np.maximum(sigma, 1e-3 * float(sigma.mean()) or 1.0)  # a constant row keeps a step of usual size
        floor = 1e-12 * float(damage.mean()) or 1.0
        logs[name] = -exponent * (np.log2(np.maximum(damage, floor)) + 2 * np.log2(sigma))
        weights[name] = matrices[name].size
    for _ in range(2):  # the second mean is of what the limit left
        total = sum(weights.values())
        mean = sum(float(log.mean()) * weights[name] for name, log in logs.items()) / max(1, total)
        logs = {name: np.clip(log - mean, -_WIDEST, _WIDEST) for name, log in logs.items()}
    return {name: np.exp2(log) for name, log in logs.items()}
