"""The same exact counts as ``golf.mixture.counts``, one token at a time, for several parallel streams.

A trie of all n-grams up to one token past the longest context, grown lazily: an n-gram seen once is a leaf that only
remembers where it ended, and its one continuation is read from the history when the n-gram comes a second time. So a
token adds about one node per order whose context repeats, not one per order. Children are found in an open-addressing
table keyed by the exact pair (node, token): no contexts merge.

Streams share the counts and see them in the order of the ``update`` calls; each has its own context and document.
Shapes: K orders, M matched orders, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golf.base.jit import kernel

__all__ = ["ContextTree", "Matches"]


class Matches(NamedTuple):
    """Counts of the matched orders (M,), named as in ``CountTable``, and each order's successors.

    Order k's successors are ``successor[bounds[k]:bounds[k + 1]]``, seen ``times`` each.
    """

    n: np.ndarray
    u: np.ndarray
    last: np.ndarray
    last_count: np.ndarray
    r: np.ndarray
    bounds: np.ndarray
    successor: np.ndarray
    times: np.ndarray


class _Nodes(NamedTuple):
    """(nodes,) arrays; ``seen`` occurrences of the n-gram, ``n u last last_position`` of it as a context."""

    token: np.ndarray
    seen: np.ndarray
    first: np.ndarray
    n: np.ndarray
    u: np.ndarray
    last: np.ndarray
    last_position: np.ndarray
    child: np.ndarray
    sibling: np.ndarray


class _History(NamedTuple):
    """(positions,) arrays; ``place`` is the index within the stream, ``next`` the stream's next position or -1."""

    token: np.ndarray
    next: np.ndarray
    document: np.ndarray
    place: np.ndarray
    stream: np.ndarray


def _grown(arrays: tuple[np.ndarray, ...], capacity: int) -> list[np.ndarray]:
    return [np.concatenate([a, np.full(capacity - len(a), -1, a.dtype)]) for a in arrays]


