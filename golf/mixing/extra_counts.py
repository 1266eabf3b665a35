"""Causal counts of the optional experts of part E: over a whole text at once, or one token at a time.

Over a text they are ranks inside groups of equal contexts, as in ``golf.mixing.counts``, but of any context that can be
named by a number. Kinds (``MixtureConfig.extras``):

- ``skip`` L: the L tokens before the last one;
- ``document`` L: the last L tokens, counted in the current document alone (L = 0 counts its tokens);
- ``match`` L: the latest occurrence of the last L tokens; one successor, trusted by the length of the match.

A gate's bucket (0..95) joins distinct-per-seen (4), log2 seen (8) and recency (3); for ``match`` it joins the length of
the match (8) and recency. Contexts belong to the document of their last token, never the target's.
Shapes: N tokens, X experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from golf.jit import kernel
from golf.mixing.config import Kind
from golf.mixing.counts import document_of

__all__ = ["ExtraCounts", "ExtraMatches", "ExtraTable", "context_at", "count_extras", "recount"]

LENGTH_CAP = 12  # matches longer than this many times the least length are in one bucket


@dataclass(frozen=True)
class ExtraTable:
    """``n``, ``c`` int32 and ``cell`` uint8, each (N, X): occurrences of the context before t (0: silent), how many
    were followed by ``tokens[t]`` (the only field that knows the target), and the gate's bucket. ``match`` has n 1.
    ``extras`` (X) names the experts, ``documents`` int32 (N,) is the document of every token."""

    extras: tuple[tuple[Kind, int], ...]
    documents: np.ndarray
    n: np.ndarray
    c: np.ndarray
    cell: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Memory, bytes."""
        return self.n.nbytes + self.c.nbytes + self.cell.nbytes


def context_at(history: Sequence[int], documents: Sequence[int], kind: Kind, length: int) -> tuple[int, ...] | None:
    """Context of the token that follows ``history``; None where there are too few tokens."""
    if kind == "skip":
        return tuple(history[-length - 1 : -1]) if len(history) > length else None
    if kind == "match":
        return tuple(history[-length:]) if len(history) >= length else None
    inside = len(history) >= max(1, length) and (length == 0 or documents[-length] == documents[-1])
    return (documents[-1], *history[len(history) - length :]) if inside else None


def count_extras(
    tokens: np.ndarray, doc_starts: np.ndarray, extras: Sequence[tuple[Kind, int]], *, near_tokens: int
) -> ExtraTable:
    """Counts of every expert at every position, from strictly earlier tokens. ``tokens`` (N,), as in the mixture."""
    ids = np.ascontiguousarray(tokens, dtype=np.int32)
    docs = document_of(doc_starts, len(ids))
    shape = (len(ids), len(extras))
    numbers = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
    table = ExtraTable(tuple(extras), docs, *numbers)
    vocab = int(ids.max(initial=0)) + 1
    seen, stamp = np.zeros(vocab, np.int32), np.zeros(vocab, np.int64)
    for i, (kind, length) in enumerate(extras):
        key = _context_keys(ids, docs, kind, length)
        at = np.argsort(key, kind="stable")
        at = at[key[at] >= 0]
        before = np.full(len(ids), -1, np.int64)
        stamp[:] = -1
        _walk(ids, docs, near_tokens, at, key, seen, stamp, before, table.n[:, i], table.c[:, i], table.cell[:, i])
        if kind == "match":
            _keep_match(ids, docs, near_tokens, length, before, table.n[:, i], table.c[:, i], table.cell[:, i])
    return table


def _context_keys(tokens: np.ndarray, docs: np.ndarray, kind: Kind, length: int) -> np.ndarray:
    """A number for the context of every position, int64 (N,), equal where the contexts are; -1 where there is none."""
    back = 2 if kind == "skip" else 1  # the context ends this many tokens before the target
    key = np.full(len(tokens), -1, np.int64)
    first = max(1, length - 1 + back)
    if first >= len(tokens):
        return key
    if length:
        key[first:] = _windows(tokens, length)[: len(tokens) - first]
    else:
        key[first:] = 0
    if kind == "document":
        here = docs[first - 1 : -1].astype(np.int64)
        inside = here == docs[first - max(1, length) : len(tokens) - max(1, length)]
        key[first:] = np.where(inside, key[first:] * (int(docs[-1]) + 1) + here, -1)
    return key


