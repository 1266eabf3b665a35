"""Fused loops of the integer-exact network on a CPU; ``exact`` beside it has the same operations one by one.

No multiplication is fused with an addition and nothing is reordered, except in the functions marked ``_EXACT``:
their sums are of snapped numbers (or maxima), so that order and fusion cannot change a bit.

Shapes: R rows, C columns; for attention B streams, K key/value heads, G queries of each, t tokens, C keys, E width
of a head.
"""

from __future__ import annotations

import math

import numpy as np

from golf.base.jit import kernel, step

__all__ = [
    "LOG2E", "LN2_HIGH", "LN2_LOW", "LOWEST", "TAYLOR", "attend_one", "cap_rows", "norm_rows", "snap_rows",
    "snap_squares", "weigh_rows",
]  # fmt: skip

LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
LOWEST = -64.0  # exp below it is 0 at every precision used here
TAYLOR = tuple(1.0 / math.factorial(n) for n in range(11, -1, -1))  # |r| <= ln(2) / 2: 1e-14
_MAGIC = 1.5 * 2.0**52  # adding and subtracting it rounds to an integer, half to even
_MASK = np.int64(0x7FFFFFFFFFFFFFFF)
_ZERO = 256
_POWERS = np.array([math.ldexp(1.0, n) for n in range(-_ZERO, _ZERO + 1)])
_EXACT = {"reassoc", "contract", "nsz", "nnan"}


@kernel(fastmath=_EXACT)
def _sum_squares(row):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(len(row)):
        total += row[c] * row[c]
    return total


@kernel(fastmath=_EXACT)
def _dot(left, right):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(len(left)):
        total += left[c] * np.float64(right[c])
    return total


@kernel(fastmath=_EXACT)
def _highest(row):  # type: ignore[no-untyped-def]
    top = row[0]
    for c in range(1, len(row)):
        top = row[c] if row[c] > top else top
    return top


@kernel
def _exponent(row_bits):  # type: ignore[no-untyped-def]
    """As ``exponent_above`` of the largest magnitude, from the bits of the row: integers compare as floats do."""
    top = np.int64(0)
    for c in range(len(row_bits)):
        top = max(top, row_bits[c] & _MASK)
    return min(max((top >> 52) - 1022, -200), 200)


@kernel
def _snap_row(row, exponent, bits, out):  # type: ignore[no-untyped-def]
    scale, unit = _POWERS[_ZERO + bits - exponent], _POWERS[_ZERO + exponent - bits]
    for c in range(len(row)):
        out[c] = ((row[c] * scale + _MAGIC) - _MAGIC) * unit


@kernel
def snap_rows(x, bits, out):  # type: ignore[no-untyped-def]
    """``snap`` of each row of ``x`` (R, C) into ``out``, which may be ``x``."""
    views = x.view(np.int64)
    for r in range(x.shape[0]):
        _snap_row(x[r], _exponent(views[r]), bits, out[r])


@kernel
def norm_rows(x, bits, eps, out, inverse):  # type: ignore[no-untyped-def]
    """``snap_rows``, and the inverse root mean square (R, 1) of the snapped rows."""
    views = x.view(np.int64)
    for r in range(x.shape[0]):
        _snap_row(x[r], _exponent(views[r]), bits, out[r])
        inverse[r, 0] = 1.0 / math.sqrt(_sum_squares(out[r]) / x.shape[1] + eps)


@kernel
def snap_squares(x, inverse, slope, bits):  # type: ignore[no-untyped-def]
    """In place: the rows of ``x`` (R, C) times ``inverse`` (R, 1), leaky ReLU of ``slope``, squared, snapped."""
    views = x.view(np.int64)
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            h = x[r, c] * inverse[r, 0]
            h = h * slope if h < 0.0 else h
            x[r, c] = h * h
        _snap_row(x[r], _exponent(views[r]), bits, x[r])


@step
def _exp(x):  # type: ignore[no-untyped-def]
    x = x if x > LOWEST else LOWEST
    k = (x * LOG2E + _MAGIC) - _MAGIC
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = TAYLOR[0]
    for i in range(1, 12):
        p = p * r + TAYLOR[i]
    return p * _POWERS[np.int64(k) + _ZERO]


@kernel
def _weigh(row, gain, seen, one):  # type: ignore[no-untyped-def]
    """In place: products of a query with keys to integer softmax weights; returns their sum."""
    for c in range(len(row)):
        row[c] = row[c] * gain if seen[c] else -np.inf
    high, total = _highest(row), 0.0
    for c in range(len(row)):
        row[c] = (_exp(row[c] - high) * one + _MAGIC) - _MAGIC
    for c in range(len(row)):
        total += row[c]
    return total


@kernel
def weigh_rows(scores, gain, seen, one, total):  # type: ignore[no-untyped-def]
    """``_weigh`` of ``scores`` (B,K,G,t,C) with ``gain`` (K,G) and ``seen`` (B,t,C); sums to ``total`` (B,K,G,t)."""
    for b in range(scores.shape[0]):
        for k in range(scores.shape[1]):
            for g in range(scores.shape[2]):
                for t in range(scores.shape[3]):
                    total[b, k, g, t] = _weigh(scores[b, k, g, t], gain[k, g], seen[b, t], one)


@kernel
def attend_one(q, keys, values, gain, seen, one, out):  # type: ignore[no-untyped-def]
    """Attention of one query per head: ``q`` and ``out`` (B,K,G,E), ``keys`` and ``values`` (B,K,C,E) float32,
    ``seen`` (B,C)."""
    weights = np.empty((q.shape[2], keys.shape[2]))
    for b in range(q.shape[0]):
        for k in range(q.shape[1]):
            for c in range(keys.shape[2]):
                for g in range(q.shape[2]):
                    weights[g, c] = _dot(q[b, k, g], keys[b, k, c])
            for g in range(q.shape[2]):
                total, y = _weigh(weights[g], gain[k, g], seen[b], one), out[b, k, g]
                y[:] = 0.0
                for c in range(keys.shape[2]):
                    weight = weights[g, c]
                    if weight != 0.0:
                        for e in range(len(y)):
                            y[e] += weight * np.float64(values[b, k, c, e])
                for e in range(len(y)):
                    y[e] /= total


@kernel
def cap_rows(z, cap, steps):  # type: ignore[no-untyped-def]
    """In place: ``round(steps tanh(z / cap))`` of ``z`` (R, C); NaN stays NaN."""
    for row in range(z.shape[0]):
        for c in range(z.shape[1]):
            u = abs(z[row, c]) / cap
            decay = _exp(-2.0 * u)
            n = (((1.0 - decay) / (1.0 + decay)) * steps + _MAGIC) - _MAGIC
            n = n if u == u else u
            z[row, c] = n if z[row, c] >= 0.0 else -n
