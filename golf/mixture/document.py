"""Causal counts of the current document alone: over a whole text at once, or one token at a time.

The context of a position is its last L tokens, all of one document (L = 0 counts the document's tokens); it belongs to
the document of its last token, never the target's. Both forms grow a trie of n-grams; over a text it forgets documents
that are over. What the counts add to the mixture is laid over it by a chain of ``golf.mixture.backoff``.
Shapes: N tokens, T tokens of a piece, X context lengths. Source: document cache of Kuhn and De Mori (1990).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golf.base.jit import kernel, part
from golf.mixture import tree
from golf.mixture.counts import checked_starts
from golf.mixture.position import Followers, Seen
from golf.mixture.tree import rehash, slot_of

__all__ = [
    "DocumentCounter", "DocumentCounts", "Documents", "append_in_document", "count_documents", "document_room",
    "query_document", "recount_documents",
]  # fmt: skip

BLOCK_TOKENS = 2048  # whose n-grams there is room for at a time


@dataclass(frozen=True)
class DocumentCounts:
    """Counts (T, X) of positions from ``begin`` on and each of ``orders`` (X), named as in ``CountTable``: int32 ``n``
    occurrences of the context before t (0: silent), ``c`` how many were followed by ``tokens[t]`` (the only field that
    knows the target), ``u`` distinct successors; uint8 ``r`` recency (2 far, 3 near). ``starts`` (D,) of documents."""

    orders: tuple[int, ...]
    starts: np.ndarray
    n: np.ndarray
    c: np.ndarray
    u: np.ndarray
    r: np.ndarray
    begin: int = 0

    @property
    def seen(self) -> Seen:
        """All positions (T, X) as kernels take them, without what knows the target."""
        return Seen(self.n, self.u, self.r)

    @property
    def num_tokens(self) -> int:
        """Positions with counts."""
        return len(self.n)

    @property
    def num_bytes(self) -> int:
        """Memory, bytes."""
        return self.n.nbytes + self.c.nbytes + self.u.nbytes + self.r.nbytes

    def read(self, begin: int, stop: int) -> DocumentCounts:
        """Those of positions ``begin`` to ``stop - 1`` of a whole text."""
        n, c, u, r = (array[begin:stop] for array in (self.n, self.c, self.u, self.r))
        return DocumentCounts(self.orders, self.starts, n, c, u, r, begin)


class Documents:
    """Counts of every context length at every position of ``tokens`` (N,), from strictly earlier tokens of its
    document; to be read in pieces, once or more from the beginning. In memory are the n-grams of the document that is
    read and of few before it."""

    def __init__(
        self, tokens: np.ndarray, doc_starts: np.ndarray, orders: tuple[int, ...], *, near_tokens: int
    ) -> None:
        self.orders, self.num_tokens = tuple(orders), len(tokens)
        self._tokens, self._near = np.ascontiguousarray(tokens, np.int32), near_tokens
        self._starts = checked_starts(doc_starts, len(tokens))
        self._counter = DocumentCounter(self.orders, near_tokens=near_tokens)

    @property
    def num_bytes(self) -> int:
        """Memory of the n-grams, bytes."""
        return sum(array.nbytes for array in self._counter.arrays)

    def read(self, begin: int, stop: int) -> DocumentCounts:
        """Counts of positions ``begin`` to ``stop - 1``; ``begin`` is 0, or where the last call stopped."""
        if begin == 0:
            self._counter = DocumentCounter(self.orders, near_tokens=self._near)
        n, c, u = (np.zeros((stop - begin, len(self.orders)), np.int32) for _ in range(3))
        r = np.zeros((stop - begin, len(self.orders)), np.uint8)
        starts = np.zeros(stop - begin, np.bool_)
        starts[self._starts[slice(*np.searchsorted(self._starts, (begin, stop)))] - begin] = True
        for first in range(begin, stop if self.orders else begin, BLOCK_TOKENS):
            block = slice(first, min(first + BLOCK_TOKENS, stop))
            here = slice(block.start - begin, block.stop - begin)
            self._counter.read(self._tokens[block], starts[here], _Columns(n[here], c[here], u[here], r[here]))
        return DocumentCounts(self.orders, self._starts, n, c, u, r, begin)


def count_documents(
    tokens: np.ndarray, doc_starts: np.ndarray, orders: tuple[int, ...], *, near_tokens: int
) -> DocumentCounts:
    """All counts of a text at once: for short texts; the arguments are those of ``Documents``."""
    return Documents(tokens, doc_starts, orders, near_tokens=near_tokens).read(0, len(tokens))


def recount_documents(tokens: np.ndarray, table: DocumentCounts, t: int) -> tuple[Followers, bool]:
    """Successors of the contexts of position ``t``, by plain search of ``tokens[:t]``; whether ``table`` agrees."""
    bounds, pieces, agrees = [0], [(np.zeros(0, np.int32), np.zeros(0, np.int64))], True
    start = int(table.starts[np.searchsorted(table.starts, t - 1, side="right") - 1]) if t else 0
    for i, length in enumerate(table.orders):
        ends = np.arange(start + max(1, length), t)  # whose context is of this document, as is that of t if any is
        for back in range(length if len(ends) else 0):
            ends = ends[tokens[ends - 1 - back] == tokens[t - 1 - back]]
        followers, times = np.unique(tokens[ends], return_counts=True)
        again = (len(ends), times[followers == tokens[t]].sum(), len(followers))
        agrees = agrees and again == tuple(column[t - table.begin, i] for column in (table.n, table.c, table.u))
        pieces.append((followers, times))
        bounds.append(bounds[-1] + len(followers))
    token, times = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return Followers(np.asarray(bounds, np.int64), token.astype(np.uint16), times.astype(np.int32)), bool(agrees)


class _Columns(NamedTuple):
    """The fields (T, X) of ``DocumentCounts``."""

    n: np.ndarray
    c: np.ndarray
    u: np.ndarray
    r: np.ndarray


class _Trie(NamedTuple):
    """All arrays: a trie of n-grams for each document, (nodes,) each, as ``golf.mixture.tree`` has one for the text,
    but not lazy. ``last_place``: index within the document of what followed last. ``sizes`` (1,) nodes; of each stream
    ``length`` of its document (S,) and the nodes of its last tokens, ``active`` (S, longest + 1), the root first."""

    token: np.ndarray
    seen: np.ndarray
    n: np.ndarray
    u: np.ndarray
    last_place: np.ndarray
    child: np.ndarray
    sibling: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    sizes: np.ndarray
    length: np.ndarray
    active: np.ndarray


class DocumentCounter:
    """The same counts one token at a time, for parallel streams, each with a document of its own."""

    def __init__(self, orders: tuple[int, ...], *, near_tokens: int, streams: int = 1) -> None:
        self._orders, self._near = np.asarray(orders, dtype=np.int64), near_tokens
        table = np.full(4096, -1, np.int64), np.zeros(4096, np.int32)
        places = np.zeros(streams, np.int64), np.full((streams, max(orders, default=0) + 1), -1, np.int32)
        nodes = [np.full(1024, -1, np.int32) for _ in range(7)]
        self.arrays = _Trie._make([*nodes, *table, np.zeros(1, np.int64), *places])

    def reserve(self, tokens: int) -> None:
        """Make room for the next ``tokens``; this may replace ``arrays``."""
        trie = self.arrays
        needed = int(trie.sizes[0]) + tokens * (trie.active.shape[1] + 1)
        if needed > len(trie.token):
            grown = [np.concatenate([a, np.full(2 * needed - len(a), -1, np.int32)]) for a in trie[:7]]
            trie = _Trie._make([*grown, *trie[7:]])
        while 2 * needed > len(trie.keys):
            keys, values = rehash(trie.keys, trie.values, 4 * len(trie.keys))
            trie = trie._replace(keys=keys, values=values)
        self.arrays = trie

    def update(self, token: int, *, stream: int = 0, starts_document: bool = False) -> None:
        """Append ``token`` to ``stream`` and count it in every context, unless it begins a document."""
        self.reserve(1)
        _append(self.arrays, stream, token, starts_document)

    def read(self, tokens: np.ndarray, starts: np.ndarray, out: _Columns) -> None:
        """Append ``tokens`` (T,) to the only stream, the counts of each before it into ``out`` (T, X). ``starts`` (T,)
        marks those that begin documents: there what earlier documents have is forgotten when it is much."""
        self.reserve(len(tokens))
        _read(self.arrays, tokens, starts, self._orders, self._near, out)

    def matches(self, *, stream: int = 0) -> tuple[Seen, Followers]:
        """Every order's counts (X,) for the next token of ``stream``, and its successors."""
        seen, followers = document_room(len(self._orders), 1 << 16)
        _query(self.arrays, stream, self._orders, self._near, seen, followers)
        return seen, followers


