"""The mixture one token at a time with whole distributions, for coding text: the same kernels as the batch form.

Shapes: V vocabulary, B parallel streams.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golf.base.errors import GolfError
from golf.mixture.config import MixtureConfig
from golf.mixture.document import DocumentCounter
from golf.mixture.expert import Expert
from golf.mixture.mixture import EXPERTS, Mixture
from golf.mixture.position import Counts, Position, Successors, Target
from golf.mixture.record import summarize_row
from golf.mixture.tree import ContextTree

__all__ = ["MixtureState"]


class _Pending(NamedTuple):
    """What ``distribution`` used for one stream, until its token is known."""

    probs: np.ndarray
    at: Position
    followers: Successors


class MixtureState:
    """All counts and learned weights after the tokens so far.

    Use ``row = distribution(log_probs)``, code the token with ``row``, then ``update(token)``; a token that is not
    predicted (a stream's first) is given to ``update`` alone. Streams share counts and weights and see them in the
    order of the calls, so encoder and decoder must make the same calls in the same order. With one stream the
    probabilities equal those of ``golf.mixture.batch.mix`` bit for bit. The document bias acts
    before, on ``log_probs``.
    """

    def __init__(
        self, config: MixtureConfig, *, vocab_size: int, streams: int = 1, experts: tuple[Expert, ...] = EXPERTS
    ) -> None:
        self._config = config
        self._vocab_size = vocab_size
        near, orders = config.layers.near_tokens, config.layers.document_orders
        self._tree = ContextTree(orders=config.orders, near_tokens=near, streams=streams)
        self._document = DocumentCounter(orders, near_tokens=near, streams=streams)
        self._mixture = Mixture(config, vocab_size, experts)
        self._uses = np.array([order in config.record.candidate_orders for order in config.orders])
        self._pending: list[_Pending | None] = [None] * streams
        self._previous = [0] * streams

    @property
    def num_bytes(self) -> int:
        """Memory of the counts, bytes."""
        return self._tree.num_bytes

    def distribution(self, log_probs: np.ndarray, *, stream: int = 0) -> np.ndarray:
        """The mixture (V,) float64 for the next token of ``stream``, from normalized neural ``log_probs`` (V,)."""
        if log_probs.shape != (self._vocab_size,):
            raise GolfError(f"log_probs: found shape {log_probs.shape}, expected ({self._vocab_size},)")
        exact = np.ascontiguousarray(log_probs, dtype=np.float64)
        probs = np.exp(exact)
        entropy, argmax = summarize_row(exact, probs)
        counts, followers = self._tree.matches(stream=stream)
        seen, in_document = self._document.matches(stream=stream)
        ids = self._candidates(counts)
        at = Position(
            self._mixture.bucket(entropy), entropy, argmax, float(probs[argmax]), ids,
            np.where(ids >= 0, probs[ids], 0.0), self._previous[stream], counts, seen,
        )  # fmt: skip
        pending = _Pending(probs, at, Successors(followers, in_document))
        self._pending[stream] = pending
        return self._mixture.predict(at, pending.followers, probs)

    def update(self, token: int, *, stream: int = 0, starts_document: bool = False) -> None:
        """Learn ``token``, the next one of ``stream``; ``starts_document`` marks a document's first token."""
        if not 0 <= token < self._vocab_size:
            raise GolfError(f"token: found {token}, expected 0 to {self._vocab_size - 1}")
        pending = self._pending[stream]
        if pending is not None:
            followers = pending.followers
            target = Target(token, followers.text.hits(token), followers.document.hits(token))
            self._mixture.perceive(pending.at, target, float(pending.probs[token]))
            self._pending[stream] = None
        self._tree.update(token, stream=stream, starts_document=starts_document)
        self._document.update(token, stream=stream, starts_document=starts_document)
        self._previous[stream] = token

    def _candidates(self, counts: Counts) -> np.ndarray:
        ids = np.full(self._config.record.candidates, -1, dtype=np.int32)
        filled = 0
        for k in range(len(counts.n) - 1, -1, -1):
            token = int(counts.last[k])
            if filled < len(ids) and self._uses[k] and token not in ids[:filled]:
                ids[filled] = token
                filled += 1
        return ids
