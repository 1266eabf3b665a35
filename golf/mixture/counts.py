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
from typing import NamedTuple

import numpy as np

from golf.base.errors import GolfError
from golf.base.jit import kernel
from golf.mixture.position import Counts, Followers

__all__ = ["CountTable", "TokenIndex", "candidates", "count_contexts", "document_of", "recount_contexts"]

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
    def counts(self) -> Counts:
        """All entries (E,) as kernels take them, without those that know the target."""
        return Counts(self.n, self.u, self.last, self.last_count, self.r)

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
        raise GolfError(f"doc_starts: found {starts[:5].tolist()}..., expected rising positions, 0 to {num_tokens - 1}")
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
        raise GolfError(f"vocab_size: found {vocab_size}, expected 1 to {MAX_VOCAB}")
    ids = np.ascontiguousarray(tokens, dtype=np.int32)
    if len(ids) == 0 or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        raise GolfError(f"tokens: expected at least one id, all from 0 to {vocab_size - 1}")
    docs = document_of(doc_starts, len(ids))
    lengths = np.asarray(orders, dtype=np.int64)
    matched = np.zeros(len(ids), dtype=np.uint8)
    text = _Text(ids, docs, vocab_size, near_tokens)
    _walk_orders(text, lengths, matched, np.zeros(0, np.int64), _new_entries(0))
    start = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum(matched, out=start[1:])
    entries = _new_entries(int(start[-1]))
    _walk_orders(text, lengths, matched, start, entries)
    return CountTable(tuple(orders), vocab_size, matched, start[:-1], *entries)


def candidates(table: CountTable, *, count: int, orders: tuple[int, ...]) -> np.ndarray:
    """The distinct last successors of the longest matching contexts, longest first: int32 (N, count), -1 where none.

    They depend on ``tokens[:t]`` alone, so they exist before the neural pass, which gathers ``log p`` at these ids.
    """
    use = np.array([order in orders for order in table.orders])
    out = np.full((len(table.matched), count), -1, dtype=np.int32)
    _fill_candidates(table.matched, table.start, table.last, use, out)
    return out


class TokenIndex:
    """Where each token stands in a text (N,): the contexts of one position are found without a pass over the text."""

    def __init__(self, tokens: np.ndarray, vocab_size: int) -> None:
        narrow = tokens.astype(np.uint16)  # which numpy sorts by radix
        self._places = np.argsort(narrow, kind="stable").astype(np.int32)
        self._begin = np.concatenate([[0], np.cumsum(np.bincount(narrow, minlength=vocab_size))])

    def before(self, token: int, t: int) -> np.ndarray:
        """Positions of ``token`` below ``t``, rising."""
        places = self._places[self._begin[token] : self._begin[token + 1]]
        return places[: np.searchsorted(places, t)]

    def counts(self, t: int) -> np.ndarray:
        """How often each token stands below ``t``, int64 (V,)."""
        return _count_below(self._places, self._begin, t)


@kernel
def _count_below(places, begin, t):  # type: ignore[no-untyped-def]
    counts = np.zeros(len(begin) - 1, np.int64)
    for token in range(len(counts)):
        counts[token] = np.searchsorted(places[begin[token] : begin[token + 1]], t)
    return counts


def recount_contexts(tokens: np.ndarray, index: TokenIndex, table: CountTable, t: int) -> tuple[Followers, bool]:
    """Successors of the contexts of position ``t``, by plain search of ``tokens[:t]``; whether ``table`` agrees."""
    bounds, pieces, agrees = [0], [(np.zeros(0, np.int32), np.zeros(0, np.int64))], True
    # positions that follow a context of one token or more, all earlier than t
    ends = index.before(int(tokens[t - 1]), t - 1).astype(np.int64) + 1 if t else np.zeros(0, np.int64)
    length = 0
    for k, order in enumerate(table.orders):
        while length < order:
            length += 1
            ends = ends[ends >= length]
            ends = ends[tokens[ends - length] == tokens[t - length]] if t >= length else ends[:0]
        if k >= int(table.matched[t]):
            agrees = agrees and len(ends) == 0
            continue
        followers, times = np.unique(tokens[ends], return_counts=True)
        e = int(table.start[t]) + k
        again = (len(ends), times[followers == tokens[t]].sum(), len(followers), tokens[ends[-1]] if len(ends) else -1)
        agrees = agrees and again == (table.n[e], table.c[e], table.u[e], table.last[e])
        pieces.append((followers, times))
        bounds.append(bounds[-1] + len(followers))
    token, times = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return Followers(np.asarray(bounds, np.int64), token.astype(np.uint16), times.astype(np.int32)), bool(agrees)


