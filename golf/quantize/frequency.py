"""Finer steps for the rows of frequent tokens: reverse water-filling over the rows of a table with one row per token.

An error in row v of a lookup table is met as often as token v is read, and as a row of the output head it moves the
loss by about p_v (1 - p_v): in both uses damage grows with the frequency f_v of the token, and natural text makes f_v
range over orders of magnitude. At a fixed sum of log steps the sum of f_v * step_v ** 2 is least for steps ~ f_v **
-1/2, whatever the spread of a row. Only the encoder knows of this: the steps travel as row codes like all others.
Source: reverse water-filling, Cover & Thomas ch. 10.

Shapes: V vocabulary, C columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from golf.errors import GolfError

__all__ = ["row_factors"]

_SMOOTHING = 0.05  # of the mean count, added to each: a token that training never showed may still come


def row_factors(matrix: NDArray[np.floating], counts: NDArray[np.integer], *, exponent: float) -> NDArray[np.float64]:
    """Factors (V,) on row steps that are proportional to the spread sigma of the rows of ``matrix`` (V, C).

    (f * sigma ** 2) ** -exponent with geometric mean 1, so the mean log step stays: exponent 0 leaves the steps as they
    are, 0.5 makes them ~ f ** -1/2. ``counts`` (V,) are of the training tokens. Raises ``ValueError`` for counts that
    do not fit or are all zero, or an exponent outside [0, 0.5].
    """
    if not 0 <= exponent <= 0.5:
        raise GolfError(f"token_exponent: found {exponent}, wanted 0 (off) to 0.5 (water-filling)")
    if counts.shape != (len(matrix),) or counts.min(initial=0) < 0 or not counts.any():
        raise GolfError(f"counts: found shape {counts.shape}, wanted {len(matrix)} token counts, not all of them zero")
    shares = counts / counts.mean() + _SMOOTHING
    sigma = np.std(matrix, axis=1, dtype=np.float64)
    sigma = np.maximum(sigma, 1e-3 * float(sigma.mean()) or 1.0)  # a constant row keeps a step of usual size
    log_factor = -exponent * (np.log2(shares) + 2 * np.log2(sigma))
    factors: NDArray[np.float64] = np.exp2(log_factor - log_factor.mean())
    return factors
