"""The mixture over a scored text: each token scored before it is learned, with a proof of its own.

At the record's sampled positions the whole distribution is materialized from the state before the token: contexts are
recounted by a plain search of the earlier tokens, the row is summed and compared with the score of the target.

Shapes: N tokens, K orders, X document orders, S sampled positions, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golf.base.errors import GolfError
from golf.base.exact import exp_all
from golf.mixture.config import MixtureConfig
from golf.mixture.counts import Contexts, CountTable, TokenIndex, candidates, recount_contexts
from golf.mixture.document import DocumentCounts, count_documents, recount_documents
from golf.mixture.expert import Expert
from golf.mixture.gate import chain_weight
from golf.mixture.mixture import EXPERTS, Mixture, Piece
from golf.mixture.position import Counts, Position, Seen, Successors
from golf.mixture.record import NeuralRecord

__all__ = ["MixResult", "NormalizationReport", "mix", "row_calibration"]

CALIBRATION_BINS = 16  # entries of sampled rows by probability: (1/2, 1], (1/4, 1/2], ...; the last bin has the rest
PIECE_TOKENS = 16384


@dataclass(frozen=True)
class NormalizationReport:
    """What the sampled positions (S,) showed; all zero-length without samples.

    ``sums``: total of the materialized final distribution; ``target_errors``: ``|row[target] - exp(-nats)|``;
    ``chain_weights``: weight of the chain there; ``count_mismatches``: positions whose counts a plain search disputes.
    ``calibration`` (2, 16): of all entries of these rows, by probability, the sum and the number that came.
    """

    positions: np.ndarray
    sums: np.ndarray
    target_errors: np.ndarray
    chain_weights: np.ndarray
    count_mismatches: int
    calibration: np.ndarray

    @property
    def max_sum_error(self) -> float:
        """Largest ``|sum - 1|``."""
        return float(np.abs(self.sums - 1.0).max(initial=0.0))


@dataclass(frozen=True)
class MixResult:
    """Nats of every token under each scorer, and what was learned.

    ``nats``: (N,) float64 each, keys ``neural`` and, as configured, ``chain``, ``cascade``, ``mixture`` (the last
    layer); unscored tokens have 0. ``final_weights`` (H, 4): weight of the chain by entropy bucket and recency of the
    longest match. ``gates`` (K, H, 96): gates of the chain. ``matched`` uint8 (N,): orders whose context came before.
    ``num_bytes``: memory of states and results.
    """

    nats: dict[str, np.ndarray]
    final_weights: np.ndarray
    gates: np.ndarray
    matched: np.ndarray
    report: NormalizationReport
    num_bytes: int


class _Source(NamedTuple):
    """Everything of the text that the mixture reads."""

    tokens: np.ndarray
    table: CountTable | Contexts
    record: NeuralRecord
    documents: DocumentCounts


class _Read(NamedTuple):
    """What is counted of a piece of the text, and its candidates."""

    counts: CountTable
    ids: np.ndarray


def mix(
    tokens: np.ndarray, table: CountTable | Contexts, record: NeuralRecord, config: MixtureConfig,
    documents: DocumentCounts | None = None, *, experts: tuple[Expert, ...] = EXPERTS,
    only: tuple[str, ...] | None = None, watch: Callable[[int, np.ndarray], None] | None = None,
) -> MixResult:  # fmt: skip
    """Score ``tokens`` (N,) in one pass: each is scored from the state its predecessors left, then learned.

    ``table`` counts the same tokens with ``config.orders`` (``Contexts``, which is read from its beginning, or
    ``count_contexts``), ``record`` is what the neural pass hands over for the candidates of this table and
    configuration; ``documents`` has the counts of ``config.layers.document_orders`` (``count_documents``), if any.
    ``only``: names of the nats that are kept. ``watch(i, row)`` sees the whole distribution (V,) of sampled position i.
    Raises ``GolfError`` when they do not fit.
    """
    documents = documents or count_documents(tokens, np.zeros(1, np.int64), (), near_tokens=config.layers.near_tokens)
    source = _Source(np.ascontiguousarray(tokens, dtype=np.int32), table, record, documents)
    _check(source, config)
    mixture = Mixture(config, table.vocab_size, experts)
    positions = record.sample_positions
    index = TokenIndex(source.tokens, table.vocab_size) if len(positions) else None
    layers = {expert.name: k for k, (expert, on) in enumerate(zip(experts, mixture.enabled, strict=True)) if on}
    layers = {name: k for name, k in (layers | {"mixture": len(experts) - 1}).items() if only is None or name in only}
    nats, matched = {name: np.empty(len(tokens)) for name in layers}, np.empty(len(tokens), np.uint8)
    rows: list[_Row] = []
    sampled = np.empty(len(positions))  # nats of the last layer there
    for begin in range(0, len(tokens), PIECE_TOKENS):
        stop = min(begin + PIECE_TOKENS, len(tokens))
        counts = table.read(begin, stop)
        read = _Read(counts, candidates(counts, count=config.record.candidates, orders=config.record.candidate_orders))
        out = np.ones((len(experts), stop - begin))  # probabilities, then nats
        matched[begin:stop] = counts.matched
        first, here = begin, positions[slice(*np.searchsorted(positions, (begin, stop)))]
        for end in [*here.tolist(), stop]:
            if first < end:
                mixture.perceive_range(counts.counts, counts.c, _piece(source, read, slice(first, end)), out)
            first = end
            if end < stop:
                assert index is not None
                rows.append(_materialize(end, source, read, index, mixture, record.sample_log_probs[len(rows)]))
                if watch is not None:
                    watch(len(rows) - 1, rows[-1].row)
        np.negative(np.log(out, out=out), out=out)
        for name, k in layers.items():
            nats[name][begin:stop] = out[k]
        sampled[len(rows) - len(here) : len(rows)] = out[-1, here - begin]
    if only is None or "neural" in only:
        nats = {"neural": np.where(record.scored, record.nll, 0.0).astype(np.float64, copy=False)} | nats
    memory = sum(array.nbytes for array in nats.values()) + table.num_bytes + record.num_bytes
    weights, gates = 1.0 / (1.0 + np.exp(-mixture.state("final").logit)), mixture.state("chain").chain.table
    return MixResult(nats, weights, gates[..., 0] / gates.sum(-1), matched, _report(source, rows, sampled),
                     memory + documents.num_bytes + mixture.num_bytes)  # fmt: skip


def row_calibration(row: np.ndarray, target: int) -> np.ndarray:
    """(2, 16): by probability (halving from bin to bin), the sum of the entries of ``row`` (V,), and 1 for the target.

    Summed over many positions the two lines are equal when the distribution is calibrated.
    """
    bins = np.clip(np.floor(-np.log2(np.maximum(row, 1e-300))), 0, CALIBRATION_BINS - 1).astype(np.int64)
    came = np.zeros(CALIBRATION_BINS)
    came[bins[target]] = 1.0
    return np.stack([np.bincount(bins, weights=row, minlength=CALIBRATION_BINS), came])


class _Row(NamedTuple):
    """A materialized distribution ``row`` (V,), the weight of the chain in it, and whether its counts agree."""

    row: np.ndarray
    weight: float
    agrees: bool


def _report(source: _Source, rows: list[_Row], nats: np.ndarray) -> NormalizationReport:
    positions = source.record.sample_positions
    targets = source.tokens[positions].tolist()
    truth = np.array([each.row[token] for each, token in zip(rows, targets, strict=True)])
    calibration = np.zeros((2, CALIBRATION_BINS))
    for each, token in zip(rows, targets, strict=True):
        calibration += row_calibration(each.row, token)
    return NormalizationReport(
        positions=positions,
        sums=np.array([each.row.sum() for each in rows]),
        target_errors=np.abs(truth - np.exp(-nats)),
        chain_weights=np.array([each.weight for each in rows]),
        count_mismatches=sum(not each.agrees for each in rows),
        calibration=calibration,
    )


def _piece(source: _Source, read: _Read, piece: slice) -> Piece:
    """The record's numbers become float64 here, so one compiled form serves all records."""
    tokens, _, record, documents = source
    here = slice(piece.start - read.counts.begin, piece.stop - read.counts.begin)
    logs = (-record.nll[piece], record.argmax_log_prob[piece], record.candidate_log_prob[piece])
    target, top, chosen = (exp_all(array) for array in logs)
    return Piece(
        begin=here.start,
        token=tokens[piece],
        previous=tokens[np.maximum(np.arange(piece.start, piece.stop) - 1, 0)],
        scored=record.scored[piece],
        start=read.counts.start[here],
        matched=read.counts.matched[here],
        ids=read.ids[here],
        target=target,
        entropy=record.entropy[piece].astype(np.float64, copy=False),
        argmax=record.argmax[piece].astype(np.int64),
        top=top,
        probs=chosen,
        document=Seen(*(array[piece] for array in documents.seen)),
        document_hits=documents.c[piece],
    )


