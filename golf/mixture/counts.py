"""Exact causal counts of every context order, of a text that is known.

``Contexts`` keeps the repeated contexts of a text (``golf.mixture.contexts``) and reads the counts of its positions in
reading order, a piece at a time; ``count_contexts`` reads all of a text at once. Contexts are compared, not hashed.

Shapes: N tokens, K orders, T tokens of a piece, E its entries (one for each position and order whose context was seen
before), J candidates. Source: evaluation study section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golf.base.errors import GolfError
from golf.base.jit import kernel
from golf.mixture import contexts
from golf.mixture.contexts import advance, build, enter, new_found, new_scratch, new_tree
from golf.mixture.position import Counts, Followers

__all__ = ["Contexts", "CountTable", "TokenIndex", "candidates", "checked_starts", "count_contexts",
           "recount_contexts"]  # fmt: skip

MAX_VOCAB = 65535  # ids and successor counts are stored as uint16


@dataclass(frozen=True)
class CountTable:
    """Counts from strictly earlier tokens, for positions from ``begin`` on and every order whose context was seen.

    Contexts of longer orders contain the shorter ones, so position t has entries for its first ``matched[t]`` orders
    (t counts from ``begin``): entry ``start[t] + k`` belongs to ``orders[k]``.

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
    begin: int = 0

    @property
    def counts(self) -> Counts:
        """All entries (E,) as kernels take them, without those that know the target."""
        return Counts(self.n, self.u, self.last, self.last_count, self.r)

    @property
    def num_tokens(self) -> int:
        """Positions with counts."""
        return len(self.matched)

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays, bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def read(self, begin: int, stop: int) -> CountTable:
        """Those of positions ``begin`` to ``stop - 1`` of a table of a whole text."""
        ends = self.start[[begin, stop - 1]] + [0, self.matched[stop - 1]]
        fields = self.n, self.c, self.u, self.last, self.last_count, self.r
        entries = _Entries(*(array[ends[0] : ends[1]] for array in fields))
        start = self.start[begin:stop] - ends[0]
        return CountTable(self.orders, self.vocab_size, self.matched[begin:stop], start, *entries, begin)


class Contexts:
    """The contexts of ``orders`` (rising lengths, tokens) that the stream ``tokens`` (N,) repeats, to be read once or
    more from its beginning: 4 bytes a token and 24 a node, of which there are fewer than tokens.

    Contexts run across document starts; ``doc_starts`` only decides the recency class ``r``, seen from the last
    context token, so the target is never read for it. Raises ``GolfError`` for ids outside the vocabulary.
    """

    def __init__(
        self, tokens: np.ndarray, doc_starts: np.ndarray, *, orders: tuple[int, ...], vocab_size: int,
        near_tokens: int = 900,
    ) -> None:  # fmt: skip
        if not 0 < vocab_size <= MAX_VOCAB:
            raise GolfError(f"vocab_size: found {vocab_size}, expected 1 to {MAX_VOCAB}")
        if len(tokens) == 0 or int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size:
            raise GolfError(f"tokens: expected at least one id, all from 0 to {vocab_size - 1}")
        self.orders, self.vocab_size, self.num_tokens = tuple(orders), vocab_size, len(tokens)
        starts = checked_starts(doc_starts, len(tokens))
        self._text = _Text(tokens.astype(np.uint16), starts, near_tokens)
        self._tree, self._found = new_tree(len(tokens), self.orders), new_found(len(orders))
        _build(self._text.tokens, self._tree, new_scratch(len(tokens), vocab_size, orders[-1] + 1))
        self._next = 0

    @property
    def num_bytes(self) -> int:
        """Memory that was touched, bytes."""
        return int(self._text.tokens.nbytes + self._tree.leaf.nbytes + self._tree.size[0] * 24)

    def read(self, begin: int, stop: int) -> CountTable:
        """Counts of positions ``begin`` to ``stop - 1``; ``begin`` is 0, or where the last call stopped counting."""
        if begin == 0:
            self._tree.nodes[: self._tree.size[0], contexts.TIMES :] = 0
        elif begin != self._next:
            raise GolfError(f"contexts: read from {begin}, expected 0 or {self._next}, where the last piece stopped")
        self._next, size = stop, stop - begin
        matched, start, out = np.zeros(size, np.uint8), np.zeros(size, np.int64), _entries(size * len(self.orders))
        filled = _read(self._text, self._tree, begin, self._found, matched, start, out)
        return CountTable(
            self.orders, self.vocab_size, matched, start, *_Entries(*(each[:filled] for each in out)), begin
        )


