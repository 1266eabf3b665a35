from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.artifact.bytes import ArtifactError, Reader, varint, zigzag
from golf.artifact.rans import TOTAL, Table, build_table, normalize, read_table, write_table
from golf.quantize.rounding import entropy_bits

counts_lists = st.lists(st.integers(0, 10**9), min_size=1, max_size=80).filter(any)


@given(counts_lists)
def test_frequencies_fill_the_total_and_no_present_symbol_is_lost(counts: list[int]) -> None:
    frequencies = normalize(np.array(counts))
    assert frequencies.sum() == TOTAL
    assert [f > 0 for f in frequencies] == [c > 0 for c in counts]


def test_remainder_goes_where_it_saves_most_against_every_other_way() -> None:
    counts = np.array([7, 3, 1])

    def cost(frequencies: tuple[int, ...]) -> float:
        return -sum(c * math.log2(f / TOTAL) for c, f in zip(counts, frequencies, strict=True))

    found = tuple(int(f) for f in normalize(counts))
    moves = [tuple(f + d for f, d in zip(found, m, strict=True)) for m in itertools.product((-1, 0, 1), repeat=3)]
    best = min(cost(m) for m in moves if sum(m) == TOTAL and min(m) > 0)
    assert cost(found) == pytest.approx(best, abs=1e-9)


def test_many_rare_symbols_are_paid_by_the_common_one() -> None:
    counts = np.array([10**12] + [1] * 1000)
    frequencies = normalize(counts)
    assert frequencies[1:].tolist() == [1] * 1000 and frequencies[0] == TOTAL - 1000


def test_sixteen_bits_cost_less_than_a_ten_thousandth() -> None:
    values = np.rint(np.random.default_rng(0).normal(0, 6, 200_000)).astype(np.int16)
    table = build_table(values)
    counts = np.bincount(values.astype(int) - table.offset)
    coded = -(counts * np.log2(np.maximum(table.frequencies, 1) / TOTAL)).sum()
    assert entropy_bits(values) <= coded <= entropy_bits(values) * 1.0001


@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1]])
def test_counts_that_are_no_histogram_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="counts need"):
        normalize(np.array(counts, np.int64))


def test_no_values_have_no_table() -> None:
    with pytest.raises(ValueError, match="no values"):
        build_table(np.zeros((0, 4), np.int16))


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=300))
def test_tables_survive_writing(values: list[int]) -> None:
    table = build_table(np.array(values, np.int16))
    reader = Reader(write_table(table), "t")
    again = read_table(reader, "t")
    reader.end()
    assert (again.offset, again.escape) == (table.offset, table.escape)
    assert again.frequencies.tolist() == table.frequencies.tolist()
    assert table.alphabet <= 1024


def test_constant_tensor_has_one_entry_and_takes_five_bytes_at_most() -> None:
    table = build_table(np.full((3, 4), -7, np.int16))
    assert (table.offset, table.frequencies.tolist(), table.escape) == (-7, [TOTAL], False)
    assert len(write_table(table)) <= 5


def test_far_outliers_escape_instead_of_widening_the_table() -> None:
    values = np.concatenate([np.arange(-20, 21), [32767, -32768]]).astype(np.int16)
    table = build_table(values)
    assert table.escape and table.offset == -20 and table.alphabet == 41


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zigzag(0) + varint(0) + b"\0", "alphabet 0"),
        (zigzag(0) + varint(1) + b"\2", "escape flag 2"),
        (zigzag(0) + varint(2) + b"\0" + varint(TOTAL), "sum to 65536 without the last"),
        (zigzag(0) + varint(2000) + b"\0", "alphabet is 2000, at most 1024"),
        (zigzag(0) + varint(9) + b"\0\1", "frequency 1 wants 1 bytes"),
        (b"\x80\x00", "shortest form"),
    ],
)
def test_tables_that_no_writer_made_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_table(Reader(data, "t"), "t")


def test_table_knows_its_alphabet() -> None:
    assert Table(0, np.array([1, 2, TOTAL - 3]), True).alphabet == 2
