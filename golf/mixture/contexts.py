"""The repeated contexts of a text as a tree, and the counts of every position read off it in reading order.

In scoring all tokens are known, and with them all contexts that will come again. Positions are grouped by the tokens
before them, one token at a time, depth first, so that a group is in the cache once it is small; a group of two or more
is a node. Groups of the same positions at several lengths are one node, so there are fewer nodes than positions.
Nothing is hashed: two positions share a node when their contexts are equal, and only then.

A walk over the text keeps in each node how often its context came so far, how many tokens followed and which was the
last. How often the target followed a context is how often that context and the target came: the count of a node of the
next position. So of a position nothing is kept but its longest node, 4 bytes, and its counts exist while it is read.

Shapes: N tokens, S lengths, K orders, V vocabulary. Source: suffix trees (Weiner 1973), of the text read backwards.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golf.base.jit import step

__all__ = ["Found", "Scratch", "Tree", "advance", "build", "enter", "new_found", "new_scratch", "new_tree"]

PARENT, DEPTH, TIMES, FOLLOWERS, LAST, LAST_TIMES = range(6)  # columns of a node
ROOT = 0


class Tree(NamedTuple):
    """``leaf`` (N + 1,): longest node of each position, that behind the text too. ``nodes`` (N + 1, 6): of each its
    parent, how many of the ``lengths`` (S,) it and its parents cover, and what the walk keeps: occurrences, distinct
    followers, the last position that followed, how often its token did. ``context`` (K,) and ``longer`` (K,): where
    each order, and that plus 1, is in ``lengths``; ``covered``: how many of these are at most 0, 1, ... ``above``
    (S + 2, 64): the nodes of positions from ``place`` (1,) on, longest first, and ``paths`` (2, S + 1), of the position
    that is read and of the next: how many lengths it has, then the node of each. ``size`` (1,) nodes."""

    leaf: np.ndarray
    nodes: np.ndarray
    lengths: np.ndarray
    context: np.ndarray
    longer: np.ndarray
    covered: np.ndarray
    above: np.ndarray
    place: np.ndarray
    paths: np.ndarray
    size: np.ndarray


class Scratch(NamedTuple):
    """Needed while a tree is built: positions (N,) and where they go, by token (V,) how many and which there are, and
    groups to do (G, 5): begin, end, length, node and its size."""

    order: np.ndarray
    spare: np.ndarray
    counts: np.ndarray
    values: np.ndarray
    groups: np.ndarray


class Found(NamedTuple):
    """Counts (K,) int64 of one position, by order: ``n`` occurrences of the context before, ``c`` of them followed by
    the target, ``u`` distinct followers, the ``last`` position that followed and how often its token did."""

    n: np.ndarray
    c: np.ndarray
    u: np.ndarray
    last: np.ndarray
    last_count: np.ndarray


def new_tree(num_tokens: int, orders: tuple[int, ...]) -> Tree:
    """Room for the tree of at most ``num_tokens``; pages that no node needs are never touched."""
    lengths = np.array(sorted({*orders, *(order + 1 for order in orders)}), np.int64)
    wanted = np.array(orders, np.int64)
    return Tree(
        leaf=np.empty(num_tokens + 1, np.int32), nodes=np.empty((num_tokens + 1, 6), np.int32), lengths=lengths,
        context=np.searchsorted(lengths, wanted), longer=np.searchsorted(lengths, wanted + 1),
        covered=np.searchsorted(lengths, np.arange(lengths[-1] + 1), side="right"),
        above=np.zeros((len(lengths) + 2, 64), np.int32), place=np.zeros(1, np.int64),
        paths=np.zeros((2, len(lengths) + 1), np.int32), size=np.zeros(1, np.int64),
    )  # fmt: skip


def new_scratch(num_tokens: int, vocab_size: int, longest: int) -> Scratch:
    """Room to build a tree of at most ``num_tokens`` and contexts of ``longest`` tokens."""
    most = min(num_tokens // 2, vocab_size * (longest + 1)) + 2  # groups that wait hold two positions or more each
    one, two = (np.empty(num_tokens, np.int32) for _ in range(2))
    return Scratch(
        one, two, np.zeros(vocab_size, np.int32), np.empty(vocab_size, np.int32), np.empty((most, 5), np.int64)
    )


def new_found(orders: int) -> Found:
    """Where ``advance`` writes."""
    return Found(*(np.zeros(orders, np.int64) for _ in Found._fields))


@step
def _reach(tree, node, size, members, length):  # type: ignore[no-untyped-def]
    """The node of a group of ``members`` in ``node``, of ``size``, whose contexts of ``length`` are equal: the same one
    where it holds the same positions, else a new one where the length is asked for."""
    depth = tree.covered[length]
    if depth == tree.nodes[node, DEPTH]:
        return node, size
    if node != ROOT and members == size:
        tree.nodes[node, DEPTH] = depth
        return node, size
    new = tree.size[0]
    tree.size[0] += 1
    tree.nodes[new, PARENT], tree.nodes[new, DEPTH] = node, depth
    for column in range(TIMES, 6):
        tree.nodes[new, column] = 0
    return new, members


@step
def _pair(tokens, tree, one, two, length, node, size):  # type: ignore[no-untyped-def]
    """A group of two positions, ``one`` before ``two``, to its end."""
    longest = tree.lengths[-1]
    while length < longest and one > length and tokens[one - length - 1] == tokens[two - length - 1]:
        length += 1
    node, size = _reach(tree, node, size, 2, length)
    tree.leaf[one], tree.leaf[two] = node, node


@step
def _split(tokens, tree, scratch, group, waiting):  # type: ignore[no-untyped-def]
    """Split a group, of one length, by the token before; its parts of two or more wait. The new number that wait."""
    begin, end, length, node, size = group
    order, spare, counts, values, groups = scratch
    distinct = 0
    for i in range(begin, end):
        t = order[i]
        if t > length:
            v = tokens[t - length - 1]
            if counts[v] == 0:
                values[distinct] = v
                distinct += 1
            counts[v] += 1
        else:
            tree.leaf[t] = node
    at = 0
    for j in range(distinct):
        v = values[j]
        members = counts[v]
        counts[v] = at
        if members == 1:
            counts[v] = -1
        else:
            below, size_below = _reach(tree, node, size, members, length + 1)
            row = groups[waiting]
            row[0], row[1], row[2], row[3], row[4] = begin + at, begin + at + members, length + 1, below, size_below
            waiting += 1
            at += members
    for i in range(begin, end):
        t = order[i]
        if t > length:
            v = tokens[t - length - 1]
            if counts[v] < 0:
                tree.leaf[t] = node
            else:
                spare[counts[v]] = t
                counts[v] += 1
    for i in range(at):
        order[begin + i] = spare[i]
    for j in range(distinct):
        counts[values[j]] = 0
    return waiting


@step
def build(tokens, tree, scratch):  # type: ignore[no-untyped-def]
    """Make the tree of ``tokens`` (N,), with nothing seen yet."""
    total, longest = len(tokens), tree.lengths[-1]
    tree.nodes[ROOT, PARENT], tree.nodes[ROOT, DEPTH] = ROOT, tree.covered[0]
    for column in range(TIMES, 6):
        tree.nodes[ROOT, column] = 0
    tree.size[0] = 1
    tree.leaf[0] = ROOT
    tree.leaf[1] = ROOT
    for i in range(total):
        scratch.order[i] = i + 1
    row = scratch.groups[0]
    row[0], row[1], row[2], row[3], row[4] = 0, total, 0, ROOT, total
    waiting = 1 if total > 1 else 0
    while waiting > 0:
        waiting -= 1
        row = scratch.groups[waiting]
        begin, end, length, node, size = row[0], row[1], row[2], row[3], row[4]
        if end - begin == 2:
            _pair(tokens, tree, scratch.order[begin], scratch.order[begin + 1], length, node, size)
        elif length == longest:
            for i in range(begin, end):
                tree.leaf[scratch.order[i]] = node
        else:
            waiting = _split(tokens, tree, scratch, (begin, end, length, node, size), waiting)


@step
def _prepare(tree, first):  # type: ignore[no-untyped-def]
    """The nodes of positions from ``first`` on into ``above``, all a level up at a time: no load waits for another."""
    above, nodes, leaf = tree.above, tree.nodes, tree.leaf
    count = min(above.shape[1], len(leaf) - first)
    for j in range(count):
        above[0, j] = leaf[first + j]
    level, left = 0, 1
    while left > 0:
        left = 0
        for j in range(count):
            parent = nodes[above[level, j], PARENT]
            above[level + 1, j] = parent
            left |= parent
        level += 1


@step
def _lengths(tree, j, path):  # type: ignore[no-untyped-def]
    """Of a position that was prepared, the node of each length into ``path``."""
    level, node = 0, tree.above[0, j]
    last = tree.nodes[node, DEPTH]
    path[0] = last
    while last > 0:
        level += 1
        parent = tree.above[level, j] if node != ROOT else ROOT
        first = tree.nodes[parent, DEPTH] if node != ROOT else 0
        for i in range(first, last):
            path[1 + i] = node
        node, last = parent, first


@step
def enter(tree, t):  # type: ignore[no-untyped-def]
    """Stand before position ``t``, the next to be given to ``advance``."""
    _prepare(tree, t)
    _lengths(tree, 0, tree.paths[t & 1])
    tree.place[0] = t


@step
def advance(tree, t, found):  # type: ignore[no-untyped-def]
    """Counts of position ``t`` into ``found``, then count its token; how many orders have come before."""
    nodes, here, ahead = tree.nodes, tree.paths[t & 1], tree.paths[(t + 1) & 1]
    if t + 1 - tree.place[0] == tree.above.shape[1]:
        tree.place[0] = t + 1
        _prepare(tree, t + 1)
    _lengths(tree, t + 1 - tree.place[0], ahead)
    before = -1
    for i in range(1, here[0] + 1):
        if here[i] != before:
            before = here[i]
            nodes[before, TIMES] += 1
    matched, before, n, c, u, last, last_count = 0, np.int32(-1), 0, 0, 0, 0, 0
    for k in range(len(tree.context)):
        if tree.context[k] >= here[0]:
            break
        node, longer = here[1 + tree.context[k]], tree.longer[k]
        if node != before:
            before, c = node, 0
            if longer < ahead[0]:  # this position is one of those that the next one comes after
                c = nodes[ahead[1 + longer], TIMES]
            n, u = nodes[node, TIMES] - 1, nodes[node, FOLLOWERS]
            last, last_count = nodes[node, LAST], nodes[node, LAST_TIMES]
            nodes[node, FOLLOWERS] = u + (1 if c == 0 else 0)
            nodes[node, LAST], nodes[node, LAST_TIMES] = t, c + 1
        found.n[k], found.c[k], found.u[k], found.last[k], found.last_count[k] = n, c, u, last, last_count
        matched += 1 if n > 0 else 0
    return matched
