"""The split: by content, capped, and never overlapping."""

from __future__ import annotations

import pytest

from golf.data.splitter import Splitter


def splitter(**change) -> Splitter:
    values = {"val_fraction": 0.2, "holdout_fraction": 0.1, "val_max_bytes": 0, "holdout_max_bytes": 0, "seed": 0}
    return Splitter(**(values | change))


DOCUMENTS = [b"document %d" % i for i in range(3000)]


def assign_all(s: Splitter, documents=DOCUMENTS, side=None) -> list[str | None]:
    return [s.assign(document, side=side) for document in documents]


def test_shares_are_those_asked_for():
    splits = assign_all(splitter())
    for split, share in (("val", 0.2), ("holdout", 0.1), ("train", 0.7)):
        assert splits.count(split) / 3000 == pytest.approx(share, abs=0.03)


def test_split_depends_on_content_and_seed_but_not_on_order():
    forward = dict(zip(DOCUMENTS, assign_all(splitter()), strict=True))
    backward = dict(zip(DOCUMENTS[::-1], assign_all(splitter(), DOCUMENTS[::-1]), strict=True))
    assert forward == backward
    assert forward != dict(zip(DOCUMENTS, assign_all(splitter(seed=1)), strict=True))


def test_equal_documents_land_on_one_side():
    s = splitter()
    assert assign_all(s) == assign_all(s)


def test_a_full_split_drops_documents_instead_of_training_on_them():
    free = assign_all(splitter())
    s = splitter(val_max_bytes=500)
    capped = assign_all(s)
    assert s.taken["val"] <= 500 and s.dropped["val"] == capped.count(None) > 0
    for before, now in zip(free, capped, strict=True):
        assert now == before or (before == "val" and now is None)


def test_a_training_copy_of_a_scored_document_is_left_out_and_counted():
    s = splitter()
    assert s.assign(b"same", side="val") == "val"
    assert s.assign(b"same", side="train") is None and s.assign(b"other", side="train") is not None
    assert s.copies == 1


def test_given_sides_cut_the_holdout_from_train_only():
    assert set(assign_all(splitter(), side="val")) == {"val"}
    splits = assign_all(splitter(), side="train")
    assert set(splits) == {"train", "holdout"}
    assert splits.count("holdout") / 3000 == pytest.approx(0.1, abs=0.02)