class _Text(NamedTuple):
    """``tokens`` and ``docs`` (N,), ``vocab`` ids, and what is ``near``, tokens."""

    tokens: np.ndarray
    docs: np.ndarray
    vocab: int
    near: int


class _Groups(NamedTuple):
    """Positions (N,) whose context is not alone, in groups of equal contexts, each in reading order; their group."""

    position: np.ndarray
    group: np.ndarray


class _Entries(NamedTuple):
    """The fields (E,) of a ``CountTable``."""

    n: np.ndarray
    c: np.ndarray
    u: np.ndarray
    last: np.ndarray
    last_count: np.ndarray
    r: np.ndarray


def _new_entries(size: int) -> _Entries:
    types = (np.int32, np.int32, np.uint16, np.uint16, np.int32, np.uint8)
    return _Entries(*(np.zeros(size, dtype) for dtype in types))


@kernel
def _refine(text, length, groups, size, out):  # type: ignore[no-untyped-def]
    """From groups of contexts of ``length - 1`` to those of ``length`` in ``out``; those of two or more; new size."""
    tokens, position = text.tokens, groups.position
    begin = np.zeros(text.vocab + 1, np.int64)
    for i in range(size):
        if position[i] >= length:
            begin[tokens[position[i] - length] + 1] += 1
    for v in range(text.vocab):
        begin[v + 1] += begin[v]
    total = begin[text.vocab]
    for i in range(size):
        t = position[i]
        if t >= length:
            v = tokens[t - length]
            out.position[begin[v]] = t
            out.group[begin[v]] = groups.group[i]
            begin[v] += 1
    stored = 0
    number = 0
    i = 0
    while i < total:
        v, g = tokens[out.position[i] - length], out.group[i]
        j = i + 1
        while j < total and out.group[j] == g and tokens[out.position[j] - length] == v:
            j += 1
        if j - i > 1:
            for k in range(i, j):  # stored <= i, so nothing unread is overwritten
                out.position[stored] = out.position[k]
                out.group[stored] = number
                stored += 1
            number += 1
        i = j
    return stored


@kernel
def _walk_group(text, groups, size, k, start, entries):  # type: ignore[no-untyped-def]
    """Write the entries of order number ``k``: one pass over the groups, each in reading order."""
    tokens = text.tokens
    seen, stamp = np.zeros(text.vocab, np.int32), np.full(text.vocab, np.int32(-1))
    current, occurrences, distinct, before = -1, 0, 0, -1
    for i in range(size):
        t = groups.position[i]
        target = tokens[t]
        if groups.group[i] != current:
            current, occurrences, distinct = groups.group[i], 0, 0
        else:
            e = start[t] + k
            entries.n[e] = occurrences
            entries.c[e] = seen[target] if stamp[target] == current else 0
            entries.u[e] = distinct
            entries.last[e] = tokens[before]
            entries.last_count[e] = seen[tokens[before]]
            if text.docs[before] != text.docs[t - 1]:
                entries.r[e] = 1
            else:
                entries.r[e] = 2 if t - before > text.near else 3
        if stamp[target] != current:
            stamp[target] = current
            seen[target] = 0
            distinct += 1
        seen[target] += 1
        occurrences += 1
        before = t


@kernel
def _walk_orders(text, lengths, matched, start, entries):  # type: ignore[no-untyped-def]
    """All orders in turn. With an empty ``start`` it only counts the matched orders, else it writes the entries."""
    total = len(text.tokens)
    groups = _Groups(np.arange(total).astype(np.int32), np.zeros(total, np.int32))
    following = _Groups(np.empty(total, np.int32), np.empty(total, np.int32))
    size, length = total, 0
    for k in range(len(lengths)):
        while length < lengths[k]:
            length += 1
            size = _refine(text, length, groups, size, following)
            groups, following = following, groups
        if len(start) == 0:
            for i in range(1, size):
                if groups.group[i] == groups.group[i - 1]:
                    matched[groups.position[i]] += 1
        else:
            _walk_group(text, groups, size, k, start, entries)


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
