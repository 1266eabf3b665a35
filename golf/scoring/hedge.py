"""Online Hedge with fixed share over whole distributions: a mixture that a decoder could repeat.

Shapes: n targets, K experts, V vocabulary, P sampled targets.

Experts: the neural model, the same with its logits divided by each temperature, and unigram, bigram and trigram counts
of the stream so far, additively smoothed. Each is a distribution over the whole vocabulary fixed before the target is
read, so the weighted mean is one too. Prediction of target t is ``sum_k w_k p_k(x_t)``; then
``w_k <- w_k p_k(x_t)^eta``, normalized, and a ``share`` of the mass is spread evenly (Herbster and Warmuth
1998, fixed share; eta = 1 is Bayes). The public mixer with this name (openai/parameter-golf #688 and its line) has an
"entropy" expert that is no distribution: ``docs/scores.md``.

With the text known, "how often did c and (c, x) occur before t" is the rank of t among equal keys in a stable sort.
Keys are exact (mixed radix V), nothing is hashed. The mixture's own table has those of longer contexts already: with it
memory beyond what is handed in is ``12 n`` bytes, and some ``40 n`` while the single tokens are sorted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from golf.base.jit import kernel
from golf.mixture.counts import Contexts, CountTable, TokenIndex
from golf.scoring.text import ValidationText

__all__ = ["HedgeResult", "NeuralScores", "SimpleHedgeConfig", "mix_hedge"]

PIECE_TARGETS = 1 << 16  # whose probabilities exist at a time
MAX_ORDER = 2  # tokens of context of the longest count expert: unigram, bigram, trigram


@dataclass(frozen=True)
class SimpleHedgeConfig:
    """``learning_rate`` eta > 0, ``share`` in [0, 1), ``temperatures`` > 0 of the tempered copies, ``smoothing`` > 0
    added to every count."""

    learning_rate: float
    share: float
    temperatures: tuple[float, ...]
    smoothing: float


@dataclass(frozen=True)
class NeuralScores:
    """``nats`` float64 (n,) of every target; ``tempered`` float64 (K, n) under each temperature; and for the sampled
    targets ``probe`` int64 (P,) the whole rows of logits ``probe_logits`` float64 (P, V), up to a constant each."""

    nats: np.ndarray
    tempered: np.ndarray
    probe: np.ndarray
    probe_logits: np.ndarray


@dataclass(frozen=True)
class HedgeResult:
    """``nats`` float64 (n,) of every target under the mixture; ``experts`` names (K,); ``weights`` float64 (K,) after
    the last target; ``mean_weights`` (K,) over all targets; ``probe_weights`` (P, K) in force at the sampled targets;
    ``max_sum_error`` the largest |sum over V - 1| and
    ``max_row_error`` the largest |row[truth] - exp(-nats)| over the sampled targets."""

    nats: np.ndarray
    experts: tuple[str, ...]
    weights: np.ndarray
    mean_weights: np.ndarray
    probe_weights: np.ndarray
    max_sum_error: float
    max_row_error: float


def mix_hedge(
    text: ValidationText, neural: NeuralScores, config: SimpleHedgeConfig, *, table: CountTable | Contexts | None = None
) -> HedgeResult:
    """Mix the neural scores (with ``config.temperatures``) and the counts of the text itself, in stream order.

    ``table``: counts of the same text, from which those of its orders are taken instead of counting again.
    """
    assert len(neural.tempered) == len(config.temperatures), "the neural pass scores the very same temperatures"
    counts = [_Counted(text, order, table) for order in range(MAX_ORDER + 1)]
    experts, num_targets = 1 + len(neural.tempered) + len(counts), text.num_targets
    nats, sums = np.empty(num_targets), np.zeros(experts)
    weights, probe_weights = np.full(experts, 1.0 / experts), np.zeros((len(neural.probe), experts))
    for begin in range(0, num_targets, PIECE_TARGETS):
        end = min(begin + PIECE_TARGETS, num_targets)
        columns = [np.exp(-array[begin:end]) for array in (neural.nats, *neural.tempered)]
        read = table.read(begin + 1 if begin else 0, end + 1) if table is not None else None
        columns += [each.probabilities(begin, end, config.smoothing, read) for each in counts]
        probed = slice(*np.searchsorted(neural.probe, (begin, end)))
        _mix_targets(np.stack(columns, axis=1), config.learning_rate, config.share, neural.probe[probed] - begin,
                     nats[begin:end], weights, probe_weights[probed], sums)  # fmt: skip
    mean = sums / num_targets
    index = TokenIndex(text.tokens, text.vocab_size)
    rows = [
        probe_weights[i] @ expert_rows(text, index, int(target), neural.probe_logits[i], config)
        for i, target in enumerate(neural.probe)
    ]
    truth = [abs(row[text.tokens[t + 1]] - math.exp(-nats[t])) for row, t in zip(rows, neural.probe, strict=True)]
    names = ("neural", *(f"neural_t{t:g}" for t in config.temperatures), "unigram", "bigram", "trigram")
    return HedgeResult(
        nats=nats,
        experts=names,
        weights=weights,
        mean_weights=mean,
        probe_weights=probe_weights,
        max_sum_error=max((abs(math.fsum(row) - 1.0) for row in rows), default=0.0),
        max_row_error=float(max(truth, default=0.0)),
    )


class _Counted:
    """Of every target: how often its context of ``order`` tokens came before it, and how often the target followed.

    For order 0 the stream's first token counts as seen. Those of a ``table`` that has the order come with each piece.
    """

    def __init__(self, text: ValidationText, order: int, table: CountTable | Contexts | None) -> None:
        self.size, self.short = text.vocab_size, max(order - 1, 0)  # targets with fewer tokens before them
        self.order, self.tabled = order, table is not None and order in table.orders
        self.tokens = tokens = text.tokens
        assert self.size ** (order + 1) < 2**63, "mixed-radix keys are exact in int64"
        if order == 0:
            self.times = np.bincount(tokens[:1], minlength=self.size)  # of each token, in front of the next piece
        elif not self.tabled:
            context = np.zeros(len(tokens) - order, dtype=np.int64)
            for i in range(order):
                context = context * self.size + tokens[i : len(tokens) - order + i]
            none = np.zeros(self.short, np.int64)
            self.seen = np.concatenate([none, _ranks(context)])
            self.hits = np.concatenate([none, _ranks(context * self.size + tokens[order:])])

    def counts(self, begin: int, end: int, read: CountTable | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Both, whole numbers (end - begin,), of targets ``begin`` to ``end - 1``, which follow those asked before."""
        if self.order == 0:
            return np.arange(begin + 1, end + 1), _count_on(self.tokens[begin + 1 : end + 1], self.times)
        if self.tabled and read is not None:
            return _of_table(read, self.order, begin + 1)
        return self.seen[begin:end], self.hits[begin:end]

    def probabilities(self, begin: int, end: int, smoothing: float, read: CountTable | None = None) -> np.ndarray:
        """float64: (count(context, x) + a) / (count(context) + aV); 1/V for a target with fewer tokens before it."""
        seen, hits = self.counts(begin, end, read)
        out = np.asarray((hits + smoothing) / (seen + smoothing * self.size))
        out[: max(self.short - begin, 0)] = 1.0 / self.size
        return out


