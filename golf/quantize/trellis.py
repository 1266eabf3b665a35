"""Trellis-coded quantization (TCQ): integers k read along a path of states, about 1.1 dB better than rounding.

Each weight has one integer k. In state s it means the value (2 k + (s & 1)) / 2 in units of the step, and the next
state is ``table[s][k & 1]``; every row starts in state 0. Neighbouring states use grids shifted by half a step, and the
code decides which of them may follow, so the grid is twice as fine at the bytes of the coarse one. Source: Marcellin
& Fischer 1990, Ungerboeck's one-dimensional codes (1987, table I); entropy-coded TCQ as in VVC and NNC.

Decoding is table look-up and pure integer work, eight columns at a time. Shapes: R rows, C columns, S states.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from golf.errors import GolfError

__all__ = ["DEFAULT_STATES", "TrellisError", "next_states", "parent_table", "trellis_encode", "trellis_values"]

DEFAULT_STATES = 8
_EIGHT = ((0, 2), (5, 7), (1, 3), (4, 6), (2, 0), (7, 5), (3, 1), (6, 4))
# parity-check polynomials (h0, h1) of Ungerboeck's codes for amplitude modulation, by number of states
_CHECKS = {
    4: (0o5, 0o2), 16: (0o23, 0o04), 32: (0o45, 0o10), 64: (0o103, 0o024), 128: (0o235, 0o126), 256: (0o515, 0o362)
}  # fmt: skip


class TrellisError(GolfError):
    """Weights, steps or a number of states that the trellis cannot code; the message says what was wanted."""


@cache
def _next_states(states: int) -> tuple[tuple[int, int], ...]:
    if states == DEFAULT_STATES:
        return _EIGHT
    if states not in _CHECKS:
        raise TrellisError(f"states: found {states}, wanted one of {', '.join(map(str, sorted({8, *_CHECKS})))}")
    h0, h1 = _CHECKS[states]
    rows = []
    for state in range(states):
        z0 = state & 1  # observer form of the feedback encoder: the lowest register is the output bit
        pair = [(state >> 1) ^ (z0 * (h0 >> 1)) ^ (z1 * (h1 >> 1)) for z1 in (0, 1)]
        rows.append((pair[0], pair[1]))
    return tuple(rows)


def next_states(states: int = DEFAULT_STATES) -> np.ndarray:
    """The trellis, int64 (S, 2): next state by (state, k & 1). ``states`` is 8 (the default of
    the format), 4, or 16 to 256 by powers of two: more states gain up to 0.24 dB for slower encoding, not decoding.

    Raises ``TrellisError`` for any other number.
    """
    return np.array(_next_states(states), dtype=np.int64)


def parent_table(states: int = DEFAULT_STATES) -> np.ndarray:
    """int64 (S, 2, 3): for each state its two incoming branches as (from state, k & 1, 2 k + (state & 1) modulo 4)."""
    branches: list[list[tuple[int, int, int]]] = [[] for _ in range(states)]
    for state, pair in enumerate(_next_states(states)):
        for bit, after in enumerate(pair):
            branches[after].append((state, bit, 2 * bit + (state & 1)))
    assert all(len(incoming) == 2 for incoming in branches)
    return np.array(branches, dtype=np.int64)


@cache
def _byte_tables(states: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight steps at once, by state * 256 + byte of eight k & 1 (first column highest): state after, state parities."""
    table = next_states(states)
    state = np.repeat(np.arange(states), 256)
    byte = np.tile(np.arange(256), states)
    parities = np.zeros(states * 256, dtype=np.int64)
    for shift in range(7, -1, -1):
        parities = parities * 2 + (state & 1)
        state = table[state, (byte >> shift) & 1]
    return state * 256, parities.astype(np.uint8)


def trellis_values(values: np.ndarray, *, states: int = DEFAULT_STATES) -> np.ndarray:
    """Values in units of the step, float32 (R, C), of integers k ``values`` int16 (R, C); exact multiples of 0.5."""
    values = np.ascontiguousarray(values)
    num_rows, num_columns = values.shape
    after, parities = _byte_tables(states)
    bits = np.packbits((values & 1).astype(np.uint8), axis=1)  # zero padded: the padding's parities are cut off below
    path = np.empty((bits.shape[1], num_rows), dtype=np.uint8)
    state = np.zeros(num_rows, dtype=np.int64)
    for i, column in enumerate(np.ascontiguousarray(bits.T)):
        index = state + column
        path[i] = parities[index]
        state = after[index]
    out = np.unpackbits(np.ascontiguousarray(path.T), axis=1, count=num_columns).astype(np.float32)
    out *= np.float32(0.5)
    out += values
    return out


def trellis_encode(
    weights: np.ndarray,
    row_steps: np.ndarray,
    *,
    column_steps: np.ndarray | None = None,
    column_weights: np.ndarray | None = None,
    states: int = DEFAULT_STATES,
) -> tuple[np.ndarray, np.ndarray]:
    """Viterbi search: integers int16 (R, C) whose decoded row has the least squared error, and that error per row.

    ``weights`` (R, C) float32; ``row_steps`` (R,) and ``column_steps`` (C,) positive float32. With ``column_weights``
    (C,) the cost is sum((column_weight * error) ** 2). Returns (values, cost float64 (R,)). Raises ``TrellisError``
    when an integer would not fit int16: a step is far too small for its row.
    """
    from golf.quantize import trellis_kernels

    weights = np.ascontiguousarray(weights, dtype=np.float32)
    num_rows, num_columns = weights.shape
    ones = np.ones(num_columns, dtype=np.float32)
    columns = ones if column_steps is None else np.asarray(column_steps, dtype=np.float32)
    importance = ones if column_weights is None else np.asarray(column_weights, dtype=np.float32)
    values = np.empty((num_rows, num_columns), dtype=np.int16)
    costs = np.empty(num_rows)
    overflow = np.zeros(num_rows, dtype=np.bool_)
    rows = np.ascontiguousarray(row_steps, dtype=np.float32)
    trellis_kernels.trellis_rows(weights, parent_table(states), rows, columns, importance, values, costs, overflow)
    if overflow.any():
        row = int(np.flatnonzero(overflow)[0])
        raise TrellisError(f"row {row}: an integer exceeds 32000 in size (step {rows[row]:.3g}); wanted a larger step")
    return values, costs