class ContextTree:
    """Counts after every token given to ``update`` so far; ``matches`` reads them for the next token of a stream."""

    def __init__(self, *, orders: tuple[int, ...], near_tokens: int, streams: int = 1) -> None:
        self._orders = np.asarray(orders, dtype=np.int64)
        self._near = near_tokens
        self._nodes = _Nodes(*(np.full(1024, -1, np.int32) for _ in _Nodes._fields))
        self._history = _History(*(np.full(1024, -1, np.int32) for _ in _History._fields))
        self._keys, self._values = np.full(4096, -1, np.int64), np.zeros(4096, np.int32)
        self._sizes = np.array([1, 0, 0], dtype=np.int64)  # nodes, positions, documents
        for field in ("n", "u"):
            getattr(self._nodes, field)[0] = 0
        self._nodes.seen[0] = 2  # the root, the empty context, is always open
        self._active = np.full((streams, orders[-1] + 2), -1, np.int32)
        self._active[:, 0] = 0
        self._tail = np.full(streams, -1, np.int32)

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays, bytes."""
        return sum(a.nbytes for a in (*self._nodes, *self._history, self._keys, self._values, self._active))

    def update(self, token: int, *, stream: int = 0, starts_document: bool = False) -> None:
        """Append ``token`` to ``stream`` and count it in every context."""
        needed = int(self._sizes[0]) + 2 * self._active.shape[1] + 2
        if needed > len(self._nodes.token):
            self._nodes = _Nodes(*_grown(self._nodes, 2 * needed))
        if int(self._sizes[1]) + 1 > len(self._history.token):
            self._history = _History(*_grown(self._history, 2 * len(self._history.token)))
        if 2 * needed > len(self._keys):
            self._keys, self._values = _rehash(self._keys, self._values, 4 * len(self._keys))
        _append(
            self._nodes, self._history, self._keys, self._values, self._sizes, self._active, self._tail,
            stream, token, starts_document,
        )  # fmt: skip

    def matches(self, *, stream: int = 0) -> Matches:
        """Counts of every order whose context, the last tokens of ``stream``, was followed by something before."""
        return Matches(
            *_query(self._nodes, self._history, self._active[stream], self._tail[stream], self._orders, self._near)
        )


@kernel
def _slot(keys, key):  # type: ignore[no-untyped-def]
    """Where ``key`` is in the table, or the empty place where it belongs."""
    mask = len(keys) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = np.int64(mixed >> np.uint64(20)) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + 1) & mask
    return at


@kernel
def _rehash(keys, values, capacity):  # type: ignore[no-untyped-def]
    new_keys, new_values = np.full(capacity, -1, np.int64), np.zeros(capacity, np.int32)
    for i in range(len(keys)):
        if keys[i] != -1:
            at = _slot(new_keys, keys[i])
            new_keys[at] = keys[i]
            new_values[at] = values[i]
    return new_keys, new_values


@kernel
def _register(nodes, keys, values, sizes, parent, token, position):  # type: ignore[no-untyped-def]
    """Count ``token`` after the n-gram ``parent``; the child, made when new."""
    key = (np.int64(parent) << 16) | np.int64(token)
    at = _slot(keys, key)
    if keys[at] == -1:
        child = np.int32(sizes[0])
        sizes[0] += 1
        keys[at] = key
        values[at] = child
        nodes.token[child], nodes.seen[child], nodes.first[child] = token, 0, position
        nodes.n[child], nodes.u[child] = 0, 0
        nodes.sibling[child] = nodes.child[parent]
        nodes.child[parent] = child
        nodes.u[parent] += 1
    child = values[at]
    nodes.seen[child] += 1
    nodes.n[parent] += 1
    nodes.last[parent] = child
    nodes.last_position[parent] = position
    return child


@kernel
def _append(nodes, history, keys, values, sizes, active, tail, stream, token, starts_document):  # type: ignore[no-untyped-def]
    position, before = np.int32(sizes[1]), tail[stream]
    sizes[1] += 1
    if starts_document or before < 0:
        sizes[2] += 1
    history.token[position], history.next[position], history.stream[position] = token, -1, stream
    fresh = starts_document or before < 0
    history.document[position] = sizes[2] if fresh else history.document[before]
    history.place[position] = 0 if before < 0 else history.place[before] + 1
    if before >= 0:
        history.next[before] = position
    tail[stream] = position
    depth = active.shape[1]
    # Longest first: an n-gram that overlaps itself is then opened after its own occurrence was looked at.
    for length in range(depth - 2, -1, -1):
        parent = active[stream, length]
        active[stream, length + 1] = -1
        if parent < 0:
            continue
        child = _register(nodes, keys, values, sizes, parent, token, position)
        if nodes.seen[child] < 2:
            continue
        active[stream, length + 1] = child
        if nodes.seen[child] == 2 and length + 1 < depth - 1:
            first = nodes.first[child]
            follower = history.next[first]
            if follower >= 0:
                _register(nodes, keys, values, sizes, child, history.token[follower], follower)
            else:  # another stream stands right behind it and will count its next token itself
                active[history.stream[first], length + 1] = child


@kernel
def _query(nodes, history, active, tail, orders, near):  # type: ignore[no-untyped-def]
    matched, total = 0, 0
    while matched < len(orders):
        node = active[orders[matched]]
        if node < 0 or nodes.n[node] == 0:
            break
        total += nodes.u[node]
        matched += 1
    n, u, last = np.zeros(matched, np.int32), np.zeros(matched, np.uint16), np.zeros(matched, np.uint16)
    last_count, r, bounds = np.zeros(matched, np.int32), np.zeros(matched, np.uint8), np.zeros(matched + 1, np.int64)
    successor, count = np.zeros(total, np.uint16), np.zeros(total, np.int32)
    filled = 0
    for k in range(matched):
        node = active[orders[k]]
        n[k], u[k] = nodes.n[node], nodes.u[node]
        last[k], last_count[k] = nodes.token[nodes.last[node]], nodes.seen[nodes.last[node]]
        where = nodes.last_position[node]
        if history.document[where] != history.document[tail]:
            r[k] = 1
        else:
            r[k] = 2 if history.place[tail] + 1 - history.place[where] > near else 3
        child = nodes.child[node]
        while child >= 0:
            successor[filled], count[filled] = nodes.token[child], nodes.seen[child]
            filled += 1
            child = nodes.sibling[child]
        bounds[k + 1] = filled
    return n, u, last, last_count, r, bounds, successor, count
