"""The score of the online mixture, from the record of a streaming pass: seconds, no neural network.

Shapes: n targets, N = n + 1 tokens, B bins of the small tables that say where the gain comes from.

The headline is the whole mixture of golf.mixture: document bias, candidate cascade, back-off chain, the
exponentiated-gradient mean of these two, counts of the document, each over the one before. Beside it, on the same
logits: the layers below the last, and plain Hedge with fixed share (golf.scoring.hedge). Which of them is the headline
is said by the parameters, never by the result.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from golf.base.distributed import Ranks
from golf.base.files import write_text
from golf.base.jit import kernel
from golf.base.mapped import forget
from golf.base.params import BelowOne, Positive
from golf.base.score import bits_per_byte
from golf.mixture.batch import Mixing, MixResult, Source, row_calibration
from golf.mixture.config import LayerConfig, MixtureConfig
from golf.mixture.counts import Contexts
from golf.mixture.document import Documents
from golf.mixture.record import NeuralRecord, StreamRecord, pieces
from golf.scoring.hedge import ORDERS, HedgeResult, NeuralScores, SimpleHedge, SimpleHedgeConfig
from golf.scoring.likeliest import Likeliest, LikeliestRows, watched
from golf.scoring.record_stream import StreamingConfig, record_stream
from golf.scoring.results import Score, Scored, make_score
from golf.scoring.streaming import serve_stream
from golf.scoring.text import ScoringError, ValidationText

__all__ = [
    "Curves", "HedgeConfig", "HedgeOverStream", "MixtureScore", "Table", "make_curves", "score_mixture", "score_mode",
]  # fmt: skip

POSITION_BINS = 50
CONFIDENCE_BINS = 20


@dataclass(frozen=True)
class Table:
    """Named columns of equal length."""

    columns: dict[str, list[float]]

    def tsv(self) -> str:
        """Tab-separated text with a heading; whole numbers without a point, others with nine significant digits."""
        rows = zip(*self.columns.values(), strict=True)
        lines = ["\t".join(f"{value:.9g}" for value in row) for row in rows]
        return "\n".join(["\t".join(self.columns), *lines]) + "\n"


@dataclass(frozen=True)
class Curves:
    """``position``: nats per token of each scorer along the text; ``orders``: by the longest context seen before;
    ``weights``: mixture weights at the sampled targets; ``calibration``: how often the likeliest token comes;
    ``rows``: expected and actual number of tokens by their probability, over the whole rows of the sampled targets."""

    position: Table
    orders: Table
    weights: Table
    calibration: Table
    rows: Table

    def write(self, folder: Path) -> None:
        """Write one TSV each into ``folder`` (which exists)."""
        for name, table in vars(self).items():
            write_text(folder / f"{name}.tsv", table.tsv())


def make_curves(
    text: ValidationText,
    nats: dict[str, np.ndarray],
    orders: tuple[int, ...],
    record: NeuralRecord,
    headline: MixResult,
    simple: HedgeResult,
) -> Curves:
    """All tables; ``nats`` (n,) by scorer, ``record`` that of the ``headline``, whose counts are of ``orders``."""
    num, columns = text.num_targets, {name: values.__getitem__ for name, values in nats.items()}

    tokens, matched = np.array([0, *orders]), headline.matched[1:]  # of the longest context that was seen before

    def bins(piece: slice) -> np.ndarray:
        return np.arange(piece.start, piece.stop) * min(POSITION_BINS, num) // num

    position = _binned(num, bins, columns, "bin")
    ends = np.cumsum(position.columns["tokens"]).tolist()
    report = headline.report
    weights = {"target": (report.positions - 1).astype(float).tolist()}
    weights |= {"chain": report.chain_weights.tolist()}
    weights |= {f"simple_{name}": simple.probe_weights[:, k].tolist() for k, name in enumerate(simple.experts)}
    return Curves(
        position=Table({"last_target": ends} | position.columns),
        orders=_binned(num, lambda piece: tokens[matched[piece]], columns, "order"),
        weights=Table(weights),
        calibration=_calibration(text, record),
        rows=_rows(text, record, headline),
    )


_Pieces = Callable[[slice], np.ndarray]  # numbers of a piece of the targets


def _binned(num_targets: int, bins: _Pieces, columns: Mapping[str, _Pieces], key: str) -> Table:
    """Means by bin (whole numbers from 0), of the bins that have targets; taken piece by piece, added in order."""
    sums, counts = np.zeros((len(columns), 256)), np.zeros(256, np.int64)
    for piece in pieces(num_targets):
        here = bins(piece)
        counts += np.bincount(here, minlength=256)
        for values, total in zip(columns.values(), sums, strict=True):
            taken = values(piece)
            _add_by_bin(here, np.ascontiguousarray(taken, np.float64), total)
            forget(taken)
    names = np.flatnonzero(counts)
    table = {key: names.astype(float).tolist(), "tokens": counts[names].astype(float).tolist()}
    for name, total in zip(columns, sums, strict=True):
        table[f"{name}_nats_per_token"] = (total[names] / counts[names]).tolist()
    return Table(table)


@kernel
def _add_by_bin(bins, values, sums):  # type: ignore[no-untyped-def]
    for i in range(len(bins)):
        sums[bins[i]] += values[i]


def _calibration(text: ValidationText, record: NeuralRecord) -> Table:
    """Targets grouped by the probability of the likeliest token: its mean, and the share of targets that are it."""
    top, argmax, tokens = record.argmax_log_prob[1:], record.argmax[1:], text.tokens[1:]

    def bins(piece: slice) -> np.ndarray:
        return np.minimum((np.exp(top[piece]) * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)

    columns: dict[str, _Pieces] = {
        "confidence": lambda piece: np.exp(top[piece]), "hit_rate": lambda piece: argmax[piece] == tokens[piece]
    }  # fmt: skip
    table = _binned(text.num_targets, bins, columns, "bin")
    return Table({key.removesuffix("_nats_per_token"): values for key, values in table.columns.items()})


def _rows(text: ValidationText, record: NeuralRecord, headline: MixResult) -> Table:
    """Of the entries with a probability of at most ``at_most``: their sum, and how many were the token that came."""
    samples = zip(np.exp(record.sample_log_probs), text.tokens[record.sample_positions], strict=True)
    mixed = headline.report.calibration
    neural = sum((row_calibration(row, int(token)) for row, token in samples), np.zeros_like(mixed))
    columns = {"at_most": (0.5 ** np.arange(neural.shape[1])).tolist()}
    for name, (mass, came) in (("neural", neural), ("hedge", mixed)):
        columns |= {f"{name}_expected": mass.tolist(), f"{name}_came": came.tolist()}
    return Table(columns)


@dataclass(frozen=True, kw_only=True)
class HedgeConfig(LayerConfig):
    """The layers of the mixture, and what plain Hedge, scored beside it, has of its own."""

    learning_rate: Positive = 0.5
    share: BelowOne = 0.01
    smoothing: Positive = 0.001

    def simple(self, temperatures: tuple[float, ...]) -> SimpleHedgeConfig:
        """Plain Hedge over the temperatures that the streaming pass recorded."""
        return SimpleHedgeConfig(self.learning_rate, self.share, temperatures, self.smoothing)


@dataclass(frozen=True)
class MixtureScore:
    """``score``: the headline with all figures in its details; ``curves``: where the gain comes from; ``beside``:
    the other scorers on the same record, plain Hedge and the mixture's parts, by name; ``likeliest``: the tokens of
    passages, where they were asked for."""

    score: Score
    curves: Curves
    beside: dict[str, Score]
    likeliest: Likeliest | None = None

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays that the stage caches: those of the headline, and ``doc_nats.NAME`` of every scorer beside it."""
        return self.score.tensors() | {f"doc_nats.{name}": score.doc_nats for name, score in self.beside.items()}


