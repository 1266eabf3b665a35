"""Causal counts of the current document alone: over a whole text at once, or one token at a time.

The context of a position is its last L tokens, all of one document (L = 0 counts the document's tokens); it belongs to
the document of its last token, never the target's. Over a text the counts are ranks inside groups of equal contexts, as
in ``golf.mixture.counts``. What they add to the mixture is laid over it by a chain of ``golf.mixture.backoff``.
Shapes: N tokens, X context lengths. Source: document cache of Kuhn and De Mori (1990).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golf.base.jit import kernel
from golf.mixture.counts import document_of
from golf.mixture.position import Followers, Seen

__all__ = ["DocumentCounter", "DocumentCounts", "count_documents", "recount_documents"]


@dataclass(frozen=True)
class DocumentCounts:
    """Counts (N, X) of each of ``orders`` (X), named as in ``CountTable``: int32 ``n`` occurrences of the context
    before t (0: silent), ``c`` how many were followed by ``tokens[t]`` (the only field that knows the target), ``u``
    distinct successors; uint8 ``r`` recency (2 far, 3 near). ``documents`` int32 (N,) is each token's document."""

    orders: tuple[int, ...]
    documents: np.ndarray
    n: np.ndarray
    c: np.ndarray
    u: np.ndarray
    r: np.ndarray

    @property
    def seen(self) -> Seen:
        """All positions (N, X) as kernels take them, without what knows the target."""
        return Seen(self.n, self.u, self.r)

    @property
    def num_bytes(self) -> int:
        """Memory, bytes."""
        return self.n.nbytes + self.c.nbytes + self.u.nbytes + self.r.nbytes


def count_documents(
    tokens: np.ndarray, doc_starts: np.ndarray, orders: tuple[int, ...], *, near_tokens: int
) -> DocumentCounts:
    """Counts of every context length at every position of ``tokens`` (N,), from strictly earlier tokens."""
    ids = np.ascontiguousarray(tokens, dtype=np.int32)
    docs = document_of(doc_starts, len(ids))
    n, c, u = (np.zeros((len(ids), len(orders)), np.int32) for _ in range(3))
    r = np.zeros((len(ids), len(orders)), np.uint8)
    vocab = int(ids.max(initial=0)) + 1
    for i, length in enumerate(orders):
        key = _context_keys(ids, docs, length)
        at = np.argsort(key, kind="stable")
        at = at[key[at] >= 0]
        _walk(ids, vocab, near_tokens, at, key, _Columns(n[:, i], c[:, i], u[:, i], r[:, i]))
    return DocumentCounts(tuple(orders), docs, n, c, u, r)


def recount_documents(tokens: np.ndarray, table: DocumentCounts, t: int) -> tuple[Followers, bool]:
    """Successors of the contexts of position ``t``, by plain search of ``tokens[:t]``; whether ``table`` agrees."""
    bounds, pieces, agrees = [0], [(np.zeros(0, np.int32), np.zeros(0, np.int64))], True
    for i, length in enumerate(table.orders):
        first = max(1, length)
        begin_of_document = int(np.searchsorted(table.documents[:t], table.documents[t - 1])) if t else 0
        ends = np.arange(max(first, begin_of_document), t if t >= first else first)  # whose context is looked at
        for back in range(length if len(ends) else 0):
            ends = ends[tokens[ends - 1 - back] == tokens[t - 1 - back]]
        if len(ends):
            here, begin = table.documents[[t - 1, t - first]]
            same = (table.documents[ends - 1] == here) & (table.documents[ends - first] == here)
            ends = ends[same & (here == begin)]
        followers, times = np.unique(tokens[ends], return_counts=True)
        again = (len(ends), times[followers == tokens[t]].sum(), len(followers))
        agrees = agrees and again == (table.n[t, i], table.c[t, i], table.u[t, i])
        pieces.append((followers, times))
        bounds.append(bounds[-1] + len(followers))
    token, times = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return Followers(np.asarray(bounds, np.int64), token.astype(np.uint16), times.astype(np.int32)), bool(agrees)


