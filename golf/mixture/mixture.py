"""The whole mixture over a scored text: its layers per token, score before update, with its own proof.

At the record's sampled positions the whole distribution is materialized from the state before the token: contexts are
recounted by a plain search of the earlier tokens, the row is summed and compared with the score of the target.

Shapes: N tokens, K orders, X document orders, S sampled positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golf.base.errors import GolfError
from golf.base.jit import kernel
from golf.mixture import backoff, cascade, gate
from golf.mixture.backoff import ChainState, chain_row, chain_score, new_chain
from golf.mixture.cascade import CascadeState, cascade_row, cascade_score, new_cascade
from golf.mixture.config import MixtureConfig
from golf.mixture.counts import CountTable, candidates
from golf.mixture.document import DocumentCounts, count_documents, recount
from golf.mixture.gate import GateState, chain_weight, gate_score, new_gate
from golf.mixture.record import NeuralRecord

__all__ = [
    "MixResult",
    "NormalizationReport",
    "Parts",
    "mix",
    "mixture_row",
    "new_parts",
    "row_calibration",
    "score_token",
]

CALIBRATION_BINS = 16  # entries of sampled rows by probability: (1/2, 1], (1/4, 1/2], ...; the last bin has the rest

PIECE_TOKENS = 65536
PART_FILES = (backoff, cascade, gate)  # their functions are compiled into those of this file


class Parts(NamedTuple):
    """Learned state of all layers, updated in place; ``use_...`` say which of them run."""

    chain: ChainState
    cascade: CascadeState
    gate: GateState
    document: ChainState
    edges: np.ndarray
    use_chain: bool
    use_cascade: bool
    use_gate: bool


def new_parts(config: MixtureConfig) -> Parts:
    """State before any token."""
    layers = config.layers
    edges = np.asarray(layers.entropy_edges_nats, dtype=np.float64)
    chain = new_chain(layers, config.orders, layers.chain_orders)
    document = new_chain(layers, layers.document_orders, layers.document_orders)
    switches = layers.chain, layers.cascade, layers.final
    return Parts(chain, new_cascade(config), new_gate(layers), document, edges, *switches)


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
    longest match. ``gates`` (K, H, 96): gates of the chain. ``num_bytes``: memory of states and results.
    """

    nats: dict[str, np.ndarray]
    final_weights: np.ndarray
    gates: np.ndarray
    report: NormalizationReport
    num_bytes: int


@kernel(parts=PART_FILES, forceinline=True, _nrt=False)
def score_token(  # type: ignore[no-untyped-def]
    parts, entropy, n, c, u, last, last_count, r, ids, probs, argmax, argmax_prob, target, neural,
    doc_n, doc_c, doc_u, doc_r,
):  # fmt: skip
    """Probabilities of ``target`` under chain, cascade and the last layer, then every update; 1.0 for one that is off.

    The ``doc_`` arrays (X,) are the counts of the current document, whose chain is the last layer.
    """
    h = 0
    while h < len(parts.edges) and entropy > parts.edges[h]:
        h += 1
    chain, cascade = 1.0, 1.0
    if parts.use_cascade:
        cascade = cascade_score(
            parts.cascade, h, entropy, n, u, last, last_count, r, ids, probs, argmax, argmax_prob, target, neural
        )
    if parts.use_chain:
        chain = chain_score(parts.chain, h, n, c, u, r, cascade if parts.use_cascade else neural)
    value = chain if parts.use_chain else (cascade if parts.use_cascade else neural)
    if parts.use_gate:
        recency = np.int64(r[len(r) - 1]) if len(r) > 0 else 0
        value = gate_score(parts.gate, h, recency, chain, cascade)
    return chain, cascade, chain_score(parts.document, h, doc_n, doc_c, doc_u, doc_r, value)


@kernel(parts=PART_FILES)
def mixture_row(  # type: ignore[no-untyped-def]
    parts, entropy, n, u, last, last_count, r, bounds, successor, count, ids, argmax, row,
    doc_n, doc_u, doc_r, doc_bounds, doc_successor, doc_count,
):  # fmt: skip
    """The whole final distribution (V,) from the neural one ``row`` (V,), and the chain's weight; learns nothing."""
    h = 0
    while h < len(parts.edges) and entropy > parts.edges[h]:
        h += 1
    cascade = row.copy()
    if parts.use_cascade:
        probs = np.zeros(len(ids))
        for j in range(len(ids)):
            probs[j] = row[ids[j]] if ids[j] >= 0 else 0.0
        cascade_row(parts.cascade, h, entropy, n, u, last, last_count, r, ids, probs, argmax, row[argmax], cascade)
    chain = cascade.copy()
    if parts.use_chain:
        chain_row(parts.chain, h, n, u, r, bounds, successor, count, chain)
    weight = 1.0 if parts.use_chain else 0.0
    if parts.use_gate:
        recency = np.int64(r[len(r) - 1]) if len(r) > 0 else 0
        weight = chain_weight(parts.gate, h, recency)
    mixed = weight * chain + (1.0 - weight) * cascade
    chain_row(parts.document, h, doc_n, doc_u, doc_r, doc_bounds, doc_successor, doc_count, mixed)
    return mixed, weight


