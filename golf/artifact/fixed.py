"""Integer tables that replace libm in every model the decoder must reproduce.

Decoding has to give the same integers on any machine, so no float may touch a probability. The three curves a
context mixer needs (logistic, its inverse, and the normal distribution) are computed once with ``decimal``, whose
``exp`` and ``ln`` are correctly rounded by specification, and rounded to integers.

Formats: ``Qk`` is a fixed-point number with ``k`` fractional bits. Logits are Q8 and clipped to [-2047, 2047];
probabilities are Q16 inside [1, 65535].
Source: stretch/squash mixing of PAQ (Mahoney 2005, "Adaptive weighing of context models"), wider tables.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import lru_cache

import numpy as np

__all__ = ["CDF_BITS", "CDF_LIMIT", "CDF_STEPS", "EXACT", "normal_cdf", "squash_table", "stretch_table"]

CDF_BITS = 28  # Q28 probabilities in the normal table
CDF_STEPS = 128  # table steps per standard deviation
CDF_LIMIT = 8  # the table covers [-8, 8] standard deviations
EXACT = Context(prec=24, rounding=ROUND_HALF_EVEN)


@lru_cache(maxsize=1)
def stretch_table() -> np.ndarray:
    """Logit of the middle of each 12-bit probability cell: int16 (4096,), Q8, in [-2047, 2047]."""
    with localcontext(EXACT):
        half = [int((256 * (Decimal(2 * i + 1) / (8191 - 2 * i)).ln()).to_integral_value()) for i in range(2048)]
    low = np.clip(np.array(half), -2047, 2047)
    return np.concatenate([low, -low[::-1]]).astype(np.int16)


@lru_cache(maxsize=1)
def squash_table() -> np.ndarray:
    """Logistic of a Q8 logit, at index ``logit + 2048``: int32 (4096,), Q16."""
    with localcontext(EXACT):
        high = [int((65536 / (1 + (-Decimal(s) / 256).exp())).to_integral_value()) for s in range(2048)]
    upper = np.array(high)
    lower = 65536 - np.concatenate([upper[1:], upper[-1:]])[::-1]
    return np.concatenate([lower, upper]).astype(np.int32)


@lru_cache(maxsize=1)
def normal_cdf() -> np.ndarray:
    """Standard normal distribution function: int32 (2 * CDF_LIMIT * CDF_STEPS + 1,), Q28.

    Entry ``i`` is at ``z = i / CDF_STEPS - CDF_LIMIT``; Simpson's rule on correctly rounded densities.
    """
    steps = CDF_LIMIT * CDF_STEPS
    with localcontext(EXACT):
        density = [(-Decimal(i * i) / (8 * CDF_STEPS**2)).exp() for i in range(2 * steps + 1)]
        cells = [density[2 * i] + 4 * density[2 * i + 1] + density[2 * i + 2] for i in range(steps)]
        total, running, half = sum(cells), Decimal(0), [1 << (CDF_BITS - 1)]
        for cell in cells:
            running += cell
            half.append((1 << (CDF_BITS - 1)) + int((running / total * (1 << (CDF_BITS - 1))).to_integral_value()))
    upper = np.array(half)
    return np.concatenate([(1 << CDF_BITS) - upper[:0:-1], upper]).astype(np.int32)
