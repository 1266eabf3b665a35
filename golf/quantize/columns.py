"""Column steps by reverse water-filling: the input channels that matter most get the finest grid.

With H the Hessian of a layer's inputs and U the upper Cholesky factor of its inverse, the GPTQ loss is the sum over
columns of (error_j * d_j) ** 2 with d_j = 1 / U_jj. At a fixed sum of log steps (a fixed rate) it is smallest when
step_j * d_j is constant: exponent 1. Exponent 0.5 keeps half of that in logarithm, for a Hessian from few samples;
exponent 0 is no column step. Source: reverse water-filling, Cover & Thomas ch. 10; WaterSIC (arXiv 2603.04956).

Shapes: C columns (input channels).
"""

from __future__ import annotations

import numpy as np

from golf.quantize.scales import StepError, step_codes

__all__ = ["column_codes"]


def column_codes(importance: np.ndarray, *, exponent: float) -> np.ndarray:
    """int8 (C,) codes, in 1/4 octave, of column steps ~ importance ** -exponent with geometric mean near 1.

    ``importance`` is d_j = 1 / U_jj in storage order (``Factor.importance_in_storage_order``), (C,) and positive. The
    geometric mean of 1 leaves the mean log2 step, hence the rate, where the row steps put it. The float steps are
    ``golf.quantize.tensors.column_steps(codes)``. Raises ``StepError`` for an importance that is not positive and
    finite or an exponent outside [0, 1].
    """
    importance = np.asarray(importance, dtype=np.float64)
    if not 0 <= exponent <= 1:
        raise StepError(f"exponent: found {exponent}, wanted a number from 0 (no column steps) to 1 (water-filling)")
    if importance.ndim != 1 or not len(importance) or not np.isfinite(importance).all() or (importance <= 0).any():
        raise StepError("importance: wanted a vector of positive finite numbers, 1 / diagonal of chol(H^-1)")
    log_step = -exponent * np.log2(importance)
    return step_codes(np.exp2(log_step - log_step.mean()), per_octave=4)
