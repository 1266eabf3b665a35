"""Trellis-coded quantization (TCQ): integers k read along a path of states, about 1.1 dB better than rounding.

Each weight has one integer k. In state s it means the value (2 k + (s & 1)) / 2 in units of the step, and the next
state is ``table[s][k & 1]``; every row starts in state 0. Neighboring states use grids shifted by half a step, and the
code decides which of them may follow, so the grid is twice as fine at the bytes of the coarse one. Source: Marcellin
& Fischer 1990, Ungerboeck's one-dimensional codes (1987, table I); entropy-coded TCQ as in VVC and NNC. The search for
the best path is part of ``golf.quantize.gptq``.

Decoding is table look-up and pure integer work, eight columns at a time. Shapes: R rows, C columns, S = 8 states.
"""

from __future__ import annotations

from functools import cache

import numpy as np

__all__ = ["NEXT_STATES", "parent_table", "trellis_values"]

NEXT_STATES = ((0, 2), (5, 7), (1, 3), (4, 6), (2, 0), (7, 5), (3, 1), (6, 4))
"""The trellis, docs/format.md: next state by state and k & 1."""


def parent_table() -> np.ndarray:
    """int64 (S, 2, 3): for each state its two incoming branches as (from state, k & 1, 2 k + (state & 1) modulo 4)."""
    branches: list[list[tuple[int, int, int]]] = [[] for _ in NEXT_STATES]
    for state, pair in enumerate(NEXT_STATES):
        for bit, after in enumerate(pair):
            branches[after].append((state, bit, 2 * bit + (state & 1)))
    return np.array(branches, dtype=np.int64)


@cache
def _byte_tables() -> tuple[np.ndarray, np.ndarray]:
    """Eight steps at once, by state * 256 + byte of eight k & 1 (first column highest): state after, state parities."""
    table = np.array(NEXT_STATES, dtype=np.int64)
    state = np.repeat(np.arange(len(table)), 256)
    byte = np.tile(np.arange(256), len(table))
    parities = np.zeros(len(state), dtype=np.int64)
    for shift in range(7, -1, -1):
        parities = parities * 2 + (state & 1)
        state = table[state, (byte >> shift) & 1]
    return state * 256, parities.astype(np.uint8)


def trellis_values(values: np.ndarray) -> np.ndarray:
    """Values in units of the step, float32 (R, C), of integers k ``values`` int16 (R, C); exact multiples of 0.5."""
    values = np.ascontiguousarray(values)
    num_rows, num_columns = values.shape
    after, parities = _byte_tables()
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
