"""The mixture written plainly: dictionaries of counts, whole vectors, no shared code with the fast kernels.

It materialises the whole distribution at every position before it sees the token, so it is the yardstick of the fast
forms (agreement to 1e-9) and shows what a decoder must be able to do. About 1,000 tokens a second; single stream.
Shapes: V vocabulary, K orders. Source: evaluation study section 2.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from golf.mixing.config import MixtureConfig

__all__ = ["ReferenceMixture"]


class ReferenceMixture:
    """``row = distribution(log_probs)`` then ``update(token)``, as ``golf.mixing.MixtureState``, one stream."""

    def __init__(self, config: MixtureConfig, *, vocab_size: int) -> None:
        self.config = config
        self.history: list[int] = []
        self.document: list[int] = []
        self.counts: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        self.latest: dict[tuple[int, ...], int] = {}  # position of the latest successor
        prior = [config.chain_prior_use, config.chain_prior_skip]
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
        self.extra_gates: dict[tuple[int, ...], list[float]] = defaultdict(lambda: list(prior))
        knots = [1.0 / (1.0 + math.exp(-score)) for score in range(-12, 13)]
        self.sse: dict[tuple[int, bool, int], list[float]] = defaultdict(knots.copy)

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
        return 2 if len(self.history) - at > self.config.near_tokens else 3

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
        config = self.config
        p = np.exp(log_probs.astype(np.float64))
        entropy = float(-(p[p > 0] * np.log(p[p > 0])).sum())
        h = sum(entropy > edge for edge in config.entropy_edges_nats)
        found = self._matches()
        cascade, decisions = self._cascade(p, entropy, h, found) if config.cascade else (p, [])
        chain, steps = (cascade if config.chain_base == "cascade" else p), []
        for k, context in found:
            if config.orders[k] in config.chain_orders:
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
        for i, (kind, length) in enumerate(config.extras):
            followers, cell = self._extra(kind, length)
            if followers:
                gates = self.extra_gates[(i, h, *cell)]
                gate = gates[0] / sum(gates)
                share = np.bincount(followers, minlength=len(p)) / len(followers)
                mixed = gate * share + (1.0 - gate) * mixed
                experts.append((gates, gate * share, mixed))
        self.seen = {"steps": steps, "decisions": decisions, "found": found, "bucket": bucket, "weight": weight,
                     "chain": chain, "cascade": cascade, "experts": experts}  # fmt: skip
        return np.asarray(mixed)

    def _extra(self, kind: str, length: int) -> tuple[list[int], tuple[int, ...]]:
        """Tokens that followed the context of part E before, in order, and its bucket; searched afresh each time."""
        back = 2 if kind == "skip" else 1
        now = len(self.history)

        def context(t: int) -> list[int] | None:
            begin = t - back + 1 - length
            if t < 1 or begin < 0 or (kind == "document" and self.document[min(begin, t - 1)] != self.document[t - 1]):
                return None
            return self.history[begin : begin + length] + ([self.document[t - 1]] if kind == "document" else [])

        places = [t for t in range(now) if context(t) is not None and context(t) == context(now)]
        if not places:
            return [], ()
        last, n = places[-1], len(places)
        near = 3 if now - last <= self.config.near_tokens else 2
        recency = near if self.document[last] == self.document[-1] else 1
        if kind != "match":
            distinct = len({self.history[t] for t in places}) / n
            ratio = sum(distinct > edge for edge in (0.25, 0.5, 0.8))
            return [self.history[t] for t in places], (ratio, min(7, int(math.log2(n))), recency)
        same = 0
        while same < last and self.history[last - 1 - same] == self.history[now - 1 - same]:
            same += 1
        return [self.history[last]], (sum(same >= times * length for times in (1.5, 2, 3, 4, 6, 8, 12)), recency)

    def _cascade(
        self, p: np.ndarray, entropy: float, h: int, found: list[tuple[int, tuple[int, ...]]]
    ) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
        config = self.config
        proposals = [(k, context, self.history[self.latest[context]]) for k, context in reversed(found)
                     if config.orders[k] in config.cascade_orders]  # fmt: skip
        best = int(np.argmax(p))
        ordered = list(dict.fromkeys(token for _, _, token in proposals))[: config.cascade_candidates] + [best]
        chosen: list[int] = []
        for token in dict.fromkeys(ordered):
            if 1.0 - sum(p[v] for v in [*chosen, token]) >= config.cascade_min_tail:
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
                    z[3 + k + (0 if v == token else len(config.orders))] = math.log(rate / (1.0 - rate))
            left = (agreeing[0][0] + 1, self._recency(agreeing[0][1])) if agreeing else (0, 0)
            right = (h, min(7, len(agreeing)), token == best)
            score = float(np.clip((self.by_order[left] + self.by_entropy[right]) @ z, -12.0, 12.0))
            raw = pi = 1.0 / (1.0 + math.exp(-score))
            knots = self.sse[(j, token == best, left[1])]
            if config.cascade_sse:
                pi = 0.5 * raw + 0.5 * float(np.interp(score, range(-12, 13), knots))
            row[token] = through * pi
            through *= 1.0 - pi
            decisions.append((token, raw, z, left, right, score, knots))
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
        config = self.config
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
            pace = config.cascade_rate * max(1.0 / (1.0 + config.cascade_rate_decay * self.steps),
                                             config.cascade_rate_floor)  # fmt: skip
            for candidate, pi, z, left, right, score, knots in seen["decisions"]:
                for knot in range(25 if config.cascade_sse else 0):
                    near = max(0.0, 1.0 - abs(score + 12.0 - knot))
                    knots[knot] += config.cascade_sse_rate * near * ((candidate == token) - knots[knot])
                move = pace * ((candidate == token) - pi) * z
                self.by_order[left] = self.by_order[left] + move
                self.by_entropy[right] = self.by_entropy[right] + move
                if candidate == token:
                    break
            self.steps += 1
            for k, context in seen["found"]:
                if config.orders[k] in config.cascade_orders:
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
