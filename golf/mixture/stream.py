"""The mixture one token at a time with whole distributions, for coding text: the same kernels as the batch form.

Shapes: V vocabulary, S parallel streams.
"""

from __future__ import annotations

import numpy as np

from golf.base.errors import GolfError
from golf.base.exact import exp_all
from golf.mixture.config import MixtureConfig
from golf.mixture.document import DocumentCounter, document_room
from golf.mixture.expert import Expert
from golf.mixture.mixture import EXPERTS, Mixture, Online, Piece
from golf.mixture.position import Seen
from golf.mixture.record import summarize_row
from golf.mixture.tree import ContextTree, room

__all__ = ["MixtureState"]


class MixtureState:
    """All counts and learned weights after the tokens so far.

    Use ``row = distribution(log_probs)``, code the token with ``row``, then ``update(token)`` of the same stream; a
    token that is not predicted (a stream's first) is given to ``update`` alone. Streams share counts and weights and
    see them in the order of the calls, so encoder and decoder must make the same calls in the same order. With one
    stream the probabilities are those of ``golf.mixture.batch.mix`` of the same rows. The document bias acts before,
    on ``log_probs``.
    """

    def __init__(
        self, config: MixtureConfig, *, vocab_size: int, streams: int = 1, experts: tuple[Expert, ...] = EXPERTS
    ) -> None:
        self._vocab_size = vocab_size
        near, orders = config.layers.near_tokens, config.layers.document_orders
        self._tree = ContextTree(orders=config.orders, near_tokens=near, streams=streams)
        self._document = DocumentCounter(orders, near_tokens=near, streams=streams)
        self._mixture = Mixture(config, vocab_size, experts)
        known, followers = room(len(config.orders), vocab_size)
        seen, in_document = document_room(len(orders), vocab_size)
        self._online = Online(
            states=self._mixture.states, enabled=self._mixture.enabled, edges=self._mixture.edges,
            text=self._tree.arrays, trie=self._document.arrays, orders=np.asarray(config.orders, np.int64),
            document_orders=np.asarray(orders, np.int64), near=near, previous=np.zeros(streams, np.int64),
            uses=np.array([order in config.record.candidate_orders for order in config.orders]),
            pending=np.full(1, -1), known=known, followers=followers, in_document=in_document,
            piece=_one_position(config.record.candidates, seen), hits=np.zeros(len(config.orders), np.int32),
            rows=np.zeros((len(experts) + 1, vocab_size)), out=np.zeros((len(experts), 1)),
        )  # fmt: skip

    @property
    def num_bytes(self) -> int:
        """Memory of the counts, bytes."""
        return self._tree.num_bytes

    def reserve(self, tokens: int) -> Online:
        """All arrays, with room for the next ``tokens``; a later call may replace them."""
        self._tree.reserve(tokens)
        self._document.reserve(tokens)
        self._online = self._online._replace(text=self._tree.arrays, trie=self._document.arrays)
        return self._online

    def distribution(self, log_probs: np.ndarray, *, stream: int = 0) -> np.ndarray:
        """The mixture (V,) float64 for the next token of ``stream``, from normalized neural ``log_probs`` (V,)."""
        if log_probs.shape != (self._vocab_size,):
            raise GolfError(f"log_probs: found shape {log_probs.shape}, expected ({self._vocab_size},)")
        exact, rows = np.ascontiguousarray(log_probs, dtype=np.float64), self._online.rows
        rows[0] = exp_all(exact)
        entropy, argmax = summarize_row(exact, rows[0])
        self._mixture.kernels.look(self._online, stream, entropy, argmax)
        return rows[-1].copy()

    def update(self, token: int, *, stream: int = 0, starts_document: bool = False) -> None:
        """Learn ``token``, the next one of ``stream``; ``starts_document`` marks a document's first token."""
        if not 0 <= token < self._vocab_size:
            raise GolfError(f"token: found {token}, expected 0 to {self._vocab_size - 1}")
        if self._online.pending[0] not in (-1, stream):
            raise GolfError(f"stream: found {stream}, expected {self._online.pending[0]}, which was looked at")
        self._mixture.kernels.learn(self.reserve(1), stream, token, starts_document)


def _one_position(candidates: int, seen: Seen) -> Piece:
    return Piece(
        begin=0, token=np.zeros(1, np.int32), previous=np.zeros(1, np.int32), scored=np.ones(1, np.bool_),
        start=np.zeros(1, np.int64), matched=np.zeros(1, np.uint8), ids=np.zeros((1, candidates), np.int32),
        target=np.zeros(1), entropy=np.zeros(1), argmax=np.zeros(1, np.int64), top=np.zeros(1),
        probs=np.zeros((1, candidates)), document=Seen(*(array[None] for array in seen)),
        document_hits=np.zeros((1, len(seen.n)), np.int32),
    )  # fmt: skip
