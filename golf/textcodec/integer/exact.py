"""Arithmetic in float64 whose results have no rounding that depends on order, shape, threads or instruction set.

Two kinds of operation are allowed. (1) Sums of products of *snapped* numbers: integers of stated bits times a power of
two that all terms of one sum share. They are taken in integers (``product``), so any order, any blocking and any
instruction gives the same. (2) Elementwise add, subtract, multiply, divide, square root and rounding, which IEEE 754
defines to the last bit, each as an operation of its own. Library functions (exp, tanh, sin, pow) are neither: their
last bit differs between builds, and between the body and the tail of a vector loop. The exponential is therefore a
fixed polynomial of such operations.
"""

from __future__ import annotations

import math

import numpy as np

from golf.base.errors import GolfError
from golf.base.exact import MAGIC, power_of_two, reduced
from golf.base.jit import step
from golf.textcodec.integer.product import GROUP

__all__ = [
    "ATTENTION_BITS", "LOGIT_STEPS", "POWERS", "ROW_BITS", "WEIGHT_BITS", "ZERO", "IntegerError",
    "exp_nonpositive", "grid", "sigmoid", "snap_row", "snapped",
]  # fmt: skip

ROW_BITS, WEIGHT_BITS = 13, 11  # of rows that enter a matrix, and of its weights
ATTENTION_BITS = 12  # of queries, keys, softmax weights and values
LOGIT_STEPS = 1024  # logits are integers of 1 / 1024 nat
ZERO = 256
POWERS = np.array([math.ldexp(1.0, n) for n in range(-ZERO, ZERO + 1)])
assert GROUP << max(ROW_BITS + WEIGHT_BITS, 2 * ATTENTION_BITS) < 1 << 31, "32-bit sums are exact"
_MASK = np.int64(0x7FFFFFFFFFFFFFFF)
_LOWEST = -64.0  # exp below it is 0 at every precision used here


class IntegerError(GolfError):
    """A model or a size has no exact integer form; the message says which and what to use instead."""


@step
def exp_nonpositive(x):  # type: ignore[no-untyped-def]
    """e^``x`` of ``x`` <= 0, relative error below 1e-8; below -64 that of -64."""
    x = x if x > _LOWEST else _LOWEST
    k, r = reduced(x)
    p = 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * power_of_two(k)


@step
def snap_row(x, r, size, left):  # type: ignore[no-untyped-def]
    """Row ``r`` of ``x`` (., size) as integers in ``left``; their unit, a power of two. A row whose magnitude is no
    number of this arithmetic has the unit 0."""
    bits, top = x.view(np.int64), np.int64(0)
    for c in range(size):
        top = max(top, bits[r, c] & _MASK)
    exponent = max((top >> 52) - 1022, -ZERO + 56)
    if exponent > ZERO - 56:
        return 0.0
    scale = POWERS[ZERO + ROW_BITS - exponent]
    for c in range(size):
        left[r, c] = np.int16(np.int32((x[r, c] * scale + MAGIC) - MAGIC))
    return POWERS[ZERO + exponent - ROW_BITS]


@step
def grid(value, scale):  # type: ignore[no-untyped-def]
    """``value`` on the grid of all rows, held within its 2^12 steps."""
    limit = np.float64(1 << ATTENTION_BITS)
    return min(max((value * scale + MAGIC) - MAGIC, -limit), limit)


@step
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e^-``x``)."""
    small = exp_nonpositive(-abs(x))
    return (1.0 if x >= 0.0 else small) / (1.0 + small)


def snapped(rows: np.ndarray, bits: int, kind: type = np.int16) -> tuple[np.ndarray, np.ndarray]:
    """Integers (R, C) of ``bits`` bits and the power of two (R,) that each row has for itself."""
    exponent = np.maximum(np.frexp(np.abs(rows).max(axis=1))[1], 56 - ZERO)
    integers = np.rint(np.ldexp(rows, (bits - exponent)[:, None])).astype(kind)
    return integers, np.ldexp(1.0, exponent - bits)