def _of_table(table: CountTable, order: int, begin: int) -> tuple[np.ndarray, np.ndarray]:
    """Of positions from ``begin`` on: how often the context came before, and how often this token followed."""
    k, first = table.orders.index(order), begin - table.begin
    known = table.matched[first:] > k
    seen, hits = np.zeros(len(known), np.int64), np.zeros(len(known), np.int64)
    entries = table.start[first:][known] + k
    seen[known], hits[known] = table.n[entries], table.c[entries]
    return seen, hits


@kernel
def _count_on(tokens, times):  # type: ignore[no-untyped-def]
    """How often each of ``tokens`` came before, int64, when ``times`` (V,) say so of those in front; they count on."""
    hits = np.empty(len(tokens), np.int64)
    for i in range(len(tokens)):
        hits[i] = times[tokens[i]]
        times[tokens[i]] += 1
    return hits


def expert_rows(
    text: ValidationText, index: TokenIndex, target: int, logits: np.ndarray, config: SimpleHedgeConfig
) -> np.ndarray:
    """float64 (K, V): every expert's whole distribution for one target, counted afresh from the tokens before it."""
    rows = []
    for temperature in (1.0, *config.temperatures):
        scaled = np.exp((logits - logits.max()) / temperature)
        rows.append(scaled / scaled.sum())
    tokens, size, a = text.tokens, text.vocab_size, config.smoothing
    for order in range(MAX_ORDER + 1):
        if order == 0:
            counts = index.counts(target + 1)
        else:
            last = index.before(int(tokens[target]), target)  # where the last token of the context came before
            for i in range(1, order):
                last = last[last >= i]
                last = last[tokens[last - i] == tokens[target - i]] if target >= i else last[:0]
            counts = np.bincount(tokens[last + 1], minlength=size)
        rows.append((counts + a) / (counts.sum() + a * size))
    return np.stack(rows)


def _ranks(keys: np.ndarray) -> np.ndarray:
    """int64, same shape: how many earlier elements equal each element."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.append(begins, len(keys)))
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[order] = np.arange(len(keys)) - np.repeat(begins, sizes)
    return ranks


@kernel
def _mix_targets(probabilities, eta, share, probe, nats, weights, probe_weights, sums):  # type: ignore[no-untyped-def]
    """The recursion over a piece of the targets, by which ``probe`` counts. Plain loops compile fastest."""
    num_targets, num_experts = probabilities.shape
    next_probe = 0
    for t in range(num_targets):
        mixed = 0.0
        best = 0.0
        for k in range(num_experts):
            mixed += weights[k] * probabilities[t, k]
            best = max(best, probabilities[t, k])
            sums[k] += weights[k]
        if next_probe < len(probe) and probe[next_probe] == t:
            for k in range(num_experts):
                probe_weights[next_probe, k] = weights[k]
            next_probe += 1
        nats[t] = -math.log(mixed)
        total = 0.0
        for k in range(num_experts):
            weights[k] *= (probabilities[t, k] / best) ** eta
            total += weights[k]
        for k in range(num_experts):
            weights[k] = (1.0 - share) * weights[k] / total + share / num_experts
