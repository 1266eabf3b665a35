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

from golf.base.jit import kernel, part
from golf.mixture.position import Counts, Followers

__all__ = ["ContextTree", "append", "query", "rehash", "room", "slot_of"]


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


class _Tree(NamedTuple):
    """All arrays: nodes and their hash table, history, ``sizes`` (nodes, positions, documents), and of each stream the
    nodes of its last tokens (streams, depth) and its last position."""

    nodes: _Nodes
    history: _History
    keys: np.ndarray
    values: np.ndarray
    sizes: np.ndarray
    active: np.ndarray
    tail: np.ndarray


def _grown(arrays: tuple[np.ndarray, ...], capacity: int) -> list[np.ndarray]:
    return [np.concatenate([a, np.full(capacity - len(a), -1, a.dtype)]) for a in arrays]


class ContextTree:
    """Counts after every token given to ``update`` so far; ``matches`` reads them for the next token of a stream."""

    def __init__(self, *, orders: tuple[int, ...], near_tokens: int, streams: int = 1) -> None:
        self._orders = np.asarray(orders, dtype=np.int64)
        self._near = near_tokens
        nodes = _Nodes(*(np.full(1024, -1, np.int32) for _ in _Nodes._fields))
        nodes.n[0], nodes.u[0] = 0, 0
        nodes.seen[0] = 2  # the root, the empty context, is always open
        active = np.full((streams, orders[-1] + 2), -1, np.int32)
        active[:, 0] = 0
        self.arrays = _Tree(
            nodes=nodes,
            history=_History(*(np.full(1024, -1, np.int32) for _ in _History._fields)),
            keys=np.full(4096, -1, np.int64),
            values=np.zeros(4096, np.int32),
            sizes=np.array([1, 0, 0], dtype=np.int64),
            active=active,
            tail=np.full(streams, -1, np.int32),
        )

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays, bytes."""
        tree = self.arrays
        return sum(a.nbytes for a in (*tree.nodes, *tree.history, tree.keys, tree.values, tree.active))

    def update(self, token: int, *, stream: int = 0, starts_document: bool = False) -> None:
        """Append ``token`` to ``stream`` and count it in every context."""
        self.reserve(1)
        _append(self.arrays, stream, token, starts_document)

    def reserve(self, tokens: int) -> None:
        """Make room for the next ``tokens``; this may replace ``arrays``."""
        tree = self.arrays
        needed = int(tree.sizes[0]) + 2 * tokens * (tree.active.shape[1] + 1)
        if needed > len(tree.nodes.token):
            tree = tree._replace(nodes=_Nodes(*_grown(tree.nodes, 2 * needed)))
        if int(tree.sizes[1]) + tokens > len(tree.history.token):
            size = 2 * (len(tree.history.token) + tokens)
            tree = tree._replace(history=_History(*_grown(tree.history, size)))
        while 2 * needed > len(tree.keys):
            keys, values = rehash(tree.keys, tree.values, 4 * len(tree.keys))
            tree = tree._replace(keys=keys, values=values)
        self.arrays = tree

    def matches(self, *, stream: int = 0) -> tuple[Counts, Followers]:
        """Counts (M,) and successors of every order whose context, the last tokens of ``stream``, was followed by
        something before."""
        counts, followers = room(len(self._orders), 1 << 16)
        matched = _query(self.arrays, stream, self._orders, self._near, counts, followers)
        return Counts(*(each[:matched] for each in counts)), followers._replace(bounds=followers.bounds[: matched + 1])


@part(_nrt=False)
def slot_of(keys, key):  # type: ignore[no-untyped-def]
    """Where ``key`` is in the table, or the empty place where it belongs."""
    mask = len(keys) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = np.int64(mixed >> np.uint64(20)) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + 1) & mask
    return at


@kernel
def rehash(keys, values, capacity):  # type: ignore[no-untyped-def]
    new_keys, new_values = np.full(capacity, -1, np.int64), np.zeros(capacity, np.int32)
    for i in range(len(keys)):
        if keys[i] != -1:
            at = slot_of(new_keys, keys[i])
            new_keys[at] = keys[i]
            new_values[at] = values[i]
    return new_keys, new_values


@part(_nrt=False)
def _register(tree, parent, token, position):  # type: ignore[no-untyped-def]
    """Count ``token`` after the n-gram ``parent``; the child, made when new."""
    nodes = tree.nodes
    key = (np.int64(parent) << 16) | np.int64(token)
    at = slot_of(tree.keys, key)
    if tree.keys[at] == -1:
        child = np.int32(tree.sizes[0])
        tree.sizes[0] += 1
        tree.keys[at] = key
        tree.values[at] = child
        nodes.token[child], nodes.seen[child], nodes.first[child] = token, 0, position
        nodes.n[child], nodes.u[child] = 0, 0
        nodes.sibling[child] = nodes.child[parent]
        nodes.child[parent] = child
        nodes.u[parent] += 1
    child = tree.values[at]
    nodes.seen[child] += 1
    nodes.n[parent] += 1
    nodes.last[parent] = child
    nodes.last_position[parent] = position
    return child


@part(_nrt=False)
def append(tree, stream, token, starts_document):  # type: ignore[no-untyped-def]
    nodes, history, active = tree.nodes, tree.history, tree.active
    position, before = np.int32(tree.sizes[1]), tree.tail[stream]
    tree.sizes[1] += 1
    if starts_document or before < 0:
        tree.sizes[2] += 1
    history.token[position], history.next[position], history.stream[position] = token, -1, stream
    fresh = starts_document or before < 0
    history.document[position] = tree.sizes[2] if fresh else history.document[before]
    history.place[position] = 0 if before < 0 else history.place[before] + 1
    if before >= 0:
        history.next[before] = position
    tree.tail[stream] = position
    depth = active.shape[1]
    # Longest first: an n-gram that overlaps itself is then opened after its own occurrence was looked at.
    for length in range(depth - 2, -1, -1):
        parent = active[stream, length]
        active[stream, length + 1] = -1
        if parent < 0:
            continue
        child = _register(tree, parent, token, position)
        if nodes.seen[child] < 2:
            continue
        active[stream, length + 1] = child
        if nodes.seen[child] == 2 and length + 1 < depth - 1:
            first = nodes.first[child]
            follower = history.next[first]
            if follower >= 0:
                _register(tree, child, history.token[follower], follower)
            else:  # another stream stands right behind it and will count its next token itself
                active[history.stream[first], length + 1] = child


@part(_nrt=False)
def query(tree, stream, orders, near, counts, followers):  # type: ignore[no-untyped-def]
    """What the text knows of the next token of ``stream``, into ``counts`` (K,) and ``followers``; how many of the
    ``orders`` have matched."""
    nodes, history, active, tail = tree.nodes, tree.history, tree.active[stream], tree.tail[stream]
    matched, filled = 0, 0
    while matched < len(orders):
        node = active[orders[matched]]
        if node < 0 or nodes.n[node] == 0:
            break
        k = matched
        counts.n[k], counts.u[k] = nodes.n[node], nodes.u[node]
        counts.last[k], counts.last_count[k] = nodes.token[nodes.last[node]], nodes.seen[nodes.last[node]]
        where = nodes.last_position[node]
        if history.document[where] != history.document[tail]:
            counts.r[k] = 1
        else:
            counts.r[k] = 2 if history.place[tail] + 1 - history.place[where] > near else 3
        child = nodes.child[node]
        while child >= 0:
            followers.token[filled], followers.times[filled] = nodes.token[child], nodes.seen[child]
            filled += 1
            child = nodes.sibling[child]
        matched += 1
        followers.bounds[matched] = filled
    return matched


_append, _query = kernel(append, _nrt=False), kernel(query, _nrt=False)  # for Python


def room(orders: int, vocab_size: int) -> tuple[Counts, Followers]:
    """Where ``query`` writes: counts (K,) and as many successors as there can be."""
    kinds = (np.int32, np.uint16, np.uint16, np.int32, np.uint8)
    size = orders * vocab_size
    return Counts(*(np.zeros(orders, kind) for kind in kinds)), Followers(
        np.zeros(orders + 1, np.int64), np.zeros(size, np.uint16), np.zeros(size, np.int32)
    )
