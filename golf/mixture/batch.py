"""The mixture over a scored text: each token scored before it is learned, with a proof of its own.

At the record's sampled positions the whole distribution is materialized from the state before the token: contexts are
recounted by a plain search of the earlier tokens, the row is summed and compared with the score of the target.

Shapes: N tokens, K orders, X document orders, S sampled positions, L layers, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golf.base.errors import GolfError
from golf.base.exact import exp_all
from golf.mixture.config import MixtureConfig
from golf.mixture.counts import Contexts, CountTable, TokenIndex, candidates, recount_contexts
from golf.mixture.document import DocumentCounts, Documents, recount_documents
from golf.mixture.expert import Expert
from golf.mixture.gate import chain_weight
from golf.mixture.mixture import EXPERTS, Mixture, Piece
from golf.mixture.position import Counts, Position, Seen, Successors
from golf.mixture.record import NeuralRecord

__all__ = ["MixResult", "Mixing", "NormalizationReport", "Read", "Source", "Watch", "mix", "row_calibration"]

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

    ``nats``: (N,) float64 each, keys ``neural``, the names of the layers that run below the last, and ``mixture``, the
    last; unscored tokens have 0. ``final_weights`` (H, 4): weight of the chain by entropy bucket and recency of the
    longest match. ``gates`` (K, H, 96): gates of the chain. ``matched`` uint8 (N,): orders whose context came before.
    ``num_bytes``: memory of states and results.
    """

    nats: dict[str, np.ndarray]
    final_weights: np.ndarray
    gates: np.ndarray
    matched: np.ndarray
    report: NormalizationReport
    num_bytes: int


class Watch(NamedTuple):
    """At ``positions`` (H,), rising, ``see(i, row)`` is given the whole distribution (V,) of position i, made from the
    network's ``log_probs`` (H, V)."""

    positions: np.ndarray
    log_probs: np.ndarray
    see: Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class Source:
    """All that is counted of the text ``tokens`` int32 (N,), for every mixture over it."""

    tokens: np.ndarray
    table: CountTable | Contexts
    documents: DocumentCounts | Documents
    config: MixtureConfig

    @functools.cached_property
    def index(self) -> TokenIndex:
        """Where each token stands, for the recounts."""
        return TokenIndex(self.tokens, self.table.vocab_size)

    @property
    def num_bytes(self) -> int:
        """Memory of what counts, bytes."""
        return self.table.num_bytes + self.documents.num_bytes

    def pieces(self) -> Iterator[Read]:
        """The text piece by piece, from its beginning."""
        for begin in range(0, len(self.tokens), PIECE_TOKENS):
            yield Read(self, begin, min(begin + PIECE_TOKENS, len(self.tokens)))


class Read:
    """What is counted of positions ``begin`` to ``stop - 1``, and their candidates ``ids`` (T, J)."""

    def __init__(self, source: Source, begin: int, stop: int) -> None:
        self.begin, self.stop, self._source, config = begin, stop, source, source.config.record
        self.counts, self.documents = source.table.read(begin, stop), source.documents.read(begin, stop)
        self.ids = candidates(self.counts, count=config.candidates, orders=config.candidate_orders)

    def recount(self, t: int) -> tuple[Successors, bool]:
        """Successors of the contexts of position ``t``, by plain search; whether the counts agree."""
        tokens = self._source.tokens
        followers, agrees = recount_contexts(tokens, self._source.index, self.counts, t)
        in_document, agrees_too = recount_documents(tokens, self.documents, t)
        return Successors(followers, in_document), agrees and agrees_too


