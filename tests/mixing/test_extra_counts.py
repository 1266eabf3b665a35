"""Counts of the optional experts: a plain search of the earlier tokens against the sorted walk and the dictionaries."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.mixing.config import Kind
from golf.mixing.extra_counts import ExtraCounts, context_at, count_extras, recount

EXTRAS: tuple[tuple[Kind, int], ...] = (("skip", 1), ("skip", 3), ("document", 0), ("document", 2), ("match", 3))
NEAR = 5


def naive(tokens: list[int], documents: list[int], t: int, kind: Kind, length: int) -> list[int]:
    """Earlier positions whose context equals that of ``t``."""
    here = context_at(tokens[:t], documents[:t], kind, length)
    return [e for e in range(1, t) if here is not None and context_at(tokens[:e], documents[:e], kind, length) == here]


@settings(max_examples=40)
@given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=50), data=st.data())
def test_table_recount_and_dictionaries_agree_with_a_plain_search(tokens: list[int], data: st.DataObject) -> None:
    starts = {0, *data.draw(st.sets(st.integers(0, len(tokens) - 1), max_size=3))}
    documents = np.cumsum([t in starts for t in range(len(tokens))]).tolist()
    ids = np.array(tokens, dtype=np.int32)
    table = count_extras(ids, np.array(sorted(starts)), EXTRAS, near_tokens=NEAR)
    online = ExtraCounts(EXTRAS, near_tokens=NEAR)
    for t, target in enumerate(tokens):
        found = online.matches()
        again = recount(ids, table, t)
        for i, (kind, length) in enumerate(EXTRAS):
            places = naive(tokens, documents, t, kind, length)
            places = places[-1:] if kind == "match" else places
            followers = [tokens[e] for e in places]
            part = slice(found.bounds[i], found.bounds[i + 1])
            assert found.n[i] == again.n[i] == table.n[t, i] == len(places)
            assert found.of_target(target)[i] == again.of_target(target)[i] == table.c[t, i] == followers.count(target)
            assert found.cell[i] == table.cell[t, i] and found.times[part].sum() == len(places)
            if places and kind != "match":
                recency = 1 if documents[places[-1]] != documents[t - 1] else (3 if t - places[-1] <= NEAR else 2)
                assert found.cell[i] % 3 + 1 == recency
        online.update(target, starts_document=t in starts)


def test_a_longer_match_is_another_bucket() -> None:
    passage = np.arange(2, 40)
    ids = np.concatenate([[0], passage, [1], passage]).astype(np.int32)
    table = count_extras(ids, np.array([0]), (("match", 3),), near_tokens=1000)
    lengths = np.arange(3, len(passage))  # tokens of the second passage that are known
    buckets = [sum(length >= times * 3 for times in (1.5, 2, 3, 4, 6, 8, 12)) for length in lengths]
    at = len(passage) + 2 + lengths
    assert table.n[at, 0].tolist() == [1] * len(at) and table.c[at, 0].tolist() == [1] * len(at)
    assert table.cell[at, 0].tolist() == [bucket * 3 + 2 for bucket in buckets] and buckets[-1] == 7


def test_the_document_of_a_target_is_not_read_from_the_target() -> None:
    ids = np.array([0, 1, 2, 1, 2, 1, 2], dtype=np.int32)
    one = count_extras(ids, np.array([0]), EXTRAS, near_tokens=NEAR)
    two = count_extras(ids, np.array([0, 6]), EXTRAS, near_tokens=NEAR)
    assert np.array_equal(one.n, two.n) and np.array_equal(one.cell, two.cell)