def _check(source: _Source, config: MixtureConfig) -> None:
    tokens, table, record, documents = source
    if table.orders != config.orders:
        raise GolfError(f"count table: has orders {table.orders}, expected {config.orders}; count with `config.orders`")
    orders = config.layers.document_orders
    if documents.orders != orders or len(documents.n) != len(tokens):
        raise GolfError(
            f"document counts: are {documents.orders} of {len(documents.n)} tokens, expected {orders} of "
            f"{len(tokens)}; count with `count_documents` and `config.layers.document_orders`"
        )
    if not len(tokens) == table.num_tokens == len(record.nll):
        raise GolfError(
            f"mixture: {len(tokens)} tokens, {table.num_tokens} counted, {len(record.nll)} in the "
            "neural record; expected three equal numbers"
        )
    expected = len(tokens), config.record.candidates
    if record.candidate_log_prob.shape != expected:
        raise GolfError(
            f"neural record: candidate_log_prob has shape {record.candidate_log_prob.shape}, "
            f"expected {expected} (candidates)"
        )
    positions = record.sample_positions
    inside = len(positions) == 0 or (positions.min() >= 0 and positions.max() < len(tokens))
    if not inside or np.any(np.diff(positions) <= 0) or not record.scored[positions].all():
        raise GolfError("neural record: sample_positions must be rising scored positions")


def _materialize(
    t: int, source: _Source, read: _Read, index: TokenIndex, mixture: Mixture, log_probs: np.ndarray
) -> _Row:
    """The whole distribution at ``t`` from the state before its token, over the recounted contexts."""
    tokens, _, record, documents = source
    table, here = read.counts, t - read.counts.begin
    ids = read.ids[here]
    followers, agrees = recount_contexts(tokens, index, table, t)
    in_document, agrees_too = recount_documents(tokens, documents, t)
    neural, entropy, argmax = exp_all(log_probs), float(record.entropy[t]), int(record.argmax[t])
    s = slice(int(table.start[here]), int(table.start[here]) + int(table.matched[here]))
    at = Position(
        mixture.bucket(entropy), entropy, argmax, float(neural[argmax]), ids,
        np.where(ids >= 0, neural[ids], 0.0), int(tokens[t - 1]), Counts(*(array[s] for array in table.counts)),
        Seen(*(array[t] for array in documents.seen)),
    )  # fmt: skip
    row = mixture.predict(at, Successors(followers, in_document), neural)
    weight = chain_weight(mixture.state("final"), at) if mixture.runs("final") else float(mixture.runs("chain"))
    return _Row(row, weight, agrees and agrees_too)
