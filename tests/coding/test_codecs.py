"""The smallest of all coders: which wins where, exact round trips, named errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.coding.blocks import ArtifactError
from golf.coding.codecs import ALL_CODERS, COLUMNS, CONTEXT, LINEAR, RAW, STATIC, decode, encode_best
from golf.coding.registry import CODERS, SideInfo


def _info(values: np.ndarray) -> SideInfo:
    rows, columns = values.shape
    return SideInfo("t", rows, columns, np.ones(rows, np.float16), None)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 80), st.integers(0, 20)),
    scale=st.floats(0.01, 9000),
    number=st.sampled_from([RAW, STATIC, CONTEXT, LINEAR, COLUMNS]),
)
def test_round_trip(seed: int, shape: tuple[int, int], scale: float, number: int) -> None:
    noise = np.random.default_rng(seed).normal(size=shape) * scale
    values = np.clip(np.rint(noise), -32768, 32767).astype(np.int16)
    chosen, stream = encode_best(values, _info(values), coders=(RAW, number))
    assert chosen in (RAW, number) and np.array_equal(decode(chosen, stream, _info(values)), values)


def test_each_coder_wins_where_it_should() -> None:
    rng = np.random.default_rng(0)
    factors = np.rint(3 * (rng.normal(size=(1500, 4)) @ rng.normal(size=(4, 24)) + rng.normal(size=(1500, 24)) / 2))
    uniform = rng.integers(-8, 8, (64, 64))
    assert encode_best(factors.astype(np.int16), _info(factors))[0] == LINEAR
    assert encode_best(uniform.astype(np.int16), _info(uniform))[0] == RAW


def test_the_choice_is_the_smallest_of_all() -> None:
    values = np.rint(np.random.default_rng(1).normal(size=(300, 40)) * np.geomspace(1, 5, 40)).astype(np.int16)
    sizes = {n: len(encode_best(values, _info(values), coders=(n,))[1]) for n in ALL_CODERS}
    number, stream = encode_best(values, _info(values))
    assert len(stream) == min(sizes.values()) == sizes[number] < sizes[STATIC]


def test_numbers_and_names_agree_with_the_registry() -> None:
    for number, coder in CODERS.items():
        assert ALL_CODERS[number].name == coder.name and ALL_CODERS[number].number == number


def test_errors_name_what_is_wrong() -> None:
    values = np.zeros((2, 2), np.int16)
    with pytest.raises(ValueError, match="wanted at least one of"):
        encode_best(values, _info(values), coders=(9,))
    with pytest.raises(ValueError, match="none of the coders"):
        encode_best(np.array([[-5000, 5000]], np.int16), _info(np.zeros((1, 2))), coders=(COLUMNS,))
    with pytest.raises(ArtifactError, match="coder 9 is unknown"):
        decode(9, b"\x00", _info(values))
    with pytest.raises(ArtifactError, match="side bytes"):
        decode(CONTEXT, b"\x01\x00", _info(values))
