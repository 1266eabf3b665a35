"""Online Hedge with fixed share over whole distributions: a mixture that a decoder could repeat.

Shapes: n targets, K experts, V vocabulary, P sampled targets.

Experts: the neural model, the same with its logits divided by each temperature, and unigram, bigram and trigram counts
of the stream so far, additively smoothed. Each is a distribution over the whole vocabulary fixed before the target is
read, so the weighted mean is one too. Prediction of target t is ``sum_k w_k p_k(x_t)``; then
``w_k <- w_k p_k(x_t)^eta``, normalized, and a ``share`` of the mass is spread evenly (Herbster and Warmuth
1998, fixed share; eta = 1 is Bayes). The public mixer with this name (openai/parameter-golf #688 and its line) has an
"entropy" expert that is no distribution: ``docs/scores.md``.

How often c and (c, x) occurred before t is read from golf.mixture.counts, piece by piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from golf.base.jit import kernel
from golf.mixture.counts import Contexts, CountTable, TokenIndex
from golf.scoring.text import ValidationText

__all__ = ["ORDERS", "HedgeResult", "NeuralScores", "SimpleHedge", "SimpleHedgeConfig", "mix_hedge"]

PIECE_TOKENS = 1 << 16  # whose probabilities exist at a time
ORDERS = (1, 2)  # tokens of context of bigrams and trigrams


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


class SimpleHedge:
    """Plain Hedge on its way through a text: the neural scores (with ``config.temperatures``) and the counts of the
    text itself, in stream order. ``index``: where each token stands."""

    def __init__(
        self, text: ValidationText, neural: NeuralScores, config: SimpleHedgeConfig, index: TokenIndex
    ) -> None:
        assert len(neural.tempered) == len(config.temperatures), "the neural pass scores the very same temperatures"
        self._text, self._neural, self._config, self._index = text, neural, config, index
        names = ("neural", *(f"neural_t{t:g}" for t in config.temperatures), "unigram", "bigram", "trigram")
        self._experts, self._nats, self._sums = names, np.empty(text.num_targets), np.zeros(len(names))
        self._weights = np.full(len(names), 1.0 / len(names))
        self._probe_weights = np.zeros((len(neural.probe), len(names)))
        self._times = np.bincount(text.tokens[:1], minlength=text.vocab_size)  # of each token; the first one is seen

    def advance(self, counts: CountTable) -> None:
        """Score and learn the targets among the next positions, whose ``counts`` of ``ORDERS`` these are."""
        neural, begin = self._neural, max(counts.begin, 1) - 1  # target t is position t + 1
        end = counts.begin + counts.num_tokens - 1
        columns = [np.exp(-array[begin:end]) for array in (neural.nats, *neural.tempered)]
        columns += self._counted(counts, begin, end)
        probed = slice(*np.searchsorted(neural.probe, (begin, end)))
        _mix_targets(np.stack(columns, axis=1), self._config.learning_rate, self._config.share,
                     neural.probe[probed] - begin, self._nats[begin:end], self._weights, self._probe_weights[probed],
                     self._sums)  # fmt: skip

    def _counted(self, counts: CountTable, begin: int, end: int) -> list[np.ndarray]:
        """Of unigrams, bigrams and trigrams float64 (end - begin,): (count(context, x) + a) / (count(context) + aV);
        1/V for a target with fewer tokens before it."""
        size, a = self._text.vocab_size, self._config.smoothing
        pairs = [(np.arange(begin + 1, end + 1), _count_on(self._text.tokens[begin + 1 : end + 1], self._times))]
        pairs += [_of_table(counts, order, begin + 1) for order in ORDERS]
        columns = [(hits + a) / (seen + a * size) for seen, hits in pairs]
        for order, column in zip(ORDERS, columns[1:], strict=True):
            column[: max(order - 1 - begin, 0)] = 1.0 / size
        return columns

    def result(self) -> HedgeResult:
        """After the last target."""
        probe, logits, tokens = self._neural.probe, self._neural.probe_logits, self._text.tokens
        rows = [
            weights @ expert_rows(self._text, self._index, int(target), row, self._config)
            for target, row, weights in zip(probe, logits, self._probe_weights, strict=True)
        ]
        truth = [abs(row[tokens[t + 1]] - math.exp(-self._nats[t])) for row, t in zip(rows, probe, strict=True)]
        return HedgeResult(
            nats=self._nats,
            experts=self._experts,
            weights=self._weights,
            mean_weights=self._sums / self._text.num_targets,
            probe_weights=self._probe_weights,
            max_sum_error=max((abs(math.fsum(row) - 1.0) for row in rows), default=0.0),
            max_row_error=float(max(truth, default=0.0)),
        )


def mix_hedge(text: ValidationText, neural: NeuralScores, config: SimpleHedgeConfig) -> HedgeResult:
    """All of ``text``, whose contexts are counted for this alone."""
    hedge = SimpleHedge(text, neural, config, TokenIndex(text.tokens, text.vocab_size))
    known = Contexts(text.tokens, text.doc_starts, orders=ORDERS, vocab_size=text.vocab_size)
    for begin in range(0, known.num_tokens, PIECE_TOKENS):
        hedge.advance(known.read(begin, min(begin + PIECE_TOKENS, known.num_tokens)))
    return hedge.result()


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
    size, a = text.vocab_size, config.smoothing
    for counts in (index.counts(target + 1), *index.followers(target + 1, ORDERS)[0]):
        rows.append((counts + a) / (counts.sum() + a * size))
    return np.stack(rows)


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