def _windows(tokens: np.ndarray, length: int) -> np.ndarray:
    """A number (below N) for each window of ``length`` tokens, by its first token: int64 (N - length + 1,)."""
    doubled = tokens.astype(np.int64)  # numbers of windows of ``size`` tokens
    size, done, out = 1, 0, np.zeros(len(tokens) + 1, np.int64)
    while True:
        if length & size:
            out = _joined(out, doubled, done) if done else doubled
            done += size
        if done == length:
            return out
        doubled = _joined(doubled, doubled, size)
        size *= 2


def _joined(left: np.ndarray, right: np.ndarray, apart: int) -> np.ndarray:
    """Windows of ``left`` followed, ``apart`` tokens after their first token, by those of ``right``."""
    num = min(len(left), len(right) - apart)
    pairs = left[:num] * (int(right.max(initial=0)) + 1) + right[apart : apart + num]
    return np.unique(pairs, return_inverse=True)[1].astype(np.int64)


def recount(tokens: np.ndarray, table: ExtraTable, t: int) -> ExtraMatches:
    """The numbers of position ``t`` by a plain search of ``tokens[:t]``; ``cell`` is the table's."""
    found = []
    for kind, length in table.extras:
        back, first = (2, length + 1) if kind == "skip" else (1, max(1, length))
        ends = np.arange(first, t if t >= first else first)  # positions whose context is looked at
        for i in range(length if len(ends) else 0):
            ends = ends[tokens[ends - back - i] == tokens[t - back - i]]
        if kind == "document" and len(ends):
            begins = table.documents[[t - 1, t - first]]
            same = (table.documents[ends - 1] == begins[0]) & (table.documents[ends - first] == begins[0])
            ends = ends[same & (begins[0] == begins[1])]
        found.append(np.unique(tokens[ends[-1:] if kind == "match" else ends], return_counts=True))
    empty = np.zeros(0, np.int32)
    return ExtraMatches(
        n=np.array([times.sum() for _, times in found], np.int32),
        cell=table.cell[t],
        bounds=np.cumsum([0, *(len(times) for _, times in found)]),
        successor=np.concatenate([empty, *(tokens for tokens, _ in found)]).astype(np.uint16),
        times=np.concatenate([empty, *(times for _, times in found)]).astype(np.int32),
    )


@kernel
def _cell(n, u, recency):  # type: ignore[no-untyped-def]
    """Bucket of a count expert."""
    ratio = u / n
    a = 0 if ratio <= 0.25 else (1 if ratio <= 0.5 else (2 if ratio <= 0.8 else 3))
    b = 0
    while b < 7 and (n >> (b + 1)) > 0:
        b += 1
    return (a * 8 + b) * 3 + recency - 1


@kernel
def _match_cell(matched, length, recency):  # type: ignore[no-untyped-def]
    """Bucket of a match of ``matched`` >= ``length`` tokens: steps at 1.5, 2, 3, 4, 6, 8 and 12 times the least."""
    bucket = 0
    for twice in (3, 4, 6, 8, 12, 16, 24):
        if 2 * matched >= twice * length:
            bucket += 1
    return bucket * 3 + recency - 1


@kernel
def _walk(tokens, docs, near, at, key, seen, stamp, before, n, c, cell):  # type: ignore[no-untyped-def]
    """One pass over the groups of equal contexts, each in reading order; the numbers of one expert."""
    group, current, occurrences, distinct, previous = 0, -1, 0, 0, -1
    for i in range(len(at)):
        t = at[i]
        target = tokens[t]
        if key[t] != current:
            current, occurrences, distinct = key[t], 0, 0
            group += 1
        else:
            n[t] = occurrences
            c[t] = seen[target] if stamp[target] == group else 0
            before[t] = previous
            recency = 1 if docs[previous] != docs[t - 1] else (2 if t - previous > near else 3)
            cell[t] = _cell(occurrences, distinct, recency)
        if stamp[target] != group:
            stamp[target] = group
            seen[target] = 0
            distinct += 1
        seen[target] += 1
        occurrences += 1
        previous = t


@kernel
def _keep_match(tokens, docs, near, length, before, n, c, cell):  # type: ignore[no-untyped-def]
    """Turn counts of a context into its latest occurrence alone, with the length of the match in the bucket."""
    matched, cap = 0, LENGTH_CAP * length
    for t in range(len(tokens)):
        b = before[t]
        if b < 0:
            matched = 0
            continue
        if matched > 0 and before[t - 1] == b - 1:
            matched = min(matched + 1, cap)
        else:
            matched = length
            while matched < cap and b - 1 - matched >= 0 and tokens[b - 1 - matched] == tokens[t - 1 - matched]:
                matched += 1
        recency = 1 if docs[b] != docs[t - 1] else (2 if t - b > near else 3)
        n[t] = 1
        c[t] = 1 if tokens[b] == tokens[t] else 0
        cell[t] = _match_cell(matched, length, recency)


