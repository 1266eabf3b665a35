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
from golf.mixture.config import LayerConfig, MixtureConfig
from golf.mixture.expert import Expert

__all__ = ["DOCUMENT", "TEXT", "Chain"]

RATIO_BUCKETS, SEEN_BUCKETS, RECENCY_BUCKETS = 4, 8, 3
PRIOR_USE, PRIOR_SKIP = 0.3, 6.0  # pseudo-counts of every gate before any token


class Chain(NamedTuple):
    """Gates: ``table`` (K, H, 96, 2) float64 pseudo-counts, use and skip side by side; the 96 buckets are
    distinct-per-seen (4), log2 seen (8), recency (3). ``enabled`` (K,): orders that take part. The rest is scratch of
    one position."""

    table: np.ndarray
    enabled: np.ndarray
    order: np.ndarray
    cell: np.ndarray
    responsibility: np.ndarray
    forgetting: float


def _new_chain(config: LayerConfig, orders: tuple[int, ...], enabled: tuple[int, ...]) -> Chain:
    """Gates of a chain over the ``enabled`` ones of ``orders`` before any token."""
    cells = RATIO_BUCKETS * SEEN_BUCKETS * RECENCY_BUCKETS
    shape = (len(orders), len(config.entropy_edges_nats) + 1, cells, 1)
    return Chain(
        table=np.tile(np.array([PRIOR_USE, PRIOR_SKIP]), shape),
        enabled=np.array([order in enabled for order in orders], dtype=np.bool_),
        order=np.zeros(len(orders), dtype=np.int64),
        cell=np.zeros(len(orders), dtype=np.int64),
        responsibility=np.zeros(len(orders)),
        forgetting=config.chain_forgetting,
    )


@step
def _cell(n, u, r):  # type: ignore[no-untyped-def]
    """Where the gate of a context with these counts is. Sums of comparisons: no branch to miss."""
    seen, distinct = np.int64(n), np.int64(u)
    a = (4 * distinct > seen) + (2 * distinct > seen) + (5 * distinct > 4 * seen)
    b = (seen > 1) + (seen > 3) + (seen > 7) + (seen > 15) + (seen > 31) + (seen > 63) + (seen > 127)
    return (a * SEEN_BUCKETS + b) * RECENCY_BUCKETS + np.int64(r) - 1


@step
def _chain_perceive(chain, bucket, counts, hits, below):  # type: ignore[no-untyped-def]
    """Probability of the target over ``below``, that of the layer below, then the EM update.

    ``hits`` (M,): how often the target followed; an order with n 0 is silent.
    """
    value, size = below, 0
    for k in range(len(counts.n)):
        if chain.enabled[k] and counts.n[k] > 0:
            cell = _cell(counts.n[k], counts.u[k], counts.r[k])
            use = chain.table[k, bucket, cell, 0]
            gate = use / (use + chain.table[k, bucket, cell, 1])
            here = gate * (hits[k] / counts.n[k])
            value = here + (1.0 - gate) * value
            chain.order[size], chain.cell[size], chain.responsibility[size] = k, cell, here / value
            size += 1
    rest = 1.0
    for i in range(size - 1, -1, -1):
        share, pair = chain.responsibility[i], chain.table[chain.order[i], bucket, chain.cell[i]]
        pair[0] = pair[0] * chain.forgetting + rest * share
        pair[1] = pair[1] * chain.forgetting + rest * (1.0 - share)
        rest *= 1.0 - share
    return value


@step
def _chain_predict(chain, bucket, counts, followers, below, row):  # type: ignore[no-untyped-def]
    """The chain over ``below`` (V,) into ``row`` (V,)."""
    for v in range(len(row)):
        row[v] = below[v]
    for k in range(len(counts.n)):
        if chain.enabled[k] and counts.n[k] > 0:
            pair = chain.table[k, bucket, _cell(counts.n[k], counts.u[k], counts.r[k])]
            gate = pair[0] / (pair[0] + pair[1])
            for v in range(len(row)):
                row[v] = (1.0 - gate) * row[v]
            for i in range(followers.bounds[k], followers.bounds[k + 1]):
                row[followers.token[i]] = gate * (followers.times[i] / counts.n[k]) + row[followers.token[i]]


class TextChain(NamedTuple):
    """State of the chain over counts of the whole text."""

    chain: Chain


class DocumentChain(NamedTuple):
    """State of the chain over counts of the current document."""

    chain: Chain


def _new_text(config: MixtureConfig, vocab_size: int) -> TextChain:
    return TextChain(_new_chain(config.layers, config.orders, config.layers.chain_orders))


def _new_document(config: MixtureConfig, vocab_size: int) -> DocumentChain:
    orders = config.layers.document_orders
    return DocumentChain(_new_chain(config.layers, orders, orders))


@step
def _perceive_text(state, at, target, below):  # type: ignore[no-untyped-def]
    return _chain_perceive(state.chain, at.bucket, at.text, target.text, below[-1])


@step
def _predict_text(state, at, followers, below, row):  # type: ignore[no-untyped-def]
    _chain_predict(state.chain, at.bucket, at.text, followers.text, below[-1], row)


@step
def _perceive_document(state, at, target, below):  # type: ignore[no-untyped-def]
    return _chain_perceive(state.chain, at.bucket, at.document, target.document, below[-1])


@step
def _predict_document(state, at, followers, below, row):  # type: ignore[no-untyped-def]
    _chain_predict(state.chain, at.bucket, at.document, followers.document, below[-1], row)


TEXT = Expert("chain", _new_text, _perceive_text, _predict_text, lambda config: config.layers.chain)
DOCUMENT = Expert(
    "document", _new_document, _perceive_document, _predict_document, lambda config: bool(config.layers.document_orders)
)
