"""The mixture: the list of its experts, their states, and the kernels that move them all by a token or a text.

Shapes: T tokens, E entries of the count table, X document orders, J candidates, L layers, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from golf.base.jit import kernel
from golf.mixture import backoff, cascade, expert, gate
from golf.mixture.config import MixtureConfig
from golf.mixture.expert import Expert, new_states, perceive_all, predict_all
from golf.mixture.position import Counts, Position, Seen, Successors, Target

__all__ = ["EXPERTS", "Mixture", "Piece"]

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


@functools.cache
def kernels(experts: tuple[Expert, ...]) -> Kernels:
    """The kernels with the code of ``experts`` inside; kept on disk for as long as that code stays."""
    files = {inspect.getmodule(each.new): None for each in experts}  # a dictionary keeps their order
    parts = tuple(file for file in (expert, *files) if file is not None)
    functions = _perceive, _predict
    return Kernels(*(kernel(function, parts=parts, forceinline=True, _nrt=False) for function in functions))


class Mixture:
    """The states of all ``experts`` before any token, and the kernels that move them."""

    def __init__(self, config: MixtureConfig, vocab_size: int, experts: tuple[Expert, ...] = EXPERTS) -> None:
        self.experts = experts
        self.states = new_states(experts, config, vocab_size)
        self.enabled = np.array([each.enabled(config) for each in experts])
        self.edges = np.asarray(config.layers.entropy_edges_nats, dtype=np.float64)
        self.kernels = kernels(experts)
        self._scratch = np.empty((len(experts), 1))

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

    def perceive(self, at: Position, target: Target, neural: float) -> None:
        """Learn the token that came, whose probability by the network is ``neural``."""
        piece = Piece(
            begin=0,
            token=np.array([target.token], np.int32),
            previous=np.array([at.previous], np.int32),
            scored=np.ones(1, np.bool_),
            start=np.zeros(1, np.int64),
            matched=np.array([len(target.text)], np.uint8),
            ids=at.ids[None],
            target=np.array([neural]),
            entropy=np.array([at.entropy]),
            argmax=np.array([at.argmax], np.int64),
            top=np.array([at.argmax_prob]),
            probs=at.probs[None],
            document=Seen(*(array[None] for array in at.document)),
            document_hits=target.document[None],
        )
        self.perceive_range(at.text, target.text, piece, self._scratch)

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