def score_mixture(
    text: ValidationText,
    record: StreamRecord,
    streaming: StreamingConfig,
    config: HedgeConfig,
    likeliest: LikeliestRows | None = None,
) -> MixtureScore:
    """Mix the recorded scores; with ``likeliest`` also find the mixture's tokens in its passages.

    Raises ``ScoringError`` when the record is not of this text.
    """
    if len(record.nats) != text.num_targets:
        raise ScoringError(
            f"the streaming record has {len(record.nats)} targets, the text {text.num_targets}; re-run `dvc repro`"
        )
    record.base.check(text.vocab_size)
    if len(record.tempered) != len(streaming.temperatures):
        raise ScoringError(
            f"the streaming record has nats under {len(record.tempered)} temperatures, its parameters name "
            f"{len(streaming.temperatures)}; re-run `evaluate streaming`"
        )
    begin = time.perf_counter()
    source = _counted(text, MixtureConfig(streaming, config))
    counted = time.perf_counter()
    shown, watch = watched(likeliest) if likeliest is not None else (None, None)
    mixing = Mixing(source, record.base, watch=watch)
    neural = NeuralScores(record.nats, record.tempered, record.base.sample_positions - 1, record.sample_log_probs)
    plain_hedge = SimpleHedge(text, neural, config.simple(streaming.temperatures), source.index)
    pairs = source.table if set(ORDERS) <= set(source.table.orders) else _contexts(text, ORDERS)
    for read in source.pieces():  # both over the counts that were read once
        mixing.advance(read)
        plain_hedge.advance(read.counts if pairs is source.table else pairs.read(read.begin, read.stop))
        forget(record.base.nll)
    mixed, simple = mixing.result(), plain_hedge.result()
    times = {"hedge_counting_seconds": counted - begin, "hedge_mixing_seconds": time.perf_counter() - counted}
    names = {"neural": "hedge_bias", "mixture": "hedge"}
    layers = {names.get(name, f"hedge_{name}"): values[1:] for name, values in mixed.nats.items()}
    if not streaming.bias:
        del layers["hedge_bias"]
    nats = {"streaming": record.nats, "hedge_simple": simple.nats} | layers
    scores = {name: make_score(name, text, values) for name, values in nats.items()}
    details = _details(text, scores, mixed, simple) | times
    curves = make_curves(text, nats, source.table.orders, record.base, mixed, simple)
    beside = {name: score for name, score in scores.items() if name not in ("streaming", "hedge")}
    return MixtureScore(dataclasses.replace(scores["hedge"], details=details), curves, beside, shown)


def _contexts(text: ValidationText, orders: tuple[int, ...], near_tokens: int = 1) -> Contexts:
    return Contexts(text.tokens, text.doc_starts, orders=orders, vocab_size=text.vocab_size, near_tokens=near_tokens)


def _counted(text: ValidationText, config: MixtureConfig) -> Source:
    tokens, near, orders = text.tokens.astype(np.int32), config.layers.near_tokens, config.layers.document_orders
    documents = Documents(tokens, text.doc_starts, orders, near_tokens=near)
    return Source(tokens, _contexts(text, config.orders, near), documents, config)


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

    streaming: StreamingConfig = field(default_factory=StreamingConfig)
    hedge: HedgeConfig = field(default_factory=HedgeConfig)


def score_mode(name: str, model: Any, text: ValidationText, config: HedgeOverStream, ranks: Ranks) -> Scored | None:
    """Both stages in one: the streaming pass, then the mixture over its record."""
    if ranks.rank:
        serve_stream(model, text, config.streaming, ranks)
        return None
    record = record_stream(model, text, config.streaming, ranks=ranks)
    return Scored(score_mixture(text, record, config.streaming, config.hedge).score, {})
