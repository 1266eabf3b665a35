"""Mixture of two distributions by exponentiated gradient on the mixture's own log-loss.

``P = w P_chain + (1 - w) P_cascade`` with softmax weights per (entropy bucket, recency of the longest match); after
token y each log-weight moves by ``w_k (P_k(y) / P(y) - 1) max(2 / sqrt(n), floor)``. It competes with the best convex
combination, not with the best single expert as Bayes or Hedge would.

Source: Kivinen and Warmuth (1997), "Exponentiated gradient versus gradient descent".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from golf.base.jit import step
from golf.mixture.config import LayerConfig

__all__ = ["GateState", "chain_weight", "gate_score", "new_gate"]


class GateState(NamedTuple):
    """``logit`` (H, 4): log-odds of the chain against the cascade; ``updates`` (H, 4) so far; ``rate_floor`` of a
    step."""

    logit: np.ndarray
    updates: np.ndarray
    rate_floor: float


def new_gate(config: LayerConfig) -> GateState:
    """Equal weights everywhere."""
    shape = (len(config.entropy_edges_nats) + 1, 4)
    return GateState(logit=np.zeros(shape), updates=np.zeros(shape), rate_floor=config.final_rate_floor)


@step
def chain_weight(state, h, recency):  # type: ignore[no-untyped-def]
    """Weight of the chain in this bucket; the cascade has the rest."""
    return 1.0 / (1.0 + math.exp(-state.logit[h, recency]))


@step
def gate_score(state, h, recency, chain, cascade):  # type: ignore[no-untyped-def]
    """``P`` of the target from both probabilities of it, then the update."""
    weight = chain_weight(state, h, recency)
    value = weight * chain + (1.0 - weight) * cascade
    state.updates[h, recency] += 1.0
    pace = max(2.0 / math.sqrt(state.updates[h, recency]), state.rate_floor)
    # the difference of the two log-weights is all that a softmax over two experts can feel
    up = weight * (chain / value - 1.0) - (1.0 - weight) * (cascade / value - 1.0)
    state.logit[h, recency] = min(max(state.logit[h, recency] + pace * up, -20.0), 20.0)
    return value
