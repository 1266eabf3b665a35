"""Part B: a back-off chain over exact counts whose gates are learnt by online EM.

``P_0 = p``, or part C's distribution when the two are stacked; for each matched order, shortest first,
``P_i(v) = g_i c_i(v) / n_i + (1 - g_i) P_{i-1}(v)`` with
``g_i = use / (use + skip)`` read from a table bucketed by entropy, distinct-per-seen, log2 seen and recency.
After token y is scored, the posterior that order i produced it is added to ``use`` and the rest to ``skip``: exact
expectation maximisation, no learning rate. Sums to 1 because ``c_i`` and ``n_i`` come from one exact table.

Shapes: M matched orders of one position, V vocabulary. Every function reads state before it writes it.
Source: evaluation study section 2 B; gates after Jelinek and Mercer (1980), posterior update as in PPM-DP mixtures.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golf.jit import step
from golf.mixing.config import MixtureConfig

__all__ = ["ChainState", "chain_row", "chain_score", "new_chain"]

RATIO_BUCKETS, SEEN_BUCKETS, RECENCY_BUCKETS = 4, 8, 3


class ChainState(NamedTuple):
    """Gates of part B: ``table`` (K, H, 96, 2) float64 pseudo-counts, use and skip side by side; the 96 buckets
    are distinct-per-seen (4), log2 seen (8), recency (3). The rest is scratch of one position."""

    table: np.ndarray
    enabled: np.ndarray
    responsibility: np.ndarray
    cell: np.ndarray
    forgetting: float


def new_chain(config: MixtureConfig) -> ChainState:
    """Gates before any token: every bucket at ``prior_use / (prior_use + prior_skip)``."""
    orders = config.orders
    cells = RATIO_BUCKETS * SEEN_BUCKETS * RECENCY_BUCKETS
    prior = np.array([config.chain_prior_use, config.chain_prior_skip])
    return ChainState(
        table=np.tile(prior, (len(orders), len(config.entropy_edges_nats) + 1, cells, 1)),
        enabled=np.array([order in config.chain_orders for order in orders]),
        responsibility=np.zeros(len(orders)),
        cell=np.zeros(len(orders), dtype=np.int64),
        forgetting=config.chain_forgetting,
    )


@step
def _open_gate(state, k, h, n, u, r):  # type: ignore[no-untyped-def]
    """Look up the gate of order ``k``; leaves its bucket in ``state.cell``. Sums of comparisons: no branch to miss."""
    seen, distinct = np.int64(n), np.int64(u)
    a = (4 * distinct > seen) + (2 * distinct > seen) + (5 * distinct > 4 * seen)
    b = (seen > 1) + (seen > 3) + (seen > 7) + (seen > 15) + (seen > 31) + (seen > 63) + (seen > 127)
    cell = (a * SEEN_BUCKETS + b) * RECENCY_BUCKETS + np.int64(r) - 1
    state.cell[k] = cell
    use = state.table[k, h, cell, 0]
    return use / (use + state.table[k, h, cell, 1])


@step
def chain_score(state, h, n, c, u, r, neural):  # type: ignore[no-untyped-def]
    """``P_B`` of the target, then the EM update. ``n c u r`` (M,) are the position's entries, ``neural`` is p(y)."""
    matched = len(n)
    value = neural
    for k in range(matched):
        if state.enabled[k]:
            gate = _open_gate(state, k, h, n[k], u[k], r[k])
            here = gate * (c[k] / n[k])
            value = here + (1.0 - gate) * value
            state.responsibility[k] = here / value
    rest = 1.0
    for k in range(matched - 1, -1, -1):
        if state.enabled[k]:
            share, gate = state.responsibility[k], state.table[k, h, state.cell[k]]
            gate[0] = gate[0] * state.forgetting + rest * share
            gate[1] = gate[1] * state.forgetting + rest * (1.0 - share)
            rest *= 1.0 - share
    return value


@step
def chain_row(state, h, n, u, r, bounds, successor, count, row):  # type: ignore[no-untyped-def]
    """Turn ``row`` (V,) from ``p`` into ``P_B`` in place, learning nothing.

    Order k's successors are ``successor[bounds[k]:bounds[k + 1]]`` with ``count`` occurrences each.
    """
    for k in range(len(n)):
        if state.enabled[k]:
            gate = _open_gate(state, k, h, n[k], u[k], r[k])
            for v in range(len(row)):
                row[v] = (1.0 - gate) * row[v]
            for i in range(bounds[k], bounds[k + 1]):
                row[successor[i]] = gate * (count[i] / n[k]) + row[successor[i]]
