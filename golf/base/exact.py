"""Exponential and logarithm of elementwise IEEE operations alone: the same bits on any machine and build.

A library's exp and log differ in their last bits from build to build, and between the body and the tail of a vector
loop. These are fixed polynomials; every operation is rounded for itself, as IEEE 754 says.
"""

from __future__ import annotations

import numpy as np

from golf.base.jit import kernel, step

__all__ = ["LOWEST", "MAGIC", "exp", "exp_all", "log", "log_all", "power_of_two", "reduced"]

LOWEST = -708.0  # exp below it is that of it, 3e-308: the least number with all its digits
_HIGHEST = 709.0
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
MAGIC = 1.5 * 2.0**52  # adding and subtracting it rounds to an integer, half to even
_HALF = np.int64(0x3FE6A09E667F3BCD)  # bits of the root of 1/2
_FRACTION = np.int64(0xFFFFFFFFFFFFF)


@step
def reduced(x):  # type: ignore[no-untyped-def]
    """``k`` and ``r``: ``x`` is ``k`` times the logarithm of 2 and ``r``, within half of it."""
    k = (x * _LOG2E + MAGIC) - MAGIC
    return k, (x - k * _LN2_HIGH) - k * _LN2_LOW


@step
def power_of_two(k):  # type: ignore[no-untyped-def]
    """2^``k`` of a whole float64 ``k`` from -1022 to 1023."""
    return np.int64((np.int64(np.int32(k)) + 1023) << 52).view(np.float64)


@step
def exp(x):  # type: ignore[no-untyped-def]
    """e^``x``, relative error below 1e-14, for float64 held within -708 to 709."""
    x = x if x > LOWEST else LOWEST
    x = x if x < _HIGHEST else _HIGHEST
    k, r = reduced(x)
    p = 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * power_of_two(k)


@step
def log(x):  # type: ignore[no-untyped-def]
    """Natural logarithm of a normal float64 above 0, relative error below 1e-15; nonsense for anything else."""
    bits = np.float64(x).view(np.int64) - _HALF
    k = bits >> 52
    m = np.int64((bits & _FRACTION) + _HALF).view(np.float64)  # root of 1/2 to root of 2
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 1.0 / 21.0
    p = p * z + 1.0 / 19.0
    p = p * z + 1.0 / 17.0
    p = p * z + 1.0 / 15.0
    p = p * z + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 1.0 / 5.0
    p = p * z + 1.0 / 3.0
    rest = (s * z) * p
    e = np.float64(k)
    return e * _LN2_HIGH + (2.0 * s + (2.0 * rest + e * _LN2_LOW))


@kernel
def exp_all(x):  # type: ignore[no-untyped-def]
    """``exp`` of every element, as float64."""
    out = np.empty(x.shape, np.float64)
    result = out.reshape(x.size)
    for i, value in enumerate(x.flat):
        result[i] = exp(np.float64(value))
    return out


@kernel
def log_all(x):  # type: ignore[no-untyped-def]
    """``log`` of every element, as float64."""
    out = np.empty(x.shape, np.float64)
    result = out.reshape(x.size)
    for i, value in enumerate(x.flat):
        result[i] = log(np.float64(value))
    return out
