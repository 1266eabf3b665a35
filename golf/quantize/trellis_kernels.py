"""Compiled Viterbi search of the trellis without error feedback; rows in parallel, the same for any thread count.

Kept apart from the GPTQ kernels so that each file's compile cache depends on that file alone. Shapes: R rows, C
columns, S states; ``parents`` is ``golf.quantize.trellis.parent_table``.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from golf.jit import kernel

__all__ = ["trellis_rows"]

_LIMIT = 32000.0  # |integer| beyond which a row is reported as overflowing int16


@kernel(parallel=True)
def trellis_rows(  # pragma: no cover - compiled
    weights: np.ndarray,
    parents: np.ndarray,
    row_steps: np.ndarray,
    column_steps: np.ndarray,
    column_weight: np.ndarray,
    values: np.ndarray,
    losses: np.ndarray,
    overflow: np.ndarray,
) -> None:
    """Viterbi without feedback: per row the path of least sum of (column_weight * error) ** 2, started in state 0."""
    num_rows, num_columns = weights.shape
    num_states = parents.shape[0]
    for r in prange(num_rows):
        metric = np.full(num_states, np.inf)
        metric[0] = 0.0
        fresh = np.empty(num_states)
        choice = np.empty((num_columns, num_states), np.uint8)
        nearest = np.empty((num_columns, 4), np.float32)
        cost = np.empty(4)
        for j in range(num_columns):
            half = row_steps[r] * np.float32(0.5)
            x = weights[r, j] / (half * column_steps[j])
            for o in range(4):
                shift = np.float32(o)
                m = np.float32(4.0) * np.rint((x - shift) * np.float32(0.25)) + shift
                nearest[j, o] = m
                scaled = (weights[r, j] - m * half * column_steps[j]) * column_weight[j]
                cost[o] = np.float64(scaled) * np.float64(scaled)
            for s in range(num_states):
                a = metric[parents[s, 0, 0]] + cost[parents[s, 0, 2]]
                b = metric[parents[s, 1, 0]] + cost[parents[s, 1, 2]]
                second = b < a
                choice[j, s] = 1 if second else 0
                fresh[s] = b if second else a
            metric, fresh = fresh, metric
        state = np.argmin(metric)
        losses[r] = metric[state]
        for j in range(num_columns - 1, -1, -1):
            pick = parents[state, choice[j, state]]
            k = (nearest[j, pick[2]] - np.float32(pick[0] & 1)) * np.float32(0.5)
            if not abs(k) <= np.float32(_LIMIT):
                overflow[r] = True
                k = np.float32(0.0)
            values[r, j] = np.int16(k)
            state = pick[0]