def checked_starts(doc_starts: np.ndarray, num_tokens: int) -> np.ndarray:
    """``doc_starts`` as int64 (D,), which rise and begin with 0. Raises ``GolfError`` when they do not."""
    starts = np.ascontiguousarray(doc_starts, dtype=np.int64)
    rising = len(starts) > 0 and starts[0] == 0 and bool(np.all(np.diff(starts) > 0)) and starts[-1] < num_tokens
    if not rising:
        raise GolfError(f"doc_starts: found {starts[:5].tolist()}..., expected rising positions, 0 to {num_tokens - 1}")
    return starts


def count_contexts(
    tokens: np.ndarray, doc_starts: np.ndarray, *, orders: tuple[int, ...], vocab_size: int, near_tokens: int = 900
) -> CountTable:
    """All counts of a text at once, 17 bytes an entry: for short texts; the arguments are those of ``Contexts``."""
    known = Contexts(tokens, doc_starts, orders=orders, vocab_size=vocab_size, near_tokens=near_tokens)
    return known.read(0, known.num_tokens)


def candidates(table: CountTable, *, count: int, orders: tuple[int, ...]) -> np.ndarray:
    """The distinct last successors of the longest matching contexts, longest first: int32 (T, count), -1 where none.

    They depend on ``tokens[:t]`` alone, so they exist before the neural pass, which gathers ``log p`` at these ids.
    """
    use = np.array([order in orders for order in table.orders])
    out = np.full((len(table.matched), count), -1, dtype=np.int32)
    _fill_candidates(table.matched, table.start, table.last, use, out)
    return out


