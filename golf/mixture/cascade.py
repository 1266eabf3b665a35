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
    successor, its updates so far, its log-odds; ``step`` (1,) updates of the weights so far; ``live`` (K,) of a
    position and decision: not yet refuted.
    """

    by_order: np.ndarray
    by_entropy: np.ndarray
    hits: np.ndarray
    step: np.ndarray
    enabled: np.ndarray
    live: np.ndarray
    inputs: np.ndarray
    slots: np.ndarray
    used: np.ndarray
    error: np.ndarray
    cells: np.ndarray
    chosen: np.ndarray
    chosen_prob: np.ndarray
    rate: float


def _new(config: MixtureConfig, vocab_size: int) -> Cascade:
    """Weights that reproduce the neural model; hit rates as the buckets' own counts suggest."""
    num_orders = len(config.orders)
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
        live=np.zeros(num_orders, dtype=np.bool_),
        inputs=np.zeros((config.record.candidates + 1, width)),
        slots=np.zeros((config.record.candidates + 1, width), dtype=np.int64),
        used=np.zeros((config.record.candidates + 1, 4), dtype=np.int64),
        error=np.zeros(config.record.candidates + 1),
        cells=np.zeros(num_orders, dtype=np.int64),
        chosen=np.zeros(config.record.candidates + 1, dtype=np.int64),
        chosen_prob=np.zeros(config.record.candidates + 1),
        rate=config.layers.cascade_rate,
    )


@step
def _log_bucket(value):  # type: ignore[no-untyped-def]
    """0, 1, 2-3, 4-7, 8 and more -> 0..4."""
    return (value > 0) + (value > 1) + (value > 3) + (value > 7)


@step
def _find_cells(state, text):  # type: ignore[no-untyped-def]
    for k in range(len(text.n)):
        last_count, u = text.last_count[k], text.u[k]
        count = (last_count > 1) + (last_count > 2) + (last_count > 3) + (last_count > 7)
        distinct = (u > 1) + (u > 2) + (u > 4)
        state.live[k] = state.enabled[k]
        state.cells[k] = ((count * 4 + distinct) * 5 + _log_bucket(text.n[k] - last_count)) * 3 + text.r[k] - 1


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
            state.chosen_prob[size] = prob
            tail -= prob
            size += 1
    return size, tail


@step
def _decide(state, j, at, remaining):  # type: ignore[no-untyped-def]
    """Probability of decision ``j``; its inputs stay in row j of ``state.inputs``, ``state.slots``, ``state.used``."""
    token = state.chosen[j]
    inputs, slots = state.inputs[j], state.slots[j]
    num_orders = len(state.enabled)
    ratio = state.chosen_prob[j] / remaining
    ratio = min(max(ratio, 1e-6), 1.0 - 1e-6)
    slots[0], inputs[0] = 0, log(ratio / (1.0 - ratio))
    slots[1], inputs[1] = 1, 1.0
    slots[2], inputs[2] = 2, at.entropy
    size, agree, top, recency = 3, 0, 0, 0
    for k in range(len(at.text.last) - 1, -1, -1):
        if state.live[k]:
            slot = 3 + num_orders + k
            if at.text.last[k] == token:
                slot = 3 + k
                agree += 1
                state.live[k] = False  # the next decision is asked only when this one failed
                if top == 0:
                    top, recency = k + 1, at.text.r[k]
            slots[size] = slot
            inputs[size] = state.hits[k, state.cells[k], 2]
            size += 1
    agree = min(agree, 7)
    is_argmax = 1 if token == at.argmax else 0
    left, right = state.by_order[top, recency], state.by_entropy[at.bucket, agree, is_argmax]
    total = 0.0
    for i in range(size):
        total += (left[slots[i]] + right[slots[i]]) * inputs[i]
    total = min(max(total, -STRETCH_LIMIT), STRETCH_LIMIT)
    state.used[j, 0], state.used[j, 1], state.used[j, 2], state.used[j, 3] = top, recency, agree, size
    return 1.0 / (1.0 + exp(-total))


@step
def _learn(state, at, taken):  # type: ignore[no-untyped-def]
    """Gradient step of the ``taken`` decisions, after all of them were scored with the same weights."""
    pace = max(state.rate / (1.0 + RATE_DECAY * state.step[0]), state.rate * RATE_FLOOR)
    for j in range(taken):
        top, recency, agree, size = state.used[j, 0], state.used[j, 1], state.used[j, 2], state.used[j, 3]
        is_argmax = 1 if state.chosen[j] == at.argmax else 0
        left, right = state.by_order[top, recency], state.by_entropy[at.bucket, agree, is_argmax]
        for i in range(size):
            move = pace * state.error[j] * state.inputs[j, i]
            left[state.slots[j, i]] += move
            right[state.slots[j, i]] += move


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
    _find_cells(state, at.text)
    size, tail = _choose(state, at)
    through, remaining = 1.0, 1.0
    value, taken = -1.0, 0
    for j in range(size):
        pi = _decide(state, j, at, remaining)
        hit = state.chosen[j] == target.token
        state.error[j] = (1.0 if hit else 0.0) - pi
        taken = j + 1
        if hit:
            value = through * pi
            break
        through *= 1.0 - pi
        remaining -= state.chosen_prob[j]
    if value < 0.0:
        value = through * below[0] / tail
    _learn(state, at, taken)
    state.step[0] += 1.0
    _learn_hits(state, at.text, target.token)
    return value


@step
def _predict(state, at, followers, below, row):  # type: ignore[no-untyped-def]
    _find_cells(state, at.text)
    size, tail = _choose(state, at)
    for v in range(len(row)):
        row[v] = below[0, v]
    through, remaining = 1.0, 1.0
    for j in range(size):
        pi = _decide(state, j, at, remaining)
        row[state.chosen[j]] = -(through * pi)  # marked by its sign until the others are scaled
        through *= 1.0 - pi
        remaining -= state.chosen_prob[j]
    for v in range(len(row)):
        row[v] = -row[v] if row[v] < 0.0 else through * row[v] / tail


EXPERT = Expert("cascade", _new, _perceive, _predict, lambda config: config.layers.cascade)