class ExtraMatches(NamedTuple):
    """Numbers of the experts (X,) as in ``ExtraTable``; expert i's successors are
    ``successor[bounds[i]:bounds[i + 1]]``, seen ``times`` each."""

    n: np.ndarray
    cell: np.ndarray
    bounds: np.ndarray
    successor: np.ndarray
    times: np.ndarray

    def of_target(self, token: int) -> np.ndarray:
        """How often ``token`` followed, int32 (X,)."""
        pieces = [slice(a, b) for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)]
        return np.array([self.times[p][self.successor[p] == token].sum() for p in pieces], dtype=np.int32)


_Store = dict[tuple[int, ...], tuple[dict[int, int], tuple[int, int]]]


def _shares(kind: Kind, streams: int) -> int:
    """Stores of an expert."""
    return streams if kind == "document" else 1


class ExtraCounts:
    """The same counts one token at a time, for parallel streams that share them (each has its own context, and
    documents of different streams differ). Dictionaries: about as slow as a coder that works on whole rows."""

    def __init__(self, extras: Sequence[tuple[Kind, int]], *, near_tokens: int, streams: int = 1) -> None:
        self._extras, self._near, self._num_documents = tuple(extras), near_tokens, 0
        self._tokens: list[list[int]] = [[] for _ in range(streams)]
        self._documents: list[list[int]] = [[] for _ in range(streams)]
        # per expert: context -> (followers and how often, (stream, place) of the latest one); shared by the streams,
        # but what counts in one document alone is its stream's and goes when the document ends
        self._stores: list[list[_Store]] = [[{} for _ in range(_shares(kind, streams))] for kind, _ in extras]

    def update(self, token: int, *, stream: int = 0, starts_document: bool = False) -> None:
        """Append ``token`` to ``stream`` and count it in every context."""
        tokens, documents = self._tokens[stream], self._documents[stream]
        for i, (kind, length) in enumerate(self._extras):
            context, store = context_at(tokens, documents, kind, length), self._store(i, stream)
            if context is not None:
                followers = store[context][0] if context in store else {}
                if kind != "match":
                    followers[token] = followers.get(token, 0) + 1
                store[context] = (followers, (stream, len(tokens)))
            if kind == "document" and starts_document:
                store.clear()
        if self._extras:
            self._num_documents += starts_document or not tokens
            documents.append(self._num_documents if starts_document or not tokens else documents[-1])
            tokens.append(token)

    def matches(self, *, stream: int = 0) -> ExtraMatches:
        """Every expert's numbers for the next token of ``stream``."""
        tokens, documents = self._tokens[stream], self._documents[stream]
        n, cell = np.zeros(len(self._extras), np.int32), np.zeros(len(self._extras), np.uint8)
        successor: list[int] = []
        times: list[int] = []
        bounds = [0]
        for i, (kind, length) in enumerate(self._extras):
            context, store = context_at(tokens, documents, kind, length), self._store(i, stream)
            if context is not None and context in store:
                followers, (where, place) = store[context]
                recency = self._recency(stream, where, place)
                if kind == "match":
                    followers = {self._tokens[where][place]: 1}
                    cell[i] = _match_cell(self._matched(stream, where, place, length), length, recency)
                else:
                    cell[i] = _cell(sum(followers.values()), len(followers), recency)
                n[i] = sum(followers.values())
                successor += followers.keys()
                times += followers.values()
            bounds.append(len(successor))
        return ExtraMatches(
            n, cell, np.array(bounds, np.int64), np.array(successor, np.uint16), np.array(times, np.int32)
        )

    def _store(self, expert: int, stream: int) -> _Store:
        stores = self._stores[expert]
        return stores[stream if len(stores) > 1 else 0]

    def _recency(self, stream: int, where: int, place: int) -> int:
        if self._documents[where][place] != self._documents[stream][-1]:
            return 1
        return 2 if len(self._tokens[stream]) - place > self._near else 3

    def _matched(self, stream: int, where: int, place: int, length: int) -> int:
        """Equal tokens before both places, at least ``length``, counted up to the cap."""
        here, there = self._tokens[stream], self._tokens[where]
        matched, most = length, min(LENGTH_CAP * length, place, len(here))
        while matched < most and there[place - 1 - matched] == here[-1 - matched]:
            matched += 1
        return matched