class TokenIndex:
    """Where each token stands in a text (N,): the contexts of one position are found without a pass over the text."""

    def __init__(self, tokens: np.ndarray, vocab_size: int) -> None:
        self._tokens, self._places = tokens, np.empty(len(tokens), np.int32)
        self._begin = _sort_places(tokens, vocab_size, self._places)

    def followers(self, t: int, orders: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """By plain search of what stands before ``t``: how often each token followed the last tokens, one row for each
        of ``orders`` (K, rising, from 1), int32 (K, V), and where one did last (K,), -1 for nowhere."""
        times, last = np.zeros((len(orders), len(self._begin) - 1), np.int32), np.full(len(orders), -1)
        if t:
            token = self._tokens[t - 1]
            places = self._places[self._begin[token] : self._begin[token + 1]]
            places = places[: np.searchsorted(places, np.int32(t - 1))]  # what is behind them stands before t too
            _search(self._tokens, places, t, np.array(orders), times, last)
        return times, last

    def counts(self, t: int) -> np.ndarray:
        """How often each token stands below ``t``, int64 (V,)."""
        return _count_below(self._places, self._begin, t)


@kernel
def _sort_places(tokens, vocab, places):  # type: ignore[no-untyped-def]
    begin = np.zeros(vocab + 1, np.int64)
    for t in range(len(tokens)):
        begin[tokens[t] + 1] += 1
    for v in range(vocab):
        begin[v + 1] += begin[v]
    at = begin.copy()
    for t in range(len(tokens)):
        places[at[tokens[t]]] = t
        at[tokens[t]] += 1
    return begin


@kernel
def _count_below(places, begin, t):  # type: ignore[no-untyped-def]
    counts = np.zeros(len(begin) - 1, np.int64)
    for token in range(len(counts)):
        counts[token] = np.searchsorted(places[begin[token] : begin[token + 1]], t)
    return counts


@kernel
def _search(tokens, places, t, orders, times, last):  # type: ignore[no-untyped-def]
    """A block of places at a time is sifted, one token of context more each time: without a branch that is missed."""
    block = np.empty(4096, np.int32)
    for first in range(0, len(places), len(block)):
        kept, length = min(len(block), len(places) - first), 1
        for i in range(kept):
            block[i] = places[first + i]
        for k in range(len(orders)):
            while length < orders[k] and kept > 0:
                left, wanted = 0, tokens[t - 1 - length] if length < t else -1
                for i in range(kept):
                    place = block[i]
                    block[left] = place
                    left += 1 if place >= length and tokens[place - length] == wanted else 0
                kept, length = left, length + 1
            for i in range(kept):
                times[k, tokens[block[i] + 1]] += 1
            if kept > 0:
                last[k] = block[kept - 1] + 1


def recount_contexts(tokens: np.ndarray, index: TokenIndex, table: CountTable, t: int) -> tuple[Followers, bool]:
    """Successors of the contexts of position ``t``, by plain search of ``tokens[:t]``; whether ``table`` agrees."""
    times, last = index.followers(t, table.orders)
    matched, start = int(table.matched[t - table.begin]), int(table.start[t - table.begin])
    agrees = not times[matched:].any()
    for k, row in enumerate(times[:matched]):
        e = start + k
        again = (row.sum(), row[tokens[t]], np.count_nonzero(row), tokens[last[k]] if last[k] >= 0 else -1)
        agrees = agrees and again == (table.n[e], table.c[e], table.u[e], table.last[e])
    order, token = np.nonzero(times[:matched])
    bounds = np.searchsorted(order, np.arange(matched + 1))
    return Followers(bounds, token.astype(np.uint16), times[order, token]), agrees


class _Text(NamedTuple):
    """``tokens`` uint16 (N,), where documents start (D,), and what is ``near``, tokens."""

    tokens: np.ndarray
    starts: np.ndarray
    near: int


class _Entries(NamedTuple):
    """The fields (E,) of a ``CountTable``."""

    n: np.ndarray
    c: np.ndarray
    u: np.ndarray
    last: np.ndarray
    last_count: np.ndarray
    r: np.ndarray


def _entries(size: int) -> _Entries:
    types = (np.int32, np.int32, np.uint16, np.uint16, np.int32, np.uint8)
    return _Entries(*(np.empty(size, dtype) for dtype in types))


@kernel(parts=(contexts,), _nrt=False)
def _build(tokens, tree, scratch):  # type: ignore[no-untyped-def]
    build(tokens, tree, scratch)


@kernel(parts=(contexts,))
def _read(text, tree, begin, found, matched, start, out):  # type: ignore[no-untyped-def]
    """The entries of the positions from ``begin`` on, by ``matched`` (T,) and ``start`` (T,); their number."""
    tokens, starts, filled = text.tokens, text.starts, 0
    first = max(begin, 1)  # nothing comes before the first token
    document = np.searchsorted(starts, first - 1, side="right") - 1
    enter(tree, first)
    for t in range(first, begin + len(matched)):
        while document + 1 < len(starts) and starts[document + 1] < t:
            document += 1
        matched[t - begin] = advance(tree, t, found)
        start[t - begin] = filled
        for k in range(matched[t - begin]):
            before = found.last[k]
            out.n[filled], out.c[filled], out.u[filled] = found.n[k], found.c[k], found.u[k]
            out.last[filled], out.last_count[filled] = tokens[before], found.last_count[k]
            if before < starts[document]:
                out.r[filled] = 1
            else:
                out.r[filled] = 2 if t - before > text.near else 3
            filled += 1
    return filled


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
