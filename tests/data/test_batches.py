"""Batches are a pure function of (seed, step, shards): world size, micro batches and resume change nothing."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.data.batches import Batches, permute, prefetch


class Stream:
    """A token stream in memory whose token at position p is p modulo the vocabulary."""

    def __init__(self, num_tokens: int, vocab_size: int = 1000) -> None:
        self.tokens = (np.arange(num_tokens) % vocab_size).astype(np.uint16)
        self.num_tokens = num_tokens

    def read(self, start: int, length: int) -> np.ndarray:
        assert start >= 0 and start + length <= self.num_tokens
        return self.tokens[start : start + length]


def make(num_tokens: int = 901, length: int = 9, sequences: int = 12, seed: int = 3) -> Batches:
    return Batches(Stream(num_tokens), length, sequences, seed, 1000)


@given(size=st.integers(1, 5000), key=st.integers(0, 2**48 - 1))
def test_permute_is_a_bijection(size: int, key: int) -> None:
    out = permute(np.arange(size, dtype=np.int64), size, key)
    assert np.array_equal(np.sort(out), np.arange(size))


def test_permute_of_a_part_is_the_part_of_the_permutation() -> None:
    whole = permute(np.arange(1000, dtype=np.int64), 1000, 5)
    assert np.array_equal(permute(np.array([7, 999, 0]), 1000, 5), whole[[7, 999, 0]])


def test_permute_golden() -> None:
    want = [52932602, 676438966, 551829512, 112167763, 422246047, 917540191, 73546536, 467426932]
    assert permute(np.arange(8, dtype=np.int64), 10**9, 1).tolist() == want


def test_permute_spreads_neighbors() -> None:
    out = permute(np.arange(10_000, dtype=np.int64), 10_000, 9)
    assert abs(np.corrcoef(out, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 0.05


def test_every_window_once_per_epoch_and_epochs_differ() -> None:
    batches = make(num_tokens=1 + 9 * 24)  # 24 windows, two steps of 12 an epoch
    first = np.concatenate([batches.windows(0), batches.windows(1)])
    second = np.concatenate([batches.windows(2), batches.windows(3)])
    assert sorted(first) == sorted(second) == list(range(24))
    assert first.tolist() != second.tolist()


def test_a_batch_that_crosses_an_epoch_completes_it() -> None:
    batches = make(num_tokens=1 + 9 * 10)  # 10 windows, 12 a step
    draws = np.concatenate([batches.windows(step) for step in range(5)])
    for epoch in range(6):
        assert sorted(draws[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_targets_follow_inputs_and_cover_every_token_but_the_first() -> None:
    batches = make(num_tokens=1 + 9 * 12)
    _, rows = batches.share(0)
    assert np.array_equal(rows[:, :-1] + 1, rows[:, 1:])
    assert sorted(rows[:, 1:].ravel()) == list(range(1, 109))


@pytest.mark.parametrize("world", [2, 3, 4, 12])
def test_global_batch_is_the_same_for_every_world_size(world: int) -> None:
    batches = make()
    windows, rows = batches.share(5)
    shares = [batches.share(5, rank, world) for rank in range(world)]
    assert all(np.array_equal(windows, share[0]) for share in shares)
    assert np.array_equal(rows, np.concatenate([share[1] for share in shares]))


def test_seed_changes_the_order() -> None:
    assert make(seed=3).windows(0).tolist() != make(seed=4).windows(0).tolist()


def test_prefetch_equals_direct_reading_from_any_step() -> None:
    batches = make()
    for step, (windows, rows) in enumerate(prefetch(batches, 4, 9, rank=1, world=2), start=4):
        want_windows, want_rows = batches.share(step, 1, 2)
        assert np.array_equal(windows, want_windows) and np.array_equal(rows, want_rows)
    assert step == 8


def test_rows_are_prepared_in_the_reading_thread_and_in_order() -> None:
    batches, seen = make(), list[str]()

    def prepare(rows: np.ndarray) -> int:
        seen.append(threading.current_thread().name)
        return int(rows[0, 0])

    got = [value for _, value in prefetch(batches, 4, 9, prepare=prepare)]
    assert got == [int(batches.share(step)[1][0, 0]) for step in range(4, 9)]
    assert seen == ["golf-prefetch"] * 5


def test_closing_prefetch_ends_its_thread() -> None:
    steps = prefetch(make(), 0, 10**6)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "golf-prefetch"]


def test_a_split_shorter_than_one_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 9 tokens, one sequence needs 10; lower train.sequence_length"):
        make(num_tokens=9)
    assert make(num_tokens=10).num_sequences == 1


def test_token_outside_the_vocabulary_reaches_the_consumer() -> None:
    batches = Batches(Stream(901), 9, 12, 3, 500)
    with pytest.raises(ValueError, match=r"token id \d+ is outside the vocabulary of 500; re-run tokenize"):
        list(prefetch(batches, 0, 9))


def test_a_world_size_that_does_not_divide_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"12 sequences do not divide over 5 .*use one of \[1, 2, 3, 4, 6, 12\]"):
        make().share(0, 0, 5)