class Mixing:
    """One mixture on its way through a text: each token is scored from the state its predecessors left, then learned.

    ``record`` is what the neural pass hands over for the candidates of ``source``. Raises ``GolfError`` when they do
    not fit.
    """

    def __init__(
        self, source: Source, record: NeuralRecord, *, experts: tuple[Expert, ...] = EXPERTS, watch: Watch | None = None
    ) -> None:
        _check(source, record)
        self._source, self._record, self._watch = source, record, watch
        self._mixture = mixture = Mixture(source.config, source.table.vocab_size, experts)
        below = {expert.name: k for k, expert in enumerate(experts[:-1]) if mixture.enabled[k]}
        self._layers = {"neural": -1} | below | {"mixture": len(experts) - 1}
        self._nats = {name: np.empty(len(source.tokens)) for name in self._layers}
        self._matched = np.empty(len(source.tokens), np.uint8)
        self._rows: list[_Row] = []
        self._watched = 0

    def advance(self, read: Read) -> None:
        """Score and learn the next piece."""
        piece, record = slice(read.begin, read.stop), self._record
        out = np.ones((len(self._mixture.experts), read.stop - read.begin))  # probabilities
        self._matched[piece] = read.counts.matched
        here = _within(record.sample_positions, read)
        watched = _within(self._watch.positions, read) if self._watch is not None else []
        first = read.begin
        for end in sorted({*here, *watched, read.stop}):
            if first < end:
                numbers = _piece(self._source.tokens, record, read, slice(first, end))
                self._mixture.perceive_range(read.counts.counts, read.counts.c, numbers, out)
            first = end
            if end in here:
                self._rows.append(self._materialize(end, read, record.sample_log_probs[len(self._rows)]))
            if self._watch is not None and end in watched:
                row = self._materialize(end, read, self._watch.log_probs[self._watched]).row
                self._watch.see(self._watched, row)
                self._watched += 1
        for name, k in self._layers.items():
            nats = -np.log(out[k]) if k >= 0 else np.where(record.scored[piece], record.nll[piece], 0.0)
            self._nats[name][piece] = nats

    def result(self) -> MixResult:
        """After the last piece."""
        memory = sum(array.nbytes for array in self._nats.values()) + self._source.num_bytes + self._record.num_bytes
        gates, weights = self._mixture.state("chain").chain.table, self._mixture.state("final").logit
        return MixResult(
            self._nats, 1.0 / (1.0 + np.exp(-weights)), gates[..., 0] / gates.sum(-1), self._matched,
            self._report(), memory + self._mixture.num_bytes,
        )  # fmt: skip

    def _report(self) -> NormalizationReport:
        positions = self._record.sample_positions
        targets = self._source.tokens[positions].tolist()
        truth = np.array([each.row[token] for each, token in zip(self._rows, targets, strict=True)])
        calibration = np.zeros((2, CALIBRATION_BINS))
        for each, token in zip(self._rows, targets, strict=True):
            calibration += row_calibration(each.row, token)
        return NormalizationReport(
            positions=positions,
            sums=np.array([each.row.sum() for each in self._rows]),
            target_errors=np.abs(truth - np.exp(-self._nats["mixture"][positions])),
            chain_weights=np.array([each.weight for each in self._rows]),
            count_mismatches=sum(not each.agrees for each in self._rows),
            calibration=calibration,
        )

    def _materialize(self, t: int, read: Read, log_probs: np.ndarray) -> _Row:
        """The whole distribution at ``t`` from the state before its token, over the recounted contexts."""
        mixture, table, record, here = self._mixture, read.counts, self._record, t - read.begin
        followers, agrees = read.recount(t)
        neural, entropy, argmax = exp_all(log_probs), float(record.entropy[t]), int(record.argmax[t])
        ids = read.ids[here]
        s = slice(int(table.start[here]), int(table.start[here]) + int(table.matched[here]))
        at = Position(
            mixture.bucket(entropy), entropy, argmax, float(neural[argmax]), ids, np.where(ids >= 0, neural[ids], 0.0),
            int(self._source.tokens[t - 1]), Counts(*(array[s] for array in table.counts)),
            Seen(*(array[here] for array in read.documents.seen)),
        )  # fmt: skip
        row = mixture.predict(at, followers, neural)
        weight = chain_weight(mixture.state("final"), at) if mixture.runs("final") else float(mixture.runs("chain"))
        return _Row(row, weight, agrees)


def mix(
    tokens: np.ndarray, table: CountTable | Contexts, record: NeuralRecord, config: MixtureConfig,
    documents: DocumentCounts | Documents | None = None, *, experts: tuple[Expert, ...] = EXPERTS,
) -> MixResult:  # fmt: skip
    """Score ``tokens`` (N,) in one pass of one mixture, see ``Mixing``.

    ``table`` counts the same tokens with ``config.orders`` (``Contexts``, which is read from its beginning, or
    ``count_contexts``), ``documents`` has the counts of ``config.layers.document_orders``, if any.
    """
    documents = documents or Documents(tokens, np.zeros(1, np.int64), (), near_tokens=config.layers.near_tokens)
    source = Source(np.ascontiguousarray(tokens, dtype=np.int32), table, documents, config)
    mixing = Mixing(source, record, experts=experts)
    for read in source.pieces():
        mixing.advance(read)
    return mixing.result()


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


def _within(positions: np.ndarray, read: Read) -> list[int]:
    """Those of ``positions``, rising, that are in a piece."""
    found: list[int] = positions[slice(*np.searchsorted(positions, (read.begin, read.stop)))].tolist()
    return found


def _piece(tokens: np.ndarray, record: NeuralRecord, read: Read, piece: slice) -> Piece:
    """The record's numbers become float64 here, so one compiled form serves all records."""
    here = slice(piece.start - read.begin, piece.stop - read.begin)
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
        document=Seen(*(array[here] for array in read.documents.seen)),
        document_hits=read.documents.c[here],
    )


def _check(source: Source, record: NeuralRecord) -> None:
    tokens, table, documents, config = source.tokens, source.table, source.documents, source.config
    if table.orders != config.orders:
        raise GolfError(f"count table: has orders {table.orders}, expected {config.orders}; count with `config.orders`")
    orders = config.layers.document_orders
    if documents.orders != orders or documents.num_tokens != len(tokens):
        raise GolfError(
            f"document counts: are {documents.orders} of {documents.num_tokens} tokens, expected {orders} of "
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