@kernel(parts=PART_FILES, forceinline=True, _nrt=False)
def _mix_range(  # type: ignore[no-untyped-def]
    parts, tokens, scored, matched, start, n, c, u, last, last_count, r, ids,
    neural, entropy, argmax, argmax_prob, probs, doc_n, doc_c, doc_u, doc_r, out,
):  # fmt: skip
    """A piece of the text: the entries ``n`` to ``r`` are whole, all other arrays begin at the piece."""
    for t in range(len(tokens)):
        if scored[t]:
            s, e = start[t], start[t] + matched[t]
            out[0, t], out[1, t], out[2, t] = score_token(
                parts,
                entropy[t],
                n[s:e],
                c[s:e],
                u[s:e],
                last[s:e],
                last_count[s:e],
                r[s:e],
                ids[t],
                probs[t],
                argmax[t],
                argmax_prob[t],
                np.int64(tokens[t]),
                neural[t],
                doc_n[t],
                doc_c[t],
                doc_u[t],
                doc_r[t],
            )


def mix(
    tokens: np.ndarray, table: CountTable, record: NeuralRecord, config: MixtureConfig,
    documents: DocumentCounts | None = None,
) -> MixResult:  # fmt: skip
    """Score ``tokens`` (N,) in one pass: each is scored from the state its predecessors left, then learned.

    ``table`` counts the same tokens with ``config.orders`` (``count_contexts``), ``record`` is what the neural pass
    hands over for the candidates of this table and configuration; ``documents`` has the counts of
    ``config.layers.document_orders`` (``count_documents``), if any. Raises ``GolfError`` when they do not fit.
    """
    ids = candidates(table, count=config.record.candidates, orders=config.record.candidate_orders)
    documents = documents or count_documents(tokens, np.zeros(1, np.int64), (), near_tokens=config.layers.near_tokens)
    _check(tokens, table, record, config, ids, documents)
    parts = new_parts(config)
    out = np.ones((3, len(tokens)))  # probabilities; each piece turns into nats when it is done
    stream = np.ascontiguousarray(tokens, dtype=np.int32)
    positions = record.sample_positions
    sums, errors, weights, mismatches = np.zeros((3, len(positions))), np.zeros(len(positions)), [], 0
    begin, calibration = 0, np.zeros((2, CALIBRATION_BINS))
    for i, stop in enumerate([*positions.tolist(), len(tokens)]):
        for first in range(begin, stop, PIECE_TOKENS):
            _mix_piece(parts, slice(first, min(first + PIECE_TOKENS, stop)), stream, table, record, ids, documents, out)
        begin = stop
        if stop < len(tokens):
            log_probs = record.sample_log_probs[i]
            row, weight, agrees = _materialize(stop, stream, table, record, ids, parts, documents, log_probs)
            sums[0, i], sums[1, i] = row.sum(), row[stream[stop]]
            weights.append(weight)
            mismatches += not agrees
            calibration += row_calibration(row, int(stream[stop]))
    errors = np.abs(sums[1] - np.exp(-out[2, positions]))
    report = NormalizationReport(positions, sums[0], errors, np.asarray(weights), mismatches, calibration)
    nats = {"neural": np.where(record.scored, record.nll, 0.0).astype(np.float64)}
    nats |= {"chain": out[0]} if config.layers.chain else {}
    nats |= {"cascade": out[1]} if config.layers.cascade else {}
    nats["mixture"] = out[2]
    chain = parts.chain
    memory = out.nbytes + ids.nbytes + table.num_bytes + record.num_bytes + documents.num_bytes
    memory += sum(a.nbytes for part in parts[:4] for a in part if isinstance(a, np.ndarray))
    weights_table = 1.0 / (1.0 + np.exp(-parts.gate.logit))
    return MixResult(nats, weights_table, chain.table[..., 0] / chain.table.sum(-1), report, memory)


def row_calibration(row: np.ndarray, target: int) -> np.ndarray:
    """(2, 16): by probability (halving from bin to bin), the sum of the entries of ``row`` (V,), and 1 for the target.

    Summed over many positions the two lines are equal when the distribution is calibrated.
    """
    bins = np.clip(np.floor(-np.log2(np.maximum(row, 1e-300))), 0, CALIBRATION_BINS - 1).astype(np.int64)
    came = np.zeros(CALIBRATION_BINS)
    came[bins[target]] = 1.0
    return np.stack([np.bincount(bins, weights=row, minlength=CALIBRATION_BINS), came])


