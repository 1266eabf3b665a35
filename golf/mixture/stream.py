"""The mixture one token at a time with whole distributions, for coding text: the same kernels as the batch form.

Shapes: V vocabulary, B parallel streams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golf.mixture.config import MixtureConfig
from golf.mixture.document import DocumentCounter, DocumentMatches
from golf.mixture.mixture import mixture_row, new_parts, score_token
from golf.mixture.record import summarize_row
from golf.mixture.tree import ContextTree, Matches

__all__ = ["MixtureState"]


@dataclass(frozen=True)
class _Pending:
    """What ``distribution`` used for one stream, kept until its token is known."""

    probs: np.ndarray
    entropy: float
    argmax: int
    matches: Matches
    ids: np.ndarray
    document: DocumentMatches


class MixtureState:
    """All counts and learned weights after the tokens so far.

    Use ``row = distribution(log_probs)``, code the token with ``row``, then ``update(token)``; a token that is not
    predicted (a stream's first) is given to ``update`` alone. Streams share counts and weights and see them in the
    order of the calls, so encoder and decoder must make the same calls in the same order. With one stream the
    probabilities equal those of ``golf.mixture.mixture.mix`` bit for bit. The document bias acts
    before, on ``log_probs``.
    """

    def __init__(self, config: MixtureConfig, *, vocab_size: int, streams: int = 1) -> None:
        self._config = config
        self._vocab_size = vocab_size
        self._tree = ContextTree(orders=config.orders, near_tokens=config.layers.near_tokens, streams=streams)
        near, orders = config.layers.near_tokens, config.layers.document_orders
        self._document = DocumentCounter(orders, near_tokens=near, streams=streams)
        self._parts = new_parts(config)
        self._uses = np.array([order in config.record.candidate_orders for order in config.orders])
        self._pending: list[_Pending | None] = [None] * streams

    @property
    def num_bytes(self) -> int:
        """Memory of the counts, bytes."""
        return self._tree.num_bytes

    def distribution(self, log_probs: np.ndarray, *, stream: int = 0) -> np.ndarray:
        """The mixture (V,) float64 for the next token of ``stream``, from normalized neural ``log_probs`` (V,)."""
        if log_probs.shape != (self._vocab_size,):
            raise ValueError(f"log_probs: found shape {log_probs.shape}, wanted ({self._vocab_size},)")
        exact = np.ascontiguousarray(log_probs, dtype=np.float64)
        probs = np.exp(exact)
        entropy, argmax = summarize_row(exact, probs)
        found = self._tree.matches(stream=stream)
        ids = self._candidates(found)
        document = self._document.matches(stream=stream)
        self._pending[stream] = _Pending(probs, entropy, argmax, found, ids, document)
        row, _ = mixture_row(
            self._parts, entropy, found.n, found.u, found.last, found.last_count, found.r, found.bounds,
            found.successor, found.times, ids, argmax, probs, *document,
        )  # fmt: skip
        return np.asarray(row)

    def update(self, token: int, *, stream: int = 0, starts_document: bool = False) -> None:
        """Learn ``token``, the next one of ``stream``; ``starts_document`` marks a document's first token."""
        if not 0 <= token < self._vocab_size:
            raise ValueError(f"token: found {token}, wanted 0 to {self._vocab_size - 1}")
        pending = self._pending[stream]
        if pending is not None:
            found, document, probs = pending.matches, pending.document, pending.probs
            counted = np.zeros(len(found.n), np.int32)
            for k in range(len(counted)):
                part = slice(found.bounds[k], found.bounds[k + 1])
                counted[k] = found.times[part][found.successor[part] == token].sum()
            chosen = np.where(pending.ids >= 0, probs[pending.ids], 0.0)
            score_token(
                self._parts, pending.entropy, found.n, counted, found.u, found.last, found.last_count, found.r,
                pending.ids, chosen, pending.argmax, probs[pending.argmax], token, probs[token], document.n,
                document.of_target(token), document.u, document.r,
            )  # fmt: skip
            self._pending[stream] = None
        self._tree.update(token, stream=stream, starts_document=starts_document)
        self._document.update(token, stream=stream, starts_document=starts_document)

    def _candidates(self, found: Matches) -> np.ndarray:
        ids = np.full(self._config.record.candidates, -1, dtype=np.int32)
        filled = 0
        for k in range(len(found.n) - 1, -1, -1):
            token = int(found.last[k])
            if filled < len(ids) and self._uses[k] and token not in ids[:filled]:
                ids[filled] = token
                filled += 1
        return ids
