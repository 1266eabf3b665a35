"""The mixture written plainly: dictionaries of counts, whole vectors, no shared code with the fast kernels.

It materializes the whole distribution at every position before it sees the token, so it is the yardstick of the fast
forms (agreement to 1e-9) and shows what a decoder must be able to do. About 1,000 tokens a second; single stream.
Shapes: N tokens, V vocabulary, K orders, J candidates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from golf.mixture.config import MixtureConfig
from golf.mixture.record import NeuralRecord, summarize_row

__all__ = ["ReferenceMixture", "record_from_log_probs"]


def record_from_log_probs(
    tokens: np.ndarray, log_probs: np.ndarray, candidate_ids: np.ndarray, *, first_scored: int = 1, samples: int = 0
) -> NeuralRecord:
    """The record of normalized rows ``log_probs`` (N, V), for text small enough to hold them all.

    ``candidate_ids`` (N, J) come from ``golf.mixture.candidates``; positions before ``first_scored`` are not scored;
    ``samples`` positions, evenly spread, keep their whole row.
    """
    rows = np.arange(len(tokens))
    exact = np.ascontiguousarray(log_probs, dtype=np.float64)
    summaries = [summarize_row(row, probs) for row, probs in zip(exact, np.exp(exact), strict=True)]
    entropy = np.array([entropy for entropy, _ in summaries])
    argmax = np.array([best for _, best in summaries], dtype=np.int32)
    scored = rows >= first_scored
    positions = np.unique(np.linspace(first_scored, len(tokens) - 1, samples).astype(np.int64))
    return NeuralRecord(
        nll=-log_probs[rows, tokens.astype(np.int64)],
        entropy=entropy,
        argmax=argmax,
        argmax_log_prob=log_probs[rows, argmax],
        candidate_log_prob=np.take_along_axis(log_probs, np.maximum(candidate_ids, 0).astype(np.int64), axis=1),
        scored=scored,
        sample_positions=positions,
        sample_log_probs=log_probs[positions],
    )


class ReferenceMixture:
    """``row = distribution(log_probs)`` then ``update(token)``, as ``golf.mixture.MixtureState``, one stream."""

    def __init__(self, config: MixtureConfig, *, vocab_size: int) -> None:
        self.config = config
        self.history: list[int] = []
        self.document: list[int] = []
        self.counts: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        self.latest: dict[tuple[int, ...], int] = {}  # position of the latest successor
        prior = [0.3, 6.0]
        self.gates: dict[tuple[int, ...], list[float]] = defaultdict(lambda: list(prior))
        self.width = 3 + 2 * len(config.orders)
        first = np.zeros(self.width)
        first[0] = 1.0
        self.by_order: dict[tuple[int, int], np.ndarray] = defaultdict(first.copy)
        self.by_entropy: dict[tuple[int, int, bool], np.ndarray] = defaultdict(lambda: np.zeros(self.width))
        self.hits: dict[tuple[int, ...], tuple[float, int]] = {}
        self.steps = 0
        self.logits: dict[tuple[int, int], float] = defaultdict(float)
        self.updates: dict[tuple[int, int], int] = defaultdict(int)
        self.seen: dict[str, Any] | None = None
        self.document_gates: dict[tuple[int, ...], list[float]] = defaultdict(lambda: list(prior))

    def _matches(self) -> list[tuple[int, tuple[int, ...]]]:
        found = []
        for k, order in enumerate(self.config.orders):
            context = tuple(self.history[-order:])
            if len(context) == order and context in self.counts:
                found.append((k, context))
        return found

    def _recency(self, context: tuple[int, ...]) -> int:
        at = self.latest[context]
        if self.document[at] != self.document[-1]:
            return 1
        return 2 if len(self.history) - at > self.config.layers.near_tokens else 3

    def _gate_key(self, k: int, h: int, context: tuple[int, ...]) -> tuple[int, ...]:
        successors = self.counts[context]
        n = sum(successors.values())
        ratio = len(successors) / n
        return (k, h, sum(ratio > edge for edge in (0.25, 0.5, 0.8)), min(7, int(math.log2(n))), self._recency(context))

    def _hit_key(self, k: int, context: tuple[int, ...]) -> tuple[int, ...]:
        successors = self.counts[context]
        count = successors[self.history[self.latest[context]]]
        other = sum(successors.values()) - count
        return (
            k,
            next(i for i, top in enumerate((1, 2, 3, 7, math.inf)) if count <= top),
            next(i for i, top in enumerate((1, 2, 4, math.inf)) if len(successors) <= top),
            next(i for i, top in enumerate((0, 1, 3, 7, math.inf)) if other <= top),
            self._recency(context),
        )

    def _hit_rate(self, key: tuple[int, ...]) -> tuple[float, int]:
        count, other = (1, 2, 3.5, 6, 12)[key[1]], (0, 1, 2.5, 5.5, 12)[key[3]]
        return self.hits.get(key, (0.4 * count / (count + other), 0))

    def distribution(self, log_probs: np.ndarray) -> np.ndarray:
        """The final distribution (V,) of the next token; keeps what ``update`` needs."""
        config = self.config.layers
        p = np.exp(log_probs.astype(np.float64))
        entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())
        h = sum(entropy > edge for edge in config.entropy_edges_nats)
        found = self._matches()
        cascade, decisions = self._cascade(p, entropy, h, found) if config.cascade else (p, [])
        chain, steps = cascade, []
        for k, context in found:
            if self.config.orders[k] in config.chain_orders:
                key = self._gate_key(k, h, context)
                gate = self.gates[key][0] / sum(self.gates[key])
                share = np.zeros(len(p))
                for token, count in self.counts[context].items():
                    share[token] = count / sum(self.counts[context].values())
                chain = gate * share + (1.0 - gate) * chain
                steps.append((key, gate * share, chain))
        bucket = (h, self._recency(found[-1][1]) if found else 0)
        weight = 1.0 / (1.0 + math.exp(-self.logits[bucket]))
        mixed = weight * chain + (1.0 - weight) * cascade
        if not config.final:
            mixed = chain if config.chain else (cascade if config.cascade else p)
        experts = []
        for i, length in enumerate(config.document_orders):
            followers, cell = self._in_document(length)
            if followers:
                gates = self.document_gates[(i, h, *cell)]
                gate = gates[0] / sum(gates)
                share = np.bincount(followers, minlength=len(p)) / len(followers)
                mixed = gate * share + (1.0 - gate) * mixed
                experts.append((gates, gate * share, mixed))
        self.seen = {"steps": steps, "decisions": decisions, "found": found, "bucket": bucket, "weight": weight,
                     "chain": chain, "cascade": cascade, "experts": experts}  # fmt: skip
        return np.asarray(mixed)

    def _in_document(self, length: int) -> tuple[list[int], tuple[int, ...]]:
        """Tokens that followed the last ``length`` tokens in this document before, and the bucket; searched afresh."""
        begin = len(self.document) - sum(d == self.document[-1] for d in self.document)
        document = self.history[begin:]
        now = len(document)
        if now < max(1, length):
            return [], ()
        places = [t for t in range(max(1, length), now) if document[t - length : t] == document[now - length :]]
        if not places:
            return [], ()
        followers = [document[t] for t in places]
        distinct = len(set(followers)) / len(places)
        ratio = sum(distinct > edge for edge in (0.25, 0.5, 0.8))
        near = 3 if now - places[-1] <= self.config.layers.near_tokens else 2
        return followers, (ratio, min(7, int(math.log2(len(places)))), near)

    def _cascade(
        self, p: np.ndarray, entropy: float, h: int, found: list[tuple[int, tuple[int, ...]]]
    ) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
        proposals = [(k, context, self.history[self.latest[context]]) for k, context in reversed(found)
                     if self.config.orders[k] in self.config.record.candidate_orders]  # fmt: skip
        best = int(np.argmax(p))
        ordered = list(dict.fromkeys(token for _, _, token in proposals))[: self.config.record.candidates] + [best]
        chosen: list[int] = []
        for token in dict.fromkeys(ordered):
            if 1.0 - sum(p[v] for v in [*chosen, token]) >= 1e-4:
                chosen.append(token)
        row, through, decisions = np.zeros(len(p)), 1.0, []
        for j, token in enumerate(chosen):
            ratio = min(max(p[token] / (1.0 - sum(p[v] for v in chosen[:j])), 1e-6), 1.0 - 1e-6)
            z = np.zeros(self.width)
            z[:3] = math.log(ratio / (1.0 - ratio)), 1.0, entropy
            agreeing = [(k, context) for k, context, v in proposals if v == token]
            for k, context, v in proposals:
                if v not in chosen[:j]:
                    rate = min(max(self._hit_rate(self._hit_key(k, context))[0], 1e-4), 1.0 - 1e-4)
                    z[3 + k + (0 if v == token else len(self.config.orders))] = math.log(rate / (1.0 - rate))
            left = (agreeing[0][0] + 1, self._recency(agreeing[0][1])) if agreeing else (0, 0)
            right = (h, min(7, len(agreeing)), token == best)
            score = float(np.clip((self.by_order[left] + self.by_entropy[right]) @ z, -12.0, 12.0))
            pi = 1.0 / (1.0 + math.exp(-score))
            row[token] = through * pi
            through *= 1.0 - pi
            decisions.append((token, pi, z, left, right))
        others = np.ones(len(p), bool)
        others[chosen] = False
        row[others] = through * p[others] / (1.0 - sum(p[v] for v in chosen))
        return row, decisions

    def update(self, token: int, *, starts_document: bool = False) -> None:
        """Learn the token just scored (if it was) and count it."""
        if self.seen is not None:
            self._learn(token, self.seen)
            self.seen = None
        for order in self.config.orders:
            if len(self.history) >= order:
                context = tuple(self.history[-order:])
                self.counts[context][token] = self.counts[context].get(token, 0) + 1
                self.latest[context] = len(self.history)
        self.history.append(token)
        self.document.append((self.document[-1] if self.document else 0) + starts_document)

    def _learn(self, token: int, seen: dict[str, Any]) -> None:
        config = self.config.layers
        rest = 1.0
        for gates, share, mixed in reversed(seen["experts"]):
            posterior = share[token] / mixed[token]
            gates[0] = gates[0] * config.chain_forgetting + rest * posterior
            gates[1] = gates[1] * config.chain_forgetting + rest * (1.0 - posterior)
            rest *= 1.0 - posterior
        rest = 1.0
        for key, share, chain in reversed(seen["steps"]) if config.chain else ():
            posterior = share[token] / chain[token]
            gate = self.gates[key]
            gate[0] = gate[0] * config.chain_forgetting + rest * posterior
            gate[1] = gate[1] * config.chain_forgetting + rest * (1.0 - posterior)
            rest *= 1.0 - posterior
        if config.cascade:
            pace = config.cascade_rate * max(1.0 / (1.0 + 1e-5 * self.steps), 0.15)
            for candidate, pi, z, left, right in seen["decisions"]:
                move = pace * ((candidate == token) - pi) * z
                self.by_order[left] = self.by_order[left] + move
                self.by_entropy[right] = self.by_entropy[right] + move
                if candidate == token:
                    break
            self.steps += 1
            for k, context in seen["found"]:
                if self.config.orders[k] in self.config.record.candidate_orders:
                    key = self._hit_key(k, context)
                    rate, times = self._hit_rate(key)
                    hit = self.history[self.latest[context]] == token
                    self.hits[key] = (rate + max(1.0 / (times + 2.5), 0.002) * (hit - rate), times + 1)
        if config.final:
            weight, bucket = seen["weight"], seen["bucket"]
            chain, cascade = seen["chain"][token], seen["cascade"][token]
            mixed = weight * chain + (1.0 - weight) * cascade
            self.updates[bucket] += 1
            pace = max(2.0 / math.sqrt(self.updates[bucket]), config.final_rate_floor)
            up = weight * (chain / mixed - 1.0) - (1.0 - weight) * (cascade / mixed - 1.0)
            self.logits[bucket] = min(max(self.logits[bucket] + pace * up, -20.0), 20.0)
