"""Counts of the current document: a plain search of the earlier tokens against the tries."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.mixture.document import DocumentCounter, Documents, count_documents, recount_documents

ORDERS = (0, 1, 2, 5)
NEAR = 5


def naive(tokens: list[int], documents: list[int], t: int, length: int) -> list[int]:
    """Earlier positions whose context equals that of ``t``, in the same document."""

    def context(e: int) -> list[int] | None:
        inside = e >= max(1, length) and documents[e - max(1, length)] == documents[e - 1]
        return [documents[e - 1], *tokens[e - length : e]] if inside else None

    return [e for e in range(1, t) if context(t) is not None and context(e) == context(t)]


@settings(max_examples=40)
@given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=50), data=st.data())
def test_table_recount_and_online_counts_agree_with_a_plain_search(tokens: list[int], data: st.DataObject) -> None:
    starts = {0, *data.draw(st.sets(st.integers(0, len(tokens) - 1), max_size=3))}
    documents = np.cumsum([t in starts for t in range(len(tokens))]).tolist()
    ids = np.array(tokens, dtype=np.int32)
    table = count_documents(ids, np.array(sorted(starts)), ORDERS, near_tokens=NEAR)
    online = DocumentCounter(ORDERS, near_tokens=NEAR)
    for t, target in enumerate(tokens):
        seen, followed = online.matches()
        again, agrees = recount_documents(ids, table, t)
        assert agrees and again.hits(target).tolist() == table.c[t].tolist() == followed.hits(target).tolist()
        for i, length in enumerate(ORDERS):
            places = naive(tokens, documents, t, length)
            followers = [tokens[e] for e in places]
            part, again_part = (slice(each.bounds[i], each.bounds[i + 1]) for each in (followed, again))
            sums = followed.times[part].sum(), again.times[again_part].sum()
            assert seen.n[i] == table.n[t, i] == len(places) == sums[0] == sums[1]
            assert seen.u[i] == table.u[t, i] == len(set(followers))
            assert table.c[t, i] == followers.count(target)
            near = (3 if t - places[-1] <= NEAR else 2) if places else 0
            assert seen.r[i] == table.r[t, i] == near
        online.update(target, starts_document=t in starts)


def test_the_document_of_a_target_is_not_read_from_the_target() -> None:
    ids = np.array([0, 1, 2, 1, 2, 1, 2], dtype=np.int32)
    one = count_documents(ids, np.array([0]), ORDERS, near_tokens=NEAR)
    two = count_documents(ids, np.array([0, 6]), ORDERS, near_tokens=NEAR)
    assert np.array_equal(one.n, two.n) and np.array_equal(one.u, two.u) and np.array_equal(one.r, two.r)


def test_pieces_and_documents_by_themselves_give_the_same_counts() -> None:
    """Of so many n-grams that those of earlier documents are forgotten; read in pieces, and again."""
    tokens, starts = np.random.default_rng(0).integers(0, 40, 30_000), np.arange(0, 30_000, 1500)
    whole = count_documents(tokens, starts, (0, 1, 2), near_tokens=NEAR)
    known = Documents(tokens, starts, (0, 1, 2), near_tokens=NEAR)
    for _ in range(2):
        pieces = [known.read(begin, begin + 2500) for begin in range(0, 30_000, 2500)]
        for name in ("n", "c", "u", "r"):
            read = np.concatenate([getattr(piece, name) for piece in pieces])
            assert np.array_equal(read, getattr(whole, name)), name
    for begin in starts:
        alone = count_documents(tokens[begin : begin + 1500], starts[:1], (0, 1, 2), near_tokens=NEAR)
        for name in ("n", "c", "u", "r"):
            assert np.array_equal(getattr(alone, name)[1:], getattr(whole, name)[begin + 1 : begin + 1500]), name
    assert known.num_bytes < 30_000 * 3 * 28, "fewer than all n-grams"
