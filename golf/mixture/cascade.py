"""A cascade of binary decisions "is it this candidate?", each a small online logistic regression.

Candidates ``c_1..c_J`` are the last successors of the longest matching contexts, then the neural argmax. Decision j
fires with ``pi_j = sigmoid((by_order[longest order, recency] + by_entropy[H, agreeing, is argmax]) . z)``; z holds
``stretch(p(c_j) / remaining)``, 1, H and, for each matched order not yet refuted, the stretched hit rate of its last
successor, in one slot when it proposes ``c_j`` and in another when it proposes something else.
``P(c_j) = pi_j prod_{i<j} (1 - pi_i)``; any other v gets ``prod (1 - pi_i) p(v) / (1 - sum p(c_i))``: normalized.
A candidate is skipped when too little neural mass would remain to divide by. All weights start at the neural model.

Shapes: M matched orders of one position, K orders, D = 3 + 2 K inputs, J candidates, V vocabulary.
Source: logistic mixing after PAQ8 (Mahoney 2005, "Adaptive weighing of context models for lossless data compression").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golf.base.exact import exp, log, log_all
from golf.base.jit import step
from golf.mixture.config import MixtureConfig
from golf.mixture.expert import Expert

__all__ = ["EXPERT", "Cascade"]

STRETCH_LIMIT = 12.0
HIT_RATE_FLOOR = 0.002
RATE_DECAY, RATE_FLOOR = 1e-5, 0.15  # of the learning rate: per position, and the least share of the first
MIN_TAIL = 1e-4  # neural mass that candidates must leave to the others
AGREE_BUCKETS = 8


class Cascade(NamedTuple):
    """Weights and hit rates of the cascade, and scratch of one position.

    ``by_order`` (K + 1, 4, D), ``by_entropy`` (H, 8, 2, D) weights; ``hits`` (K, cells, 3): hit rate of the last
    successor, its updates so far, its log-odds; ``step`` (1,) updates of the weights so far. Scratch: by matched order
    its ``cells`` and their ``odds`` (K,), and those not yet refuted, longest first, ``waiting``; by candidate which it
    is, ``chosen``, its ``share`` of the network's mass, ``inputs`` and their ``slots`` (J + 1, D), what chose its
    weights (``used``), its probability ``pi``.
    """

    by_order: np.ndarray
    by_entropy: np.ndarray
    hits: np.ndarray
    step: np.ndarray
    enabled: np.ndarray
    cells: np.ndarray
    odds: np.ndarray
    waiting: np.ndarray
    chosen: np.ndarray
    share: np.ndarray
    inputs: np.ndarray
    slots: np.ndarray
    used: np.ndarray
    pi: np.ndarray
    rate: float


def _new(config: MixtureConfig, vocab_size: int) -> Cascade:
    """Weights that reproduce the neural model; hit rates as the buckets' own counts suggest."""
    num_orders, decisions = len(config.orders), config.record.candidates + 1
    width = 3 + 2 * num_orders
    by_order = np.zeros((num_orders + 1, 4, width))
    by_order[:, :, 0] = 1.0
    count, _, other, _ = np.meshgrid([1, 2, 3.5, 6, 12], range(4), [0, 1, 2.5, 5.5, 12], range(3), indexing="ij")
    prior = (0.4 * count / (count + other)).reshape(-1)
    hits = np.stack([prior, np.zeros_like(prior), log_all(prior / (1.0 - prior))], axis=-1)
    return Cascade(
        by_order=by_order,
        by_entropy=np.zeros((len(config.layers.entropy_edges_nats) + 1, AGREE_BUCKETS, 2, width)),
        hits=np.tile(hits, (num_orders, 1, 1)),
        step=np.zeros(1),
        enabled=np.array([order in config.record.candidate_orders for order in config.orders]),
        cells=np.zeros(num_orders, dtype=np.int64),
        odds=np.zeros(num_orders),
        waiting=np.zeros(num_orders, dtype=np.int64),
        chosen=np.zeros(decisions, dtype=np.int64),
        share=np.zeros(decisions),
        inputs=np.ones((decisions, width)),
        slots=np.tile(np.arange(width), (decisions, 1)),
        used=np.zeros((decisions, 5), dtype=np.int64),
        pi=np.zeros(decisions),
        rate=config.layers.cascade_rate,
    )


@step
def _log_bucket(value):  # type: ignore[no-untyped-def]
    """0, 1, 2-3, 4-7, 8 and more -> 0..4."""
    return (value > 0) + (value > 1) + (value > 3) + (value > 7)


@step
def _find_cells(state, text):  # type: ignore[no-untyped-def]
    """The cells of the matched orders; how many wait to be asked."""
    waiting = 0
    for k in range(len(text.n) - 1, -1, -1):
        last_count, u = text.last_count[k], text.u[k]
        count = (last_count > 1) + (last_count > 2) + (last_count > 3) + (last_count > 7)
        distinct = (u > 1) + (u > 2) + (u > 4)
        cell = ((count * 4 + distinct) * 5 + _log_bucket(text.n[k] - last_count)) * 3 + text.r[k] - 1
        state.cells[k], state.odds[k], state.waiting[waiting] = cell, state.hits[k, cell, 2], k
        waiting += 1 if state.enabled[k] else 0
    return waiting


