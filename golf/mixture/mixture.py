"""The mixture: the list of its experts, their states, and the kernels that move them all by a token or a text.

Shapes: T tokens, E entries of the count table, X document orders, J candidates, L layers, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from golf.base import exact
from golf.base.jit import kernel, part, step
from golf.mixture import backoff, cascade, document, expert, gate, tree
from golf.mixture.config import MixtureConfig
from golf.mixture.document import append_in_document, query_document
from golf.mixture.expert import Expert, new_states, perceive_all, predict_all
from golf.mixture.position import Counts, Followers, Position, Seen, Successors, Target
from golf.mixture.tree import append, query

__all__ = ["EXPERTS", "Mixture", "Online", "Piece", "kernels", "learn", "look"]

EXPERTS: tuple[Expert, ...] = (  # each over the layers before it
    cascade.EXPERT,
    backoff.TEXT,
    gate.EXPERT,
    backoff.DOCUMENT,
)


class Kernels(NamedTuple):
    """Compiled for one list of experts, see the functions of these names."""

    perceive: Callable[..., None]
    predict: Callable[..., None]
    look: Callable[..., None]
    learn: Callable[..., None]


@functools.cache
def kernels(experts: tuple[Expert, ...]) -> Kernels:
    """The kernels with the code of ``experts`` inside; kept on disk for as long as that code stays."""
    files = {inspect.getmodule(each.new): None for each in experts}  # a dictionary keeps their order
    parts = tuple(file for file in (exact, expert, *files) if file is not None)
    functions = _perceive, _predict, look, learn
    return Kernels(*(kernel(function, parts=(*parts, document, tree), _nrt=False) for function in functions))


class Mixture:
    """The states of all ``experts`` before any token, and the kernels that move them."""

    def __init__(self, config: MixtureConfig, vocab_size: int, experts: tuple[Expert, ...] = EXPERTS) -> None:
        self.experts = experts
        self.states = new_states(experts, config, vocab_size)
        self.enabled = np.array([each.enabled(config) for each in experts])
        self.edges = np.asarray(config.layers.entropy_edges_nats, dtype=np.float64)
        self.kernels = kernels(experts)

    def state(self, name: str) -> Any:
        """That of the expert ``name``."""
        return next(state for each, state in zip(self.experts, self.states, strict=True) if each.name == name)

    def runs(self, name: str) -> bool:
        """Whether the expert ``name`` is among those that run."""
        return any(each.name == name and on for each, on in zip(self.experts, self.enabled, strict=True))

    def bucket(self, entropy: float) -> int:
        """Bucket of the network's entropy, nats."""
        return int(np.searchsorted(self.edges, entropy))

    def predict(self, at: Position, followers: Successors, neural: np.ndarray) -> np.ndarray:
        """Distribution (V,) of the last layer from that of the network (V,); learns nothing."""
        rows = np.empty((len(self.experts) + 1, len(neural)))
        rows[0] = neural
        self.kernels.predict(self.states, self.enabled, at, followers, rows)
        return np.asarray(rows[-1])

    def perceive_range(self, counts: Counts, hits: np.ndarray, piece: Piece, out: np.ndarray) -> None:
        """Score, then learn the positions of ``piece``: probabilities of their targets by layer into ``out`` (L, N).
        ``counts`` (E,) and ``hits`` (E,), how often the token followed, are of the whole text."""
        self.kernels.perceive(self.states, self.enabled, self.edges, counts, hits, piece, out)

    @property
    def num_bytes(self) -> int:
        """Memory of the states, bytes."""
        return sum(_num_bytes(state) for state in self.states)


def _num_bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(_num_bytes(part) for part in value) if isinstance(value, tuple) else 0


def _predict(states, enabled, at, followers, rows):  # type: ignore[no-untyped-def]
    predict_all(states, enabled, at, followers, rows)


class Piece(NamedTuple):
    """Positions of a text from ``begin`` on, (T,) of each unless said otherwise.

    ``token``, the ``previous`` one, whether it is ``scored``, where its counts begin in the whole table and how many
    are ``matched``, ``ids`` (T, J) of the candidates. Of the network, float64: ``target`` probability, ``entropy``,
    ``argmax``, ``top`` probability, ``probs`` (T, J) of the candidates. Counts of the ``document`` (T, X), and how
    often the token followed there, ``document_hits`` (T, X)."""

    begin: int
    token: np.ndarray
    previous: np.ndarray
    scored: np.ndarray
    start: np.ndarray
    matched: np.ndarray
    ids: np.ndarray
    target: np.ndarray
    entropy: np.ndarray
    argmax: np.ndarray
    top: np.ndarray
    probs: np.ndarray
    document: Seen
    document_hits: np.ndarray


def _perceive(states, enabled, edges, counts, hits, piece, out):  # type: ignore[no-untyped-def]
    _perceive_piece(states, enabled, edges, counts, hits, piece, out)


