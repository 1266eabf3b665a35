"""The score of the online mixture, from the record of a streaming pass: seconds, no neural network.

Shapes: n targets, N = n + 1 tokens, B bins.

The headline is the whole mixture of golf.mixture: document bias, candidate cascade, back-off chain, the
exponentiated-gradient mean of these two, counts of the document. Beside it, on the same logits: its parts, the same
without the bias, and plain Hedge with fixed share (golf.scoring.hedge). Which of them is the headline is said by the
parameters, never by the result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.base.distributed import Ranks
from golf.base.params import BelowOne, Positive
from golf.base.score import bits_per_byte
from golf.mixture.batch import MixResult, mix
from golf.mixture.config import LayerConfig, MixtureConfig
from golf.mixture.counts import count_contexts
from golf.mixture.document import count_documents
from golf.mixture.record import StreamRecord
from golf.scoring.curves import Curves, make_curves
from golf.scoring.hedge import HedgeResult, NeuralScores, SimpleHedgeConfig, mix_hedge
from golf.scoring.record_stream import StreamingConfig, record_stream
from golf.scoring.results import Score, Scored, make_score
from golf.scoring.streaming import serve_stream
from golf.scoring.text import ScoringError, ValidationText

__all__ = ["HedgeConfig", "HedgeOverStream", "MixtureScore", "score_mixture", "score_mode"]


@dataclass(frozen=True, kw_only=True)
class HedgeConfig(LayerConfig):
    """``bias``: mix over the biased distribution of the record; the layers of the mixture; and what plain Hedge, scored
    beside it, has of its own."""

    bias: bool
    learning_rate: Positive
    share: BelowOne
    smoothing: Positive

    def simple(self, temperatures: tuple[float, ...]) -> SimpleHedgeConfig:
        """Plain Hedge over the temperatures that the streaming pass recorded."""
        return SimpleHedgeConfig(self.learning_rate, self.share, temperatures, self.smoothing)


@dataclass(frozen=True)
class MixtureScore:
    """``score``: the headline with all figures in its details; ``curves``: where the gain comes from; ``beside``:
    the other scorers on the same record, plain Hedge and the mixture's parts, by name."""

    score: Score
    curves: Curves
    beside: dict[str, Score]

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays that the stage caches: those of the headline, and ``doc_nats.NAME`` of every scorer beside it."""
        return self.score.tensors() | {f"doc_nats.{name}": score.doc_nats for name, score in self.beside.items()}


def score_mixture(
    text: ValidationText, record: StreamRecord, streaming: StreamingConfig, config: HedgeConfig
) -> MixtureScore:
    """Mix the recorded scores; raises ``ScoringError`` when the record is not of this text or lacks the bias."""
    if len(record.nats) != text.num_targets:
        raise ScoringError(
            f"the streaming record has {len(record.nats)} targets, the text {text.num_targets}; re-run `dvc repro`"
        )
    if config.bias and record.biased is None:
        raise ScoringError(
            "evaluate.hedge.bias is true, the streaming pass had evaluate.streaming.bias false; "
            "wanted it true there too"
        )
    for part in (record.plain, record.biased):
        if part is not None:
            part.check_ids(text.vocab_size)
    if len(record.tempered) != len(streaming.temperatures):
        raise ScoringError(
            f"the streaming record has nats under {len(record.tempered)} temperatures, its parameters name "
            f"{len(streaming.temperatures)}; re-run `evaluate streaming`"
        )
    begin = time.perf_counter()
    mixture = MixtureConfig(streaming, config)
    tokens = text.tokens.astype(np.int32)
    table = count_contexts(
        tokens, text.doc_starts, orders=mixture.orders, vocab_size=text.vocab_size, near_tokens=config.near_tokens
    )
    counted = time.perf_counter()
    headline_record = record.biased if config.bias and record.biased is not None else record.plain
    documents = count_documents(tokens, text.doc_starts, config.document_orders, near_tokens=config.near_tokens)
    headline = mix(tokens, table, headline_record, mixture, documents)
    mixed = time.perf_counter()
    unbiased = mix(tokens, table, record.plain, mixture, documents) if config.bias else headline
    probe = record.plain.sample_positions - 1
    neural = NeuralScores(record.nats, record.tempered, probe, record.plain.sample_log_probs)
    simple = mix_hedge(text, neural, config.simple(streaming.temperatures))
    nats = _named(record, headline, unbiased, simple)
    times = {"hedge_counting_seconds": counted - begin, "hedge_mixing_seconds": mixed - counted}
    scores = {name: make_score(name, text, values) for name, values in nats.items()}
    details = _details(text, scores, headline, simple) | times
    curves = make_curves(text, nats, table, headline_record, headline, simple)
    beside = {name: score for name, score in scores.items() if name not in ("streaming", "hedge")}
    return MixtureScore(make_score("hedge", text, nats["hedge"], details=details), curves, beside)


def _named(
    record: StreamRecord, headline: MixResult, unbiased: MixResult, simple: HedgeResult
) -> dict[str, np.ndarray]:
    """Nats (n,) of every scorer that is reported, on the targets alone."""
    nats = {"streaming": record.nats, "hedge": headline.nats["mixture"][1:], "hedge_simple": simple.nats}
    if unbiased is not headline:
        nats["hedge_bias"] = headline.nats["neural"][1:]
    for part, name in (("chain", "hedge_chain"), ("cascade", "hedge_cascade"), ("mixture", "hedge_final")):
        if part in unbiased.nats:
            nats[name] = unbiased.nats[part][1:]
    return {name: np.ascontiguousarray(values) for name, values in nats.items()}


def _details(
    text: ValidationText, scores: dict[str, Score], headline: MixResult, simple: HedgeResult
) -> dict[str, float]:
    details = {
        f"{name}_bits_per_byte": bits_per_byte(score.total_nats, text.num_bytes)
        for name, score in scores.items()
        if name not in ("streaming", "hedge")
    }
    # two code lengths, each at least 0; their difference may be negative
    details["hedge_gain_bits_per_byte"] = scores["streaming"].bits_per_byte - scores["hedge"].bits_per_byte
    report = headline.report
    details["hedge_max_sum_error"] = report.max_sum_error
    details["hedge_max_row_error"] = float(report.target_errors.max(initial=0.0))
    details["hedge_count_mismatches"] = report.count_mismatches
    details["hedge_sampled_rows"] = len(report.positions)
    details["hedge_memory_bytes"] = headline.num_bytes
    details["hedge_weight_chain_mean"] = float(headline.final_weights.mean())
    details["hedge_simple_max_sum_error"] = simple.max_sum_error
    details["hedge_simple_max_row_error"] = simple.max_row_error
    for name, final, mean in zip(simple.experts, simple.weights, simple.mean_weights, strict=True):
        details[f"hedge_simple_weight_final_{name}"] = float(final)
        details[f"hedge_simple_weight_mean_{name}"] = float(mean)
    return details


@dataclass(frozen=True)
class HedgeOverStream:
    """What the mixture's score depends on: the parameters of the streaming pass and its own."""

    streaming: StreamingConfig
    hedge: HedgeConfig


def score_mode(name: str, model: Any, text: ValidationText, config: HedgeOverStream, ranks: Ranks) -> Scored | None:
    """Both stages in one: the streaming pass, then the mixture over its record."""
    if ranks.rank:
        serve_stream(model, text, config.streaming, ranks)
        return None
    record = record_stream(model, text, config.streaming, ranks=ranks)
    return Scored(score_mixture(text, record, config.streaming, config.hedge).score, {})
