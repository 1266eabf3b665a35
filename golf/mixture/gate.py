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

from golf.base import exact
from golf.base.exact import exp
from golf.base.jit import kernel, step
from golf.mixture.config import MixtureConfig
from golf.mixture.expert import Expert
from golf.mixture.position import Position

__all__ = ["EXPERT", "Gate", "chain_weight"]


class Gate(NamedTuple):
    """``logit`` (H, 4): log-odds of the chain against the cascade; ``updates`` (H, 4) so far; ``rate_floor`` of a
    step."""

    logit: np.ndarray
    updates: np.ndarray
    rate_floor: float


def _new(config: MixtureConfig, vocab_size: int) -> Gate:
    """Equal weights everywhere."""
    shape = (len(config.layers.entropy_edges_nats) + 1, 4)
    return Gate(logit=np.zeros(shape), updates=np.zeros(shape), rate_floor=config.layers.final_rate_floor)


def chain_weight(state: Gate, at: Position) -> float:
    """Weight of the chain at a position; the cascade has the rest."""
    return float(_weight_of(state, at)[0])


@step
def _weight(state, at):  # type: ignore[no-untyped-def]
    """The chain's weight, and the recency of the longest match, 0 without one."""
    recency = np.int64(at.text.r[len(at.text.r) - 1]) if len(at.text.r) > 0 else 0
    return 1.0 / (1.0 + exp(-state.logit[at.bucket, recency])), recency


@step
def _perceive(state, at, target, below):  # type: ignore[no-untyped-def]
    weight, recency = _weight(state, at)
    chain, cascade = below[-1], below[-2]
    value = weight * chain + (1.0 - weight) * cascade
    state.updates[at.bucket, recency] += 1.0
    pace = max(2.0 / math.sqrt(state.updates[at.bucket, recency]), state.rate_floor)
    # the difference of the two log-weights is all that a softmax over two experts can feel
    up = weight * (chain / value - 1.0) - (1.0 - weight) * (cascade / value - 1.0)
    state.logit[at.bucket, recency] = min(max(state.logit[at.bucket, recency] + pace * up, -20.0), 20.0)
    return value


@step
def _predict(state, at, followers, below, row):  # type: ignore[no-untyped-def]
    weight, _ = _weight(state, at)
    chain, cascade = below[-1], below[-2]
    for v in range(len(row)):
        row[v] = weight * chain[v] + (1.0 - weight) * cascade[v]


_weight_of = kernel(_weight, parts=(exact,))  # for Python
EXPERT = Expert("final", _new, _perceive, _predict, lambda config: config.layers.final)