@step
def _perceive_piece(states, enabled, edges, counts, hits, piece, out):  # type: ignore[no-untyped-def]
    """Score and learn a piece of the text: ``out`` (L, N) are the target's probabilities by layer. ``counts`` (E,)
    and ``hits`` (E,) are of the whole text."""
    document = piece.document
    for t in range(len(piece.token)):
        if piece.scored[t]:
            bucket = 0
            while bucket < len(edges) and piece.entropy[t] > edges[bucket]:
                bucket += 1
            s, e = piece.start[t], piece.start[t] + piece.matched[t]
            at = Position(
                bucket, piece.entropy[t], piece.argmax[t], piece.top[t], piece.ids[t], piece.probs[t],
                np.int64(piece.previous[t]),
                Counts(counts.n[s:e], counts.u[s:e], counts.last[s:e], counts.last_count[s:e], counts.r[s:e]),
                Seen(document.n[t], document.u[t], document.r[t]),
            )
            target = Target(np.int64(piece.token[t]), hits[s:e], piece.document_hits[t])
            perceive_all(states, enabled, at, target, piece.target[t], out, piece.begin + t)


class Online(NamedTuple):
    """The mixture of parallel streams as kernels take it. ``text`` and ``trie`` count (``golf.mixture.tree``,
    ``golf.mixture.document``), ``previous`` (S,) token of each stream. The rest is of the position looked at:
    ``pending`` (1,) its stream or -1, ``known`` its counts with their ``hits`` (K,), ``piece`` of one token, ``rows``
    (L + 1, V) by layer with the network's in front, ``out`` (L, 1)."""

    states: Any
    enabled: np.ndarray
    edges: np.ndarray
    text: Any
    trie: Any
    orders: np.ndarray
    document_orders: np.ndarray
    uses: np.ndarray
    near: int
    previous: np.ndarray
    pending: np.ndarray
    known: Counts
    followers: Followers
    in_document: Followers
    piece: Piece
    hits: np.ndarray
    rows: np.ndarray
    out: np.ndarray


@part(_nrt=False)
def look(online, stream, entropy, argmax):  # type: ignore[no-untyped-def]
    """The layers' distributions of the next token of ``stream`` into ``rows``, from the network's row 0 of them, whose
    ``entropy`` and ``argmax`` are given."""
    piece, known, row = online.piece, online.known, online.rows[0]
    matched = query(online.text, stream, online.orders, online.near, known, online.followers)
    query_document(online.trie, stream, online.document_orders, online.near,
                   Seen(piece.document.n[0], piece.document.u[0], piece.document.r[0]), online.in_document)  # fmt: skip
    online.pending[0] = stream
    ids, filled = piece.ids[0], 0
    for j in range(len(ids)):
        ids[j] = -1
        piece.probs[0, j] = 0.0
    for k in range(matched - 1, -1, -1):  # the last successors of the longest contexts, each once
        token, fresh = np.int32(known.last[k]), online.uses[k]
        for j in range(filled):
            fresh = fresh and ids[j] != token
        if fresh and filled < len(ids):
            ids[filled], piece.probs[0, filled] = token, row[token]
            filled += 1
    piece.matched[0], piece.previous[0] = matched, online.previous[stream]
    piece.entropy[0], piece.argmax[0], piece.top[0] = entropy, argmax, row[argmax]
    bucket = 0
    while bucket < len(online.edges) and entropy > online.edges[bucket]:
        bucket += 1
    at = Position(
        bucket, entropy, argmax, row[argmax], ids, piece.probs[0], np.int64(piece.previous[0]),
        Counts(
            known.n[:matched], known.u[:matched], known.last[:matched], known.last_count[:matched], known.r[:matched]
        ),
        Seen(piece.document.n[0], piece.document.u[0], piece.document.r[0]),
    )  # fmt: skip
    predict_all(online.states, online.enabled, at, Successors(online.followers, online.in_document), online.rows)


@part(_nrt=False)
def learn(online, stream, token, starts_document):  # type: ignore[no-untyped-def]
    """The next token of ``stream``: learned where it was looked at, counted in any case."""
    if online.pending[0] == stream:
        piece = online.piece
        _count_hits(online.followers, piece.matched[0], token, online.hits)
        _count_hits(online.in_document, len(online.document_orders), token, piece.document_hits[0])
        piece.token[0], piece.target[0] = token, online.rows[0, token]
        _perceive_piece(online.states, online.enabled, online.edges, online.known, online.hits, piece, online.out)
        online.pending[0] = -1
    append(online.text, stream, token, starts_document)
    append_in_document(online.trie, stream, token, starts_document)
    online.previous[stream] = token


@part(_nrt=False)
def _count_hits(followers, contexts, token, hits):  # type: ignore[no-untyped-def]
    """How often ``token`` followed each context."""
    for k in range(contexts):
        hits[k] = 0
        for i in range(followers.bounds[k], followers.bounds[k + 1]):
            if followers.token[i] == token:
                hits[k] = followers.times[i]
