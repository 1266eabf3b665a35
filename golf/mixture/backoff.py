"""A back-off chain over exact counts whose gates are learned by online EM.

``P_0`` is the distribution below; for each matched order, shortest first,
``P_i(v) = g_i c_i(v) / n_i + (1 - g_i) P_{i-1}(v)`` with
``g_i = use / (use + skip)`` read from a table bucketed by entropy, distinct-per-seen, log2 seen and recency.
After token y is scored, the posterior that order i produced it is added to ``use`` and the rest to ``skip``: exact
expectation maximization, no learning rate. Sums to 1 because ``c_i`` and ``n_i`` come from one exact table.

Two layers of the mixture are such chains: over counts of the whole text, and over those of the current document.
Shapes: K orders, H entropy buckets, V vocabulary. Every function reads state before it writes it.
Source: gates after Jelinek and Mercer (1980), posterior update as in PPM-DP mixtures.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golf.base.jit import step
from golf.mixture.config import LayerConfig

__all__ = ["ChainState", "chain_row", "chain_score", "new_chain"]

RATIO_BUCKETS, SEEN_BUCKETS, RECENCY_BUCKETS = 4, 8, 3
PRIOR_USE, PRIOR_SKIP = 0.3, 6.0  # pseudo-counts of every gate before any token


class ChainState(NamedTuple):
    """Gates: ``table`` (K, H, 96, 2) float64 pseudo-counts, use and skip side by side; the 96 buckets are
    distinct-per-seen (4), log2 seen (8), recency (3). ``enabled`` (K,): orders that take part. The rest is scratch of
    one position."""

    table: np.ndarray
    enabled: np.ndarray
    responsibility: np.ndarray
    cell: np.ndarray
    forgetting: float


def new_chain(config: LayerConfig, orders: tuple[int, ...], enabled: tuple[int, ...]) -> ChainState:
    """Gates of a chain over the ``enabled`` ones of ``orders`` before any token."""
    cells = RATIO_BUCKETS * SEEN_BUCKETS * RECENCY_BUCKETS
    shape = (len(orders), len(config.entropy_edges_nats) + 1, cells, 1)
    return ChainState(
        table=np.tile(np.array([PRIOR_USE, PRIOR_SKIP]), shape),
        enabled=np.array([order in enabled for order in orders], dtype=np.bool_),
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
def chain_score(state, h, n, c, u, r, below):  # type: ignore[no-untyped-def]
    """Probability of the target over ``below``, that of the layer below, then the EM update.

    ``n c u r`` (M,) are the position's counts, shortest order first; an order with n 0 is silent.
    """
    matched = len(n)
    value = below
    for k in range(matched):
        if state.enabled[k] and n[k] > 0:
            gate = _open_gate(state, k, h, n[k], u[k], r[k])
            here = gate * (c[k] / n[k])
            value = here + (1.0 - gate) * value
            state.responsibility[k] = here / value
    rest = 1.0
    for k in range(matched - 1, -1, -1):
        if state.enabled[k] and n[k] > 0:
            share, gate = state.responsibility[k], state.table[k, h, state.cell[k]]
            gate[0] = gate[0] * state.forgetting + rest * share
            gate[1] = gate[1] * state.forgetting + rest * (1.0 - share)
            rest *= 1.0 - share
    return value


@step
def chain_row(state, h, n, u, r, bounds, successor, count, row):  # type: ignore[no-untyped-def]
    """Lay the chain over ``row`` (V,) in place, learning nothing.

    Order k's successors are ``successor[bounds[k]:bounds[k + 1]]`` with ``count`` occurrences each.
    """
    for k in range(len(n)):
        if state.enabled[k] and n[k] > 0:
            gate = _open_gate(state, k, h, n[k], u[k], r[k])
            for v in range(len(row)):
                row[v] = (1.0 - gate) * row[v]
            for i in range(bounds[k], bounds[k + 1]):
                row[successor[i]] = gate * (count[i] / n[k]) + row[successor[i]]