def _context_keys(tokens: np.ndarray, docs: np.ndarray, length: int) -> np.ndarray:
    """A number for the context of every position, int64 (N,), equal where the contexts are; -1 where there is none."""
    key = np.full(len(tokens), -1, np.int64)
    first = max(1, length)
    if first >= len(tokens):
        return key
    key[first:] = _windows(tokens, length)[: len(tokens) - first] if length else 0
    here = docs[first - 1 : -1].astype(np.int64)
    inside = here == docs[: len(tokens) - first]
    key[first:] = np.where(inside, key[first:] * (int(docs[-1]) + 1) + here, -1)
    return key


def _windows(tokens: np.ndarray, length: int) -> np.ndarray:
    """A number (below N) for each window of ``length`` tokens, by its first token: int64 (N - length + 1,)."""
    out = tokens.astype(np.int64)
    for more in range(1, length):
        num = len(tokens) - more
        pairs = out[:num] * (int(tokens.max(initial=0)) + 1) + tokens[more:]
        out = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    return out


class _Columns(NamedTuple):
    """The counts (N,) of one context length."""

    n: np.ndarray
    c: np.ndarray
    u: np.ndarray
    r: np.ndarray


@kernel
def _walk(tokens, vocab, near, at, key, out):  # type: ignore[no-untyped-def]
    """One pass over the groups of equal contexts, each in reading order; the counts of one context length."""
    seen, stamp = np.zeros(vocab, np.int32), np.full(vocab, -1)
    group, current, occurrences, distinct, previous = 0, -1, 0, 0, -1
    for i in range(len(at)):
        t = at[i]
        target = tokens[t]
        if key[t] != current:
            current, occurrences, distinct = key[t], 0, 0
            group += 1
        else:
            out.n[t] = occurrences
            out.c[t] = seen[target] if stamp[target] == group else 0
            out.u[t] = distinct
            out.r[t] = 2 if t - previous > near else 3
        if stamp[target] != group:
            stamp[target] = group
            seen[target] = 0
            distinct += 1
        seen[target] += 1
        occurrences += 1
        previous = t


class DocumentCounter:
    """The same counts one token at a time, for parallel streams, each with a document of its own. Dictionaries: about
    as slow as a coder that works on whole rows."""

    def __init__(self, orders: tuple[int, ...], *, near_tokens: int, streams: int = 1) -> None:
        self._orders, self._near = orders, near_tokens
        self._documents: list[list[int]] = [[] for _ in range(streams)]  # the tokens of each stream's document
        # per order and stream: context -> (followers and how often, index of the latest one in the document)
        self._stores: list[list[dict[tuple[int, ...], tuple[dict[int, int], int]]]] = [
            [{} for _ in range(streams)] for _ in orders
        ]

    def update(self, token: int, *, stream: int = 0, starts_document: bool = False) -> None:
        """Append ``token`` to ``stream`` and count it in every context, unless it begins a document."""
        document = self._documents[stream]
        for order, stores in zip(self._orders, self._stores, strict=True):
            context = _last(document, order)
            if starts_document:
                stores[stream].clear()
            elif context is not None:
                followers, _ = stores[stream].setdefault(context, ({}, 0))
                followers[token] = followers.get(token, 0) + 1
                stores[stream][context] = (followers, len(document))
        if starts_document:
            document.clear()
        document.append(token)

    def matches(self, *, stream: int = 0) -> tuple[Seen, Followers]:
        """Every order's counts (X,) for the next token of ``stream``, and its successors."""
        document = self._documents[stream]
        seen = Seen(*(np.zeros(len(self._orders), dtype) for dtype in (np.int32, np.int32, np.uint8)))
        token: list[int] = []
        times: list[int] = []
        bounds = [0]
        for i, (order, stores) in enumerate(zip(self._orders, self._stores, strict=True)):
            context = _last(document, order)
            if context is not None and context in stores[stream]:
                followers, latest = stores[stream][context]
                seen.n[i], seen.u[i] = sum(followers.values()), len(followers)
                seen.r[i] = 2 if len(document) - latest > self._near else 3
                token += followers.keys()
                times += followers.values()
            bounds.append(len(token))
        return seen, Followers(np.array(bounds, np.int64), np.array(token, np.uint16), np.array(times, np.int32))


def _last(document: list[int], order: int) -> tuple[int, ...] | None:
    """The last ``order`` tokens; None where the document has fewer, or none at all."""
    return tuple(document[len(document) - order :]) if len(document) >= max(1, order) else None