def _mix_piece(
    parts: Parts, piece: slice, tokens: np.ndarray, table: CountTable, record: NeuralRecord, ids: np.ndarray,
    documents: DocumentCounts, out: np.ndarray,
) -> None:  # fmt: skip
    """One call of the kernel; the record's numbers become float64 here, so one compiled form serves all records."""
    entropy, argmax = record.entropy[piece].astype(np.float64), record.argmax[piece].astype(np.int64)
    logs = (-record.nll[piece], record.argmax_log_prob[piece], record.candidate_log_prob[piece])
    neural, top, chosen = (np.exp(array.astype(np.float64)) for array in logs)
    _mix_range(
        parts, tokens[piece], record.scored[piece], table.matched[piece], table.start[piece], table.n, table.c,
        table.u, table.last, table.last_count, table.r, ids[piece], neural, entropy, argmax, top,
        chosen, documents.n[piece], documents.c[piece], documents.u[piece],
        documents.r[piece], out[:, piece],
    )  # fmt: skip
    out[:, piece] = -np.log(out[:, piece])


def _check(
    tokens: np.ndarray, table: CountTable, record: NeuralRecord, config: MixtureConfig, ids: np.ndarray,
    documents: DocumentCounts,
) -> None:  # fmt: skip
    if table.orders != config.orders:
        raise GolfError(f"count table: has orders {table.orders}, wanted {config.orders}; count with `config.orders`")
    orders = config.layers.document_orders
    if documents.orders != orders or len(documents.n) != len(tokens):
        raise GolfError(
            f"document counts: are {documents.orders} of {len(documents.n)} tokens, wanted {orders} of "
            f"{len(tokens)}; count with `count_documents` and `config.layers.document_orders`"
        )
    if not len(tokens) == len(table.matched) == len(record.nll):
        raise GolfError(
            f"mixture: {len(tokens)} tokens, {len(table.matched)} counted, {len(record.nll)} in the "
            "neural record; wanted three equal numbers"
        )
    if record.candidate_log_prob.shape != ids.shape:
        raise GolfError(
            f"neural record: candidate_log_prob has shape {record.candidate_log_prob.shape}, "
            f"wanted {ids.shape} (candidates)"
        )
    positions = record.sample_positions
    inside = len(positions) == 0 or (positions.min() >= 0 and positions.max() < len(tokens))
    if not inside or np.any(np.diff(positions) <= 0) or not record.scored[positions].all():
        raise GolfError("neural record: sample_positions must be rising scored positions")


def _materialize(
    t: int, tokens: np.ndarray, table: CountTable, record: NeuralRecord, ids: np.ndarray, parts: Parts,
    documents: DocumentCounts, log_probs: np.ndarray,
) -> tuple[np.ndarray, float, bool]:  # fmt: skip
    """The whole distribution at ``t`` and whether a plain recount of ``tokens[:t]`` agrees with the table."""
    s = slice(int(table.start[t]), int(table.start[t]) + int(table.matched[t]))
    bounds, successor, count = [0], [], []
    agrees = True
    ends = np.arange(1, t)  # positions that follow a context of one token or more, all earlier than t
    length = 0
    for k, order in enumerate(table.orders):
        while length < order:
            length += 1
            ends = ends[ends >= length]
            ends = ends[tokens[ends - length] == tokens[t - length]] if t >= length else ends[:0]
        followers, counts = np.unique(tokens[ends], return_counts=True)
        if k >= int(table.matched[t]):
            agrees = agrees and len(ends) == 0
            continue
        e = int(table.start[t]) + k
        target = counts[followers == tokens[t]].sum()
        found = (len(ends), target, len(followers), tokens[ends[-1]] if len(ends) else -1)
        agrees = agrees and found == (table.n[e], table.c[e], table.u[e], table.last[e])
        successor.append(followers)
        count.append(counts)
        bounds.append(bounds[-1] + len(followers))
    empty, here = np.zeros(0, np.int64), recount(tokens, documents, t)
    for again, counted in ((here.n, documents.n), (here.u, documents.u), (here.of_target(tokens[t]), documents.c)):
        agrees = agrees and np.array_equal(again, counted[t])
    row, weight = mixture_row(
        parts, np.float64(record.entropy[t]), table.n[s], table.u[s], table.last[s], table.last_count[s], table.r[s],
        np.asarray(bounds, np.int64), np.concatenate([empty, *successor]).astype(np.uint16),
        np.concatenate([empty, *count]).astype(np.int32), ids[t], np.int64(record.argmax[t]),
        np.exp(log_probs.astype(np.float64)), *here
    )  # fmt: skip
    return row, float(weight), bool(agrees)
