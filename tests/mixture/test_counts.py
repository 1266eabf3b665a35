"""Exact causal counts: dictionaries against the sorted walk and the token-by-token tree."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.mixture.counts import Contexts, candidates, count_contexts
from golf.mixture.tree import ContextTree

ORDERS = (1, 2, 3, 5, 8)
NEAR = 6


def naive_entries(tokens: list[int], starts: set[int], orders: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """Per position its (n, c, u, last, last_count, r) of every matched order, by dictionaries of whole contexts."""
    seen: dict[tuple[int, ...], list[int]] = defaultdict(list)
    document = np.cumsum([i in starts for i in range(len(tokens))])
    out = []
    for t, target in enumerate(tokens):
        rows: list[tuple[int, ...]] = []
        for order in orders:
            context = tuple(tokens[t - order : t])
            if t < order or not seen[context]:
                break
            where = seen[context]
            after = [tokens[i] for i in where]
            near = 3 if t - where[-1] <= NEAR else 2
            r = near if document[where[-1]] == document[t - 1] else 1
            rows.append((len(after), after.count(target), len(set(after)), after[-1], after.count(after[-1]), r))
        for order in orders:
            if t >= order:
                seen[tuple(tokens[t - order : t])].append(t)
        out.append(rows)
    return out


texts = st.integers(1, 4).flatmap(lambda top: st.lists(st.integers(0, top), min_size=1, max_size=60))


@given(tokens=texts, data=st.data())
def test_counts_equal_dictionaries(tokens: list[int], data: st.DataObject) -> None:
    starts = {0, *data.draw(st.sets(st.integers(0, len(tokens) - 1), max_size=4))}
    ids = np.array(tokens)
    table = count_contexts(ids, np.array(sorted(starts)), orders=ORDERS, vocab_size=5, near_tokens=NEAR)
    expected = naive_entries(tokens, starts, ORDERS)
    assert [len(rows) for rows in expected] == table.matched.tolist()
    columns = np.stack([table.n, table.c, table.u, table.last, table.last_count, table.r], axis=1)
    for t, rows in enumerate(expected):
        assert [tuple(row) for row in columns[table.start[t] : table.start[t] + len(rows)].tolist()] == rows


@given(tokens=texts, data=st.data())
def test_pieces_of_contexts_equal_those_of_the_whole_table_however_often_they_are_read(
    tokens: list[int], data: st.DataObject
) -> None:
    ids, starts = np.array(tokens), np.array([0])
    whole = count_contexts(ids, starts, orders=ORDERS, vocab_size=5, near_tokens=NEAR)
    known = Contexts(ids, starts, orders=ORDERS, vocab_size=5, near_tokens=NEAR)
    for _ in range(2):
        cuts = sorted({0, len(ids), *data.draw(st.sets(st.integers(0, len(ids)), max_size=3))})
        for begin, stop in zip(cuts[:-1], cuts[1:], strict=True):
            found, expected = known.read(begin, stop), whole.read(begin, stop)
            for name in ("matched", "n", "c", "u", "last", "last_count", "r"):
                assert np.array_equal(getattr(found, name), getattr(expected, name)), name
            seen = found.matched > 0
            assert np.array_equal(found.start[seen], expected.start[seen]) and found.begin == begin


def test_contexts_read_out_of_order_are_refused() -> None:
    known = Contexts(np.array([0, 1, 0, 1]), np.array([0]), orders=(1,), vocab_size=2)
    known.read(0, 2)
    with pytest.raises(ValueError, match="read from 3, expected 0 or 2"):
        known.read(3, 4)


@given(tokens=texts, data=st.data())
def test_tree_equals_dictionaries(tokens: list[int], data: st.DataObject) -> None:
    starts = {0, *data.draw(st.sets(st.integers(0, len(tokens) - 1), max_size=4))}
    tree = ContextTree(orders=ORDERS, near_tokens=NEAR)
    for t, rows in enumerate(naive_entries(tokens, starts, ORDERS)):
        if t:
            found, after = tree.matches()
            hits, got = after.hits(tokens[t]), []
            for k in range(len(found.n)):
                part = slice(after.bounds[k], after.bounds[k + 1])
                assert after.times[part].sum() == found.n[k] and len(set(after.token[part].tolist())) == found.u[k]
                got.append((found.n[k], hits[k], found.u[k], found.last[k], found.last_count[k], found.r[k]))
            assert got == rows
        tree.update(tokens[t], starts_document=t in starts)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=80))
def test_tree_of_several_streams_counts_what_each_stream_wrote(events: list[tuple[int, int]]) -> None:
    """Overlapping n-grams of streams that stand still: a count lost while another stream opens a leaf."""
    tree = ContextTree(orders=(1, 2, 3), near_tokens=NEAR, streams=3)
    written: list[list[int]] = [[], [], []]
    for stream, token in events:
        tree.update(token, stream=stream)
        written[stream].append(token)
        for s in range(3):
            found, followers = tree.matches(stream=s) if written[s] else (None, None)
            for k, order in enumerate((1, 2, 3)):
                context = written[s][-order:]
                after = [
                    text[i + order]
                    for text in written
                    for i in range(len(text) - order)
                    if len(context) == order and text[i : i + order] == context
                ]
                if not after or found is None or followers is None:
                    assert found is None or len(found.n) <= k
                    break
                part = slice(followers.bounds[k], followers.bounds[k + 1])
                got = dict(zip(followers.token[part].tolist(), followers.times[part].tolist(), strict=True))
                assert got == {token: after.count(token) for token in set(after)} and found.n[k] == len(after)


def test_long_text_of_large_ids_equals_the_tree() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.zipf(1.3, 6000) % 60000
    tokens[3000:4000] = tokens[500:1500]
    orders = (1, 2, 4, 16, 32)
    table = count_contexts(tokens, np.array([0, 2000]), orders=orders, vocab_size=60000, near_tokens=900)
    tree = ContextTree(orders=orders, near_tokens=900)
    for t in range(len(tokens)):
        if t:
            found, _ = tree.matches()
            part = slice(int(table.start[t]), int(table.start[t]) + int(table.matched[t]))
            for name in ("n", "u", "last", "last_count", "r"):
                assert np.array_equal(getattr(found, name), getattr(table, name)[part])
        tree.update(int(tokens[t]), starts_document=t in (0, 2000))
    nodes_of_a_full_trie = 6000 * 33
    assert table.matched.max() == 5 and tree.num_bytes < nodes_of_a_full_trie * 48


def test_candidates_come_from_the_longest_contexts_first() -> None:
    #         0  1  2  3  4  5  6  7  8: context (1, 2) was last followed by 3, (2) by 4
    tokens = np.array([1, 2, 3, 0, 2, 4, 1, 2, 0])
    table = count_contexts(tokens, np.array([0]), orders=(1, 2), vocab_size=5)
    assert candidates(table, count=3, orders=(1, 2))[8].tolist() == [3, 4, -1]
    assert candidates(table, count=1, orders=(1,))[8].tolist() == [4]
    assert candidates(table, count=2, orders=(1, 2))[0].tolist() == [-1, -1]


def test_the_last_token_changes_only_its_own_count() -> None:
    """Named for the leak it guards: the document of position t must not be read from the token at t."""
    tokens = np.array([0, 1, 2, 1, 2, 1, 2])
    plain = count_contexts(tokens, np.array([0]), orders=(1, 2), vocab_size=3)
    begins = count_contexts(tokens, np.array([0, 6]), orders=(1, 2), vocab_size=3)
    assert np.array_equal(plain.r, begins.r)


@pytest.mark.parametrize(
    ("tokens", "starts", "vocab", "message"),
    [
        ([0, 5], [0], 5, "all from 0 to 4"),
        ([], [0], 5, "at least one id"),
        ([0, 1], [1], 5, "doc_starts"),
        ([0, 1], [0, 2], 5, "doc_starts"),
        ([0, 1], [0], 70000, "vocab_size"),
    ],
)
def test_bad_input_is_named(tokens: list[int], starts: list[int], vocab: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_contexts(np.array(tokens, dtype=np.int64), np.array(starts), orders=(1,), vocab_size=vocab)