@step
def _choose(state, at):  # type: ignore[no-untyped-def]
    """Distinct candidates into ``state.chosen``, dropping those that leave less than ``MIN_TAIL``; their number."""
    size = 0
    tail = 1.0
    for j in range(len(at.ids) + 1):
        token = at.argmax if j == len(at.ids) else at.ids[j]
        prob = at.argmax_prob if j == len(at.ids) else at.probs[j]
        fresh = token >= 0
        for i in range(size):
            fresh = fresh and state.chosen[i] != token
        if fresh and tail - prob >= MIN_TAIL:
            state.chosen[size] = token
            state.share[size] = prob
            tail -= prob
            size += 1
    return size, tail


@step
def _decide(state, at, taken, waiting):  # type: ignore[no-untyped-def]
    """Probabilities of the first ``taken`` decisions, each when those before it failed, into ``state.pi``. A step at a
    time for all of them, as neither a logarithm nor an exponential waits for that of another then."""
    remaining = 1.0
    for j in range(taken):
        ratio = state.share[j] / remaining
        ratio = min(max(ratio, 1e-6), 1.0 - 1e-6)
        state.inputs[j, 0], state.inputs[j, 2] = log(ratio / (1.0 - ratio)), at.entropy
        remaining -= state.share[j]
    for j in range(taken):
        state.pi[j], waiting = _weigh(state, at, j, waiting)
    for j in range(taken):
        state.pi[j] = 1.0 / (1.0 + exp(-state.pi[j]))


@step
def _weigh(state, at, j, waiting):  # type: ignore[no-untyped-def]
    """Log-odds of decision ``j``, and how many orders still wait: the next one is asked only when this one failed."""
    token = state.chosen[j]
    inputs, slots, used = state.inputs[j], state.slots[j], state.used[j]
    num_orders = len(state.enabled)
    left, agree, top, recency = 0, 0, 0, 0
    for i in range(waiting):
        k = state.waiting[i]
        agrees = at.text.last[k] == token
        inputs[3 + i], slots[3 + i] = state.odds[k], 3 + k + (0 if agrees else num_orders)
        if agrees and agree == 0:
            top, recency = k + 1, np.int64(at.text.r[k])
        agree += 1 if agrees else 0
        state.waiting[left] = k
        left += 0 if agrees else 1
    agree = min(agree, 7)
    is_argmax = 1 if token == at.argmax else 0
    used[0], used[1], used[2], used[3], used[4] = top, recency, agree, is_argmax, 3 + waiting
    first, second = state.by_order[top, recency], state.by_entropy[at.bucket, agree, is_argmax]
    total = 0.0
    for i in range(3 + waiting):
        total += (first[slots[i]] + second[slots[i]]) * inputs[i]
    return min(max(total, -STRETCH_LIMIT), STRETCH_LIMIT), left


@step
def _learn(state, at, taken, hit):  # type: ignore[no-untyped-def]
    """Gradient step of the ``taken`` decisions, after all of them were scored with the same weights; the last one came
    true when it ``hit``."""
    pace = max(state.rate / (1.0 + RATE_DECAY * state.step[0]), state.rate * RATE_FLOOR)
    for j in range(taken):
        inputs, slots, used = state.inputs[j], state.slots[j], state.used[j]
        first, second = state.by_order[used[0], used[1]], state.by_entropy[at.bucket, used[2], used[3]]
        push = pace * ((1.0 if hit and j == taken - 1 else 0.0) - state.pi[j])
        for i in range(used[4]):
            move = push * inputs[i]
            first[slots[i]] += move
            second[slots[i]] += move


@step
def _learn_hits(state, text, token):  # type: ignore[no-untyped-def]
    """Hit rates of every matched order, whoever proposed what."""
    for k in range(len(text.n)):
        if state.enabled[k]:
            hit = state.hits[k, state.cells[k]]
            hit[1] += 1.0
            hit_now = 1.0 if text.last[k] == token else 0.0
            pace = max(1.0 / (hit[1] + 1.5), HIT_RATE_FLOOR)
            hit[0] += pace * (hit_now - hit[0])
            safe = min(max(hit[0], 1e-4), 1.0 - 1e-4)
            hit[2] = log(safe / (1.0 - safe))


@step
def _perceive(state, at, target, below):  # type: ignore[no-untyped-def]
    """The updates are of the decisions up to the target's own, later ones say nothing."""
    waiting = _find_cells(state, at.text)
    size, tail = _choose(state, at)
    taken, hit = 0, False
    while taken < size and not hit:
        hit = state.chosen[taken] == target.token
        taken += 1
    _decide(state, at, taken, waiting)
    value = 1.0
    for j in range(taken - 1 if hit else taken):
        value *= 1.0 - state.pi[j]
    value = value * state.pi[taken - 1] if hit else value * below[0] / tail
    _learn(state, at, taken, hit)
    state.step[0] += 1.0
    _learn_hits(state, at.text, target.token)
    return value


@step
def _predict(state, at, followers, below, row):  # type: ignore[no-untyped-def]
    waiting = _find_cells(state, at.text)
    size, tail = _choose(state, at)
    for v in range(len(row)):
        row[v] = below[0, v]
    _decide(state, at, size, waiting)
    through = 1.0
    for j in range(size):
        row[state.chosen[j]] = -(through * state.pi[j])  # marked by its sign until the others are scaled
        through *= 1.0 - state.pi[j]
    for v in range(len(row)):
        row[v] = -row[v] if row[v] < 0.0 else through * row[v] / tail


EXPERT = Expert("cascade", _new, _perceive, _predict, lambda config: config.layers.cascade)
