"""Exact causal counts of every context order, as ranks inside groups of equal contexts.

In scoring all tokens are known, so "counts from tokens[:t]" is a rank: positions are kept sorted by (context, position)
and a walk over each group of equal contexts meets its members in reading order. Going from length L to L + 1 is one
stable counting sort by the token that enters the context, so groups are exact: nothing is hashed, no contexts merge.
Positions whose context occurs once in the whole text drop out: no longer context of theirs can repeat.

Shapes: N tokens, K orders, E entries (one for each position and order whose context was seen before), J candidates.
Source: evaluation study section 3; the refinement is the radix step of prefix doubling (Manber and Myers 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golf.base.errors import GolfError
from golf.base.jit import kernel

__all__ = ["CountTable", "candidates", "count_contexts", "document_of"]

MAX_VOCAB = 65535  # ids and successor counts are stored as uint16


@dataclass(frozen=True)
class CountTable:
    """Counts from strictly earlier tokens, for every position t and every order whose context was seen before t.

    Contexts of longer orders contain the shorter ones, so position t has entries for its first ``matched[t]`` orders:
    entry ``start[t] + k`` belongs to ``orders[k]``.

    - ``n`` (E,) int32: earlier occurrences of the last ``orders[k]`` tokens before t
    - ``c`` (E,) int32: how many of them were followed by ``tokens[t]`` (the only field that knows the target)
    - ``u`` (E,) uint16: distinct successors
    - ``last`` (E,) uint16: successor at the latest occurrence, ``last_count`` (E,) int32: how often it followed
    - ``r`` (E,) uint8: that occurrence lies in 1 another document, 2 this one but far, 3 this one and near
    """

    orders: tuple[int, ...]
    vocab_size: int
    matched: np.ndarray
    start: np.ndarray
    n: np.ndarray
    c: np.ndarray
    u: np.ndarray
    last: np.ndarray
    last_count: np.ndarray
    r: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays, bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))


def document_of(doc_starts: np.ndarray, num_tokens: int) -> np.ndarray:
    """Index of the document of every token, int32 (N,); ``doc_starts`` rise and begin with 0.

    Raises ``GolfError`` when they do not.
    """
    starts = np.asarray(doc_starts, dtype=np.int64)
    rising = len(starts) > 0 and starts[0] == 0 and bool(np.all(np.diff(starts) > 0)) and starts[-1] < num_tokens
    if not rising:
        raise GolfError(f"doc_starts: found {starts[:5].tolist()}..., wanted rising positions, 0 to {num_tokens - 1}")
    marks = np.zeros(num_tokens, dtype=np.int32)
    marks[starts[1:]] = 1
    return np.cumsum(marks, dtype=np.int32)


def count_contexts(
    tokens: np.ndarray, doc_starts: np.ndarray, *, orders: tuple[int, ...], vocab_size: int, near_tokens: int = 900
) -> CountTable:
    """Count every context of ``orders`` (rising lengths, tokens) causally over the whole stream ``tokens`` (N,).

    Contexts run across document starts; ``doc_starts`` only decides the recency class ``r``, seen from the last
    context token, so the target is never read for it. Raises ``GolfError`` for ids outside the vocabulary.
    """
    if not 0 < vocab_size <= MAX_VOCAB:
        raise GolfError(f"vocab_size: found {vocab_size}, wanted 1 to {MAX_VOCAB}")
    ids = np.ascontiguousarray(tokens, dtype=np.int32)
    if len(ids) == 0 or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        raise GolfError(f"tokens: wanted at least one id, all from 0 to {vocab_size - 1}")
    docs = document_of(doc_starts, len(ids))
    lengths = np.asarray(orders, dtype=np.int64)
    matched = np.zeros(len(ids), dtype=np.uint8)
    nothing = tuple(np.zeros(0, dtype) for dtype in _ENTRY_TYPES)
    _walk_orders(ids, docs, lengths, vocab_size, near_tokens, matched, np.zeros(0, np.int64), *nothing)
    start = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum(matched, out=start[1:])
    entries = tuple(np.zeros(int(start[-1]), dtype) for dtype in _ENTRY_TYPES)
    _walk_orders(ids, docs, lengths, vocab_size, near_tokens, matched, start, *entries)
    n, c, u, last, last_count, r = entries
    return CountTable(tuple(orders), vocab_size, matched, start[:-1], n, c, u, last, last_count, r)


def candidates(table: CountTable, *, count: int, orders: tuple[int, ...]) -> np.ndarray:
    """The distinct last successors of the longest matching contexts, longest first: int32 (N, count), -1 where none.

    They depend on ``tokens[:t]`` alone, so they exist before the neural pass, which gathers ``log p`` at these ids.
    """
    use = np.array([order in orders for order in table.orders])
    out = np.full((len(table.matched), count), -1, dtype=np.int32)
    _fill_candidates(table.matched, table.start, table.last, use, out)
    return out


_ENTRY_TYPES = (np.int32, np.int32, np.uint16, np.uint16, np.int32, np.uint8)


@kernel
def _refine(tokens, length, vocab, position, group, size, out_position, out_group):  # type: ignore[no-untyped-def]
    """From groups of contexts of ``length - 1`` to those of ``length``; keeps groups of two or more; new size."""
    begin = np.zeros(vocab + 1, np.int64)
    for i in range(size):
        if position[i] >= length:
            begin[tokens[position[i] - length] + 1] += 1
    for v in range(vocab):
        begin[v + 1] += begin[v]
    total = begin[vocab]
    for i in range(size):
        t = position[i]
        if t >= length:
            v = tokens[t - length]
            out_position[begin[v]] = t
            out_group[begin[v]] = group[i]
            begin[v] += 1
    kept = 0
    groups = 0
    i = 0
    while i < total:
        v, g = tokens[out_position[i] - length], out_group[i]
        j = i + 1
        while j < total and out_group[j] == g and tokens[out_position[j] - length] == v:
            j += 1
        if j - i > 1:
            for k in range(i, j):  # kept <= i, so nothing unread is overwritten
                out_position[kept] = out_position[k]
                out_group[kept] = groups
                kept += 1
            groups += 1
        i = j
    return kept


@kernel
def _walk_group(tokens, docs, near, position, group, size, k, seen, stamp, start, n, c, u, last, last_count, r):  # type: ignore[no-untyped-def]
    """Write the entries of order number ``k``: one pass over the groups, each in reading order."""
    current, occurrences, distinct, before = -1, 0, 0, -1
    stamp[:] = -1
    for i in range(size):
        t = position[i]
        target = tokens[t]
        if group[i] != current:
            current, occurrences, distinct = group[i], 0, 0
        else:
            e = start[t] + k
            n[e] = occurrences
            c[e] = seen[target] if stamp[target] == current else 0
            u[e] = distinct
            last[e] = tokens[before]
            last_count[e] = seen[tokens[before]]
            if docs[before] != docs[t - 1]:
                r[e] = 1
            else:
                r[e] = 2 if t - before > near else 3
        if stamp[target] != current:
            stamp[target] = current
            seen[target] = 0
            distinct += 1
        seen[target] += 1
        occurrences += 1
        before = t


@kernel
def _walk_orders(tokens, docs, lengths, vocab, near, matched, start, n, c, u, last, last_count, r):  # type: ignore[no-untyped-def]
    """All orders in turn. With an empty ``start`` it only counts the matched orders, else it writes the entries."""
    total = len(tokens)
    position, group = np.arange(total).astype(np.int32), np.zeros(total, np.int32)
    next_position, next_group = np.empty(total, np.int32), np.empty(total, np.int32)
    seen, stamp = np.zeros(vocab, np.int32), np.zeros(vocab, np.int32)
    size, length = total, 0
    for k in range(len(lengths)):
        while length < lengths[k]:
            length += 1
            size = _refine(tokens, length, vocab, position, group, size, next_position, next_group)
            position, next_position = next_position, position
            group, next_group = next_group, group
        if len(start) == 0:
            for i in range(1, size):
                if group[i] == group[i - 1]:
                    matched[position[i]] += 1
        else:
            _walk_group(tokens, docs, near, position, group, size, k, seen, stamp, start, n, c, u, last, last_count, r)


@kernel
def _fill_candidates(matched, start, last, use, out):  # type: ignore[no-untyped-def]
    for t in range(len(matched)):
        filled = 0
        for k in range(matched[t] - 1, -1, -1):
            if filled == out.shape[1]:
                break
            if use[k]:
                token = np.int32(last[start[t] + k])
                fresh = True
                for j in range(filled):
                    fresh = fresh and out[t, j] != token
                if fresh:
                    out[t, filled] = token
                    filled += 1
