"""What the mixture knows of one position: before its token, and of its token; as kernels take it.

Shapes: M matched orders, X document orders, J candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Counts", "Followers", "Position", "Seen", "Successors", "Target"]


class Counts(NamedTuple):
    """Counts of the matched orders (M,), shortest first, named as in ``golf.mixture.counts.CountTable``."""

    n: np.ndarray
    u: np.ndarray
    last: np.ndarray
    last_count: np.ndarray
    r: np.ndarray


class Seen(NamedTuple):
    """Counts of the current document (X,), named as in ``golf.mixture.document.DocumentCounts``; n 0 is silent."""

    n: np.ndarray
    u: np.ndarray
    r: np.ndarray


class Position(NamedTuple):
    """All that is known of a position before its token. ``bucket`` of the network's ``entropy`` (nats), its ``argmax``
    and ``argmax_prob``; ``ids`` (J,) of the candidates (-1: none) and the network's ``probs`` (J,) of them; the
    ``previous`` token; counts of the ``text`` and of the ``document``."""

    bucket: int
    entropy: float
    argmax: int
    argmax_prob: float
    ids: np.ndarray
    probs: np.ndarray
    previous: int
    text: Counts
    document: Seen


class Target(NamedTuple):
    """The token that came, and how often it followed each context of the ``text`` (M,) and ``document`` (X,) before."""

    token: int
    text: np.ndarray
    document: np.ndarray


class Followers(NamedTuple):
    """Successors of contexts: those of context k are ``token[bounds[k]:bounds[k + 1]]``, seen ``times`` each."""

    bounds: np.ndarray
    token: np.ndarray
    times: np.ndarray

    def hits(self, token: int) -> np.ndarray:
        """How often ``token`` followed each context, int32."""
        pieces = [slice(a, b) for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)]
        return np.array([self.times[p][self.token[p] == token].sum() for p in pieces], dtype=np.int32)


class Successors(NamedTuple):
    """Those of the contexts of the text (M) and of the document (X)."""

    text: Followers
    document: Followers
