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

from golf.base.jit import kernel, part
from golf.mixture import tree
from golf.mixture.counts import document_of
from golf.mixture.position import Followers, Seen
from golf.mixture.tree import rehash, slot_of

__all__ = [
    "DocumentCounter", "DocumentCounts", "append_in_document", "count_documents", "document_room", "query_document",
    "recount_documents",
]  # fmt: skip

PIECE_TOKENS = 1 << 20


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
    vocab, begin = int(ids.max(initial=0)) + 1, 0
    for end in _ends(doc_starts, len(ids)):
        # a document's last context is that of the token behind it
        piece = slice(begin, min(end + 1, len(ids)))
        here, own, counted = ids[piece], docs[piece] - docs[begin], slice(begin + 1, piece.stop)
        for i, length in enumerate(orders):
            key = _context_keys(here, own, length)
            at = np.argsort(key, kind="stable")
            at = at[key[at] >= 0]
            columns = _Columns(*(np.zeros(len(here), each.dtype) for each in (n, c, u, r)))
            _walk(here, vocab, near_tokens, at, key, columns)
            n[counted, i], c[counted, i] = columns.n[1:], columns.c[1:]
            u[counted, i], r[counted, i] = columns.u[1:], columns.r[1:]
        begin = end
    return DocumentCounts(tuple(orders), docs, n, c, u, r)


def _ends(doc_starts: np.ndarray, num_tokens: int) -> list[int]:
    """Where pieces of whole documents end: of ``PIECE_TOKENS`` or little more, as sorting takes 100 bytes a token."""
    ends, begin = [], 0
    for end in [*np.asarray(doc_starts, np.int64)[1:].tolist(), num_tokens]:
        if end - begin >= PIECE_TOKENS or end == num_tokens:
            ends.append(end)
            begin = end
    return ends


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
        trie.token[node], trie.seen[node], trie.n[node], trie.u[node] = token, 0, 0, 0
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
        trie.n[active[0]], trie.u[active[0]] = 0, 0
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
