"""The compiled model of the context coder: contexts, probability inputs, logistic mixing, learning; integers only.

``C`` columns, ``K`` tree nodes. Per decision six inputs are mixed in the logit domain (Q8): three adaptive counters
(of this column; of the row's running mean and magnitude; of the expected value and its spread), the normal
distribution of the column (running mean, running deviation), the normal distribution around the expected value, and
a constant. The expected value is the column's slow mean plus the row's running mean, or the linear prediction of
``golf.artifact.prediction``. Weights are chosen by tree node and move by online gradient descent on code length.

A counter is uint32: 22-bit probability, 10-bit count; its first visit starts from the mixed probability.
``state`` columns (int64, one row per column): see the ``*_`` constants. Source: PAQ/lpaq mixing (Mahoney 2005),
with parametric inputs as in DeepCABAC-like weight coders; design numbers in docs/results/coding.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from golf.artifact.binary import narrow
from golf.base.jit import part, step

__all__ = [
    "Model", "ROW_CELLS", "Tables", "ZONES", "code_leaf", "expectation", "learn", "new_state", "new_weights", "refresh",
    "row_context",
]  # fmt: skip

# per-column state, int64
FAST, SLOW, SQUARE, ERROR = 0, 1, 2, 3  # means Q16, squared deviation Q16 from the slow mean, of the prediction Q16
SPREAD, INVERSE, ERROR_SPREAD, ERROR_INVERSE = 4, 5, 6, 7  # Q8 deviations and 2^32 / deviation, refreshed at times
COUNTERS = 3  # adaptive counters among the inputs
ROW_CELLS = 33 * 16
ZONES = 41 * 16
WEIGHT_BITS = 20
RATE_LIMIT = 1000  # observations after which a counter's rate stays at about 1/1000
FIRST_COUNT = 6  # observations that the mixed probability is worth when a counter starts from it
LEARN_SHIFT, LEARN_STEP = 12, 3000  # mixer step 2^-(LEARN_SHIFT - 4), halved at 1, 4 and 16 times LEARN_STEP visits


class Tables(NamedTuple):
    """What stays: the tree (3 K,) of thresholds and children, the curves of ``golf.artifact.binary``, counter rates."""

    tree: np.ndarray
    stretch: np.ndarray
    squash: np.ndarray
    cdf: np.ndarray
    reciprocal: np.ndarray


class Model(NamedTuple):
    """What is learned: ``state`` (C, 8) of the columns, mixer ``weights`` (8 K,), ``counters`` of all contexts."""

    state: np.ndarray
    weights: np.ndarray
    counters: np.ndarray


def new_state(columns: int, variance: int, column_codes: np.ndarray | None = None) -> np.ndarray:
    """Per-column state (C, 8) before the first row; ``variance`` Q16.

    Column codes (C,), in quarters of an octave, spread it: integers on a step twice as wide are half as wide.
    """
    state = np.zeros((columns, 8), np.int64)
    state[:, SQUARE] = state[:, ERROR] = variance
    if column_codes is not None:
        codes = np.clip(column_codes.astype(np.int64) - int(np.sort(column_codes)[len(column_codes) // 2]), -24, 24)
        root = np.array([65536, 46341], np.int64)[codes & 1] * variance >> 16  # 2^-(code / 2), the half of it first
        scaled = (root << np.maximum(-(codes >> 1), 0)) >> np.maximum(codes >> 1, 0)
        state[:, SQUARE] = state[:, ERROR] = scaled
    return state


def new_weights(nodes: int) -> np.ndarray:
    """Mixer weights (8 K,) Q20: for each node those of the six inputs, its visits, and nothing."""
    weights = np.zeros((nodes, 8), np.int64)
    weights[:, :COUNTERS] = (1 << WEIGHT_BITS) // 6
    weights[:, COUNTERS : COUNTERS + 2] = (1 << WEIGHT_BITS) * 5 // 16
    return weights.reshape(-1)


@part
def _root(x: Any, guess: Any) -> Any:
    """Integer square root, floor, of a number below 2^62, but 16 at least; the nearer the guess, the sooner."""
    x, guess = max(x, 256), max(guess, 16)
    guess = (guess + x // guess) >> 1  # not below the root, whatever was guessed
    while x // guess < guess:
        guess = (guess + x // guess) >> 1
    return guess


@part
def refresh(state: Any) -> Any:
    """Recompute deviations and their inverses from the running squares; returns the global deviation, Q8."""
    total = np.int64(0)
    for c in range(len(state)):
        total += state[c, SQUARE]
        state[c, SPREAD] = _root(state[c, SQUARE], state[c, SPREAD])
        state[c, INVERSE] = (1 << 32) // state[c, SPREAD]
        state[c, ERROR_SPREAD] = _root(state[c, ERROR], state[c, ERROR_SPREAD])
        state[c, ERROR_INVERSE] = (1 << 32) // state[c, ERROR_SPREAD]
    return _root(total // len(state), state[0, SPREAD])


@step
def row_context(row_sum: Any, row_size: Any, column: Any, scale: Any, context: Any) -> None:
    """Fill the row part of ``context`` after ``column`` values: [0] running mean Q8, [1] inverse size Q16, [2] cell."""
    mean = row_sum // (column + 16)
    size = (row_size + scale * 19) // (column + 24)  # mean |v| of a normal is 0.8 deviations
    size = max(size, scale >> 4)
    context[0] = mean
    context[1] = (scale << 18) // (5 * size)
    cell = min(max((mean * 8 + (scale >> 1)) // scale, -16), 16) + 16
    context[2] = cell * 16 + min(max((size * 20) // scale - 5, 0), 15)


@step
def expectation(scale: Any, expected: Any, error_spread: Any) -> Any:
    """The cell (0 .. ZONES - 1) of an expected value Q8 and its spread Q8, both relative to the global deviation."""
    cell = min(max((expected * 8 + (scale >> 1)) // scale, -20), 20) + 20
    return cell * 16 + min((error_spread * 8) // scale, 15)


@step
def _tail(cdf: Any, threshold: Any, mean: Any, inverse: Any) -> Any:
    """Distribution function (Q28) at ``threshold - 1/2``; it never falls as the threshold grows."""
    z = (((threshold * 256 - 128 - mean) * inverse) >> 25) + 1024
    return np.int64(cdf[min(max(z, 0), 2048)])


@step
def _above(low: Any, cut: Any, high: Any) -> Any:
    """Probability (12 bit) of [cut, high] inside [low, high]; unsigned, which divides faster."""
    return np.uint64((high - cut) << 12) // np.uint64(high - low + 1)


@step
def code_leaf(
    coder: Any, data: Any, decoding: bool, value: Any, tables: Any, model: Any, cells: Any, normals: Any
) -> Any:
    """Code one value inside the tree and learn from every decision; returns its leaf (0 .. n - 1).

    ``cells``: first counter of each of the three contexts; ``normals``: mean Q8 and inverse deviation of the two normal
    inputs, one after another. Written for speed: no array is sliced (a view costs numba two atomic reference counts),
    no branch depends on the coded bit (half of them would be mispredicted), and indices are unsigned where the compiler
    could think that they may be negative.
    """
    tree, stretch, squash, cdf, reciprocal = tables
    _, weights, counters = model
    at0, at1, at2 = np.uint64(cells[0]), np.uint64(cells[1]), np.uint64(cells[2])
    mean_a, inverse_a, mean_b, inverse_b = normals
    low_a, high_a, low_b, high_b = np.int64(0), np.int64(1 << 28), np.int64(0), np.int64(1 << 28)
    low, high, code, position = coder[0], coder[1], coder[2], coder[3]
    node = np.int64(0)
    while node >= 0:
        limit = np.int64(tree[3 * node])
        cut_a, cut_b = _tail(cdf, limit, mean_a, inverse_a), _tail(cdf, limit, mean_b, inverse_b)
        i0, i1, i2 = at0 + np.uint64(node), at1 + np.uint64(node), at2 + np.uint64(node)
        c0, c1, c2 = np.int64(counters[i0]), np.int64(counters[i1]), np.int64(counters[i2])
        s0, s1, s2 = np.int64(stretch[c0 >> 20]), np.int64(stretch[c1 >> 20]), np.int64(stretch[c2 >> 20])
        s3 = np.int64(stretch[_above(low_a, cut_a, high_a)])
        s4 = np.int64(stretch[_above(low_b, cut_b, high_b)])
        w = 8 * node
        w0, w1, w2 = weights[w], weights[w + 1], weights[w + 2]
        w3, w4, w5 = weights[w + 3], weights[w + 4], weights[w + 5]
        dot = (w0 * s0 + w1 * s1 + w2 * s2 + w5 * 256 + w3 * s3 + w4 * s4) >> WEIGHT_BITS
        p16 = np.int64(squash[min(max(dot, -2047), 2047) + 2048])
        middle = low + (((high - low) * p16) >> 16)
        bit = np.int64(code <= middle) if decoding else np.int64(value >= limit)
        low, high, code, position = narrow(low, middle, high, code, position, data, decoding, bit)
        error = (bit << 16) - p16
        visits = weights[w + 6]
        shift = LEARN_SHIFT + (visits > LEARN_STEP) + (visits > 4 * LEARN_STEP) + (visits > 16 * LEARN_STEP)
        half = np.int64(1) << (shift - 1)
        weights[w] = w0 + ((s0 * error + half) >> shift)
        weights[w + 1] = w1 + ((s1 * error + half) >> shift)
        weights[w + 2] = w2 + ((s2 * error + half) >> shift)
        weights[w + 3] = w3 + ((s3 * error + half) >> shift)
        weights[w + 4] = w4 + ((s4 * error + half) >> shift)
        weights[w + 5] = w5 + ((256 * error + half) >> shift)
        weights[w + 6] = visits + 1
        counters[i0] = _count(c0, bit, p16, reciprocal)
        counters[i1] = _count(c1, bit, p16, reciprocal)
        counters[i2] = _count(c2, bit, p16, reciprocal)
        low_a, high_a = low_a + (cut_a - low_a) * bit, cut_a + (high_a - cut_a) * bit
        low_b, high_b = low_b + (cut_b - low_b) * bit, cut_b + (high_b - cut_b) * bit
        node = np.int64(tree[3 * node + 1 + bit])
    coder[0], coder[1], coder[2], coder[3] = low, high, code, position
    return -1 - node


@step
def _count(counter: Any, bit: Any, p16: Any, reciprocal: Any) -> Any:
    """A counter after ``bit``; a fresh one (count 0) starts from the mixed probability."""
    count = counter & 1023
    p22 = counter >> 10
    if count == 0:
        p22 = p16 << 6
        count = np.int64(FIRST_COUNT)
    p22 += (((bit << 22) - p22) * np.int64(reciprocal[count])) >> 16  # stays in [0, 2^22): the rate is below one
    return (p22 << 10) | min(count + 1, RATE_LIMIT)


@step
def learn(state: Any, c: Any, value: Any, expected: Any, fast: Any, slow: Any) -> None:
    """Move the running means and squares of column ``c``; ``fast``, ``slow``: rates Q16 (squares use ``slow``)."""
    away = (value << 8) - state[c, SLOW]
    square = (away >> 8) * (away >> 8)
    state[c, SQUARE] += ((square - state[c, SQUARE]) * slow) >> 16
    state[c, SLOW] += (away * slow) >> 16
    state[c, FAST] += (((value << 8) - state[c, FAST]) * fast) >> 16
    miss = value - expected
    state[c, ERROR] += ((miss * miss - state[c, ERROR]) * slow) >> 16