def document_room(orders: int, vocab_size: int) -> tuple[Seen, Followers]:
    """Where ``query_document`` writes: counts (X,) and as many successors as there can be."""
    size = orders * vocab_size
    return Seen(*(np.zeros(orders, kind) for kind in (np.int32, np.int32, np.uint8))), Followers(
        np.zeros(orders + 1, np.int64), np.zeros(size, np.uint16), np.zeros(size, np.int32)
    )


@part(_nrt=False)
def _child(trie, parent, token):  # type: ignore[no-untyped-def]
    """The node of ``token`` behind ``parent``, made when new; a new one has not been seen."""
    key = (np.int64(parent) << 16) | np.int64(token)
    at = slot_of(trie.keys, key)
    if trie.keys[at] == -1:
        node = np.int32(trie.sizes[0])
        trie.sizes[0] += 1
        trie.keys[at], trie.values[at] = key, node
        trie.token[node], trie.seen[node], trie.n[node], trie.u[node], trie.child[node] = token, 0, 0, 0, -1
    return trie.values[at]


@part(_nrt=False)
def append_in_document(trie, stream, token, starts_document):  # type: ignore[no-untyped-def]
    """Append ``token`` to ``stream``."""
    active = trie.active[stream]
    starts = starts_document or active[0] < 0
    if starts:
        active[:] = -1
        active[0] = np.int32(trie.sizes[0])
        trie.sizes[0] += 1
        trie.n[active[0]], trie.u[active[0]], trie.child[active[0]] = 0, 0, -1
        trie.length[stream] = 0
    for order in range(len(active) - 1, -1, -1):
        parent = active[order]
        if parent < 0:
            continue
        node = _child(trie, parent, token)
        if not starts:
            if trie.seen[node] == 0:
                trie.sibling[node], trie.child[parent] = trie.child[parent], node
                trie.u[parent] += 1
            trie.seen[node] += 1
            trie.n[parent] += 1
            trie.last_place[parent] = trie.length[stream]
        if order + 1 < len(active):
            active[order + 1] = node
    trie.length[stream] += 1


@part(_nrt=False)
def query_document(trie, stream, orders, near, seen, followers):  # type: ignore[no-untyped-def]
    """What the document knows of the next token of ``stream``, into ``seen`` (X,) and ``followers``."""
    filled = 0
    for i in range(len(orders)):
        node = trie.active[stream, orders[i]]
        seen.n[i], seen.u[i], seen.r[i] = 0, 0, 0
        if node >= 0 and trie.n[node] > 0:
            seen.n[i], seen.u[i] = trie.n[node], trie.u[node]
            seen.r[i] = 2 if trie.length[stream] - trie.last_place[node] > near else 3
            child = trie.child[node]
            while child >= 0:
                followers.token[filled], followers.times[filled] = trie.token[child], trie.seen[child]
                filled += 1
                child = trie.sibling[child]
        followers.bounds[i + 1] = filled


_append, _query = (  # for Python
    kernel(each, parts=(tree,), _nrt=False) for each in (append_in_document, query_document)
)


@kernel(parts=(tree,), _nrt=False)
def _read(trie, tokens, starts, orders, near, out):  # type: ignore[no-untyped-def]
    active = trie.active[0]
    for t in range(len(tokens)):
        for i in range(len(orders)):
            node = active[orders[i]]
            if node >= 0 and trie.n[node] > 0:
                out.n[t, i], out.u[t, i] = trie.n[node], trie.u[node]
                out.r[t, i] = 2 if trie.length[0] - trie.last_place[node] > near else 3
                at = slot_of(trie.keys, (np.int64(node) << 16) | np.int64(tokens[t]))
                if trie.keys[at] != -1:
                    out.c[t, i] = trie.seen[trie.values[at]]
        if starts[t] and 4 * trie.sizes[0] > len(trie.keys):
            trie.sizes[0] = 0
            for at in range(len(trie.keys)):
                trie.keys[at] = -1
        append_in_document(trie, 0, tokens[t], starts[t])
