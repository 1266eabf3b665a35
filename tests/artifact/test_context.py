"""Context coder: exact round trips over shapes and ranges, golden bytes, size against entropy, damaged streams."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from golf.artifact.bytes import ArtifactError
from golf.artifact.context import decode, encode
from quantizing import plain_trellis


def _entropy_bytes(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


def _pattern(rows: int, columns: int) -> np.ndarray:
    """Integers from a fixed integer recurrence, so golden bytes need no random generator."""
    state, out = 12345, []
    for _ in range(rows * columns):
        total = 0
        for _ in range(4):
            state = (state * 1103515245 + 12345) % 2**31
            total += (state >> 16) % 7 - 3
        out.append(total)
    return np.array(out, np.int16).reshape(rows, columns)


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(
        np.int32,
        array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12),
        elements=st.integers(-(2**31), 2**31 - 1),
    ),
    linear=st.booleans(),
)
def test_round_trip_any_int32(values: np.ndarray, linear: bool) -> None:
    assert np.array_equal(decode(encode(values, linear=linear), *values.shape, what="t"), values)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 40)),
    scale=st.floats(0.01, 3000),
    linear=st.booleans(),
)
def test_round_trip_heavy_tails(seed: int, shape: tuple[int, int], scale: float, linear: bool) -> None:
    noise = np.random.default_rng(seed).standard_t(2, shape) * scale
    values = np.clip(np.rint(noise), -32768, 32767).astype(np.int16)
    assert np.array_equal(decode(encode(values, linear=linear), *shape, what="t"), values)


@pytest.mark.parametrize("linear", [False, True])
def test_round_trip_past_forgetting_and_column_counters(linear: bool) -> None:
    values = _pattern(9000, 6)
    assert np.array_equal(decode(encode(values, linear=linear), 9000, 6, what="t"), values)


_CODES = (np.arange(24) % 5 - 2).astype(np.int8)


@pytest.mark.parametrize(
    ("options", "golden"),
    [
        ({}, "d19249ae7a489995"),
        ({"linear": True}, "a8b9f07ac7bf5edf"),
        ({"trellis": True}, "0fd100deecb6df26"),
        ({"linear": True, "trellis": True, "column_codes": _CODES}, "f79be47d80e87f14"),
    ],
)
def test_golden_bytes(options: dict[str, Any], golden: str) -> None:
    """Bytes of format version 2; those of version 1, without trellis and column codes, were others."""
    assert hashlib.sha256(encode(_pattern(300, 24), **options)).hexdigest()[:16] == golden


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    scale=st.floats(0.1, 3000),
    linear=st.booleans(),
    codes=st.booleans(),
)
def test_round_trip_on_a_trellis(seed: int, shape: tuple[int, int], scale: float, linear: bool, codes: bool) -> None:
    rng = np.random.default_rng(seed)
    values = np.clip(np.rint(rng.standard_t(3, shape) * scale), -32768, 32767).astype(np.int16)
    column_codes = rng.integers(-128, 128, shape[1]).astype(np.int8) if codes else None
    stream = encode(values, linear=linear, trellis=True, column_codes=column_codes)
    assert np.array_equal(decode(stream, *shape, what="t", trellis=True, column_codes=column_codes), values)


def _path(rows: int, columns: int, step: float) -> np.ndarray:
    """Indices along the trellis for normal weights: with the parity of the state they cost less than without."""
    weights = np.random.default_rng(7).normal(size=(rows, columns)).astype(np.float32)
    return plain_trellis(weights, np.full(rows, step, np.float32))


@pytest.mark.parametrize(("linear", "shape"), [(False, (400, 60)), (True, (400, 60)), (True, (60, 400))])
def test_the_parity_of_the_trellis_state_saves_bytes(linear: bool, shape: tuple[int, int]) -> None:
    values = _path(*shape, 0.8)
    assert len(encode(values, linear=linear, trellis=True)) < 0.995 * len(encode(values, linear=linear))


def test_column_steps_save_bytes() -> None:
    codes = np.random.default_rng(3).integers(-8, 9, 80).astype(np.int8)
    values = np.rint(np.random.default_rng(4).normal(size=(40, 80)) * 4 * 2 ** (-codes / 4)).astype(np.int16)
    assert len(encode(values, column_codes=codes)) < 0.98 * len(encode(values))


def test_normal_noise_costs_its_entropy() -> None:
    values = np.rint(np.random.default_rng(0).normal(size=(1000, 400)) * 2.41).astype(np.int16)
    assert len(encode(values)) <= 1.002 * _entropy_bytes(values)


def test_linear_prediction_finds_dependent_columns() -> None:
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(2000, 8)) @ rng.normal(size=(8, 32)) + rng.normal(size=(2000, 32))
    values = np.rint(hidden * 2).astype(np.int16)
    plain, linear = encode(values), encode(values, linear=True)
    ideal = 0.5 * np.log2(np.linalg.eigvalsh(np.corrcoef(hidden.T))).sum() * 2000 / 8  # bytes of the dependence
    assert len(linear) - len(plain) < 0.8 * ideal


def test_columns_of_different_width_cost_less_than_order_0() -> None:
    rng = np.random.default_rng(2)
    values = np.rint(rng.normal(size=(600, 64)) * np.geomspace(1, 8, 64)).astype(np.int16)
    assert len(encode(values)) < 0.94 * _entropy_bytes(values)


def test_incompressible_integers_outgrow_the_first_buffer() -> None:
    values = np.random.default_rng(3).integers(-(2**31), 2**31, (300, 40)).astype(np.int32)
    values[::2, ::2] = 0  # a narrow tree and escapes of some 70 bits
    values[0::2, 1::2] = 1
    values[1::2, 0::2] %= 3
    assert np.array_equal(decode(encode(values), 300, 40, what="t"), values)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_streams_end_in_a_named_error_or_in_the_right_shape(data: st.DataObject) -> None:
    values = _pattern(20, 8)
    stream = bytearray(encode(values, linear=data.draw(st.booleans())))
    kind = data.draw(st.sampled_from(["cut", "extend", "flip", "shape"]))
    rows = 20
    if kind == "cut":
        stream = stream[: data.draw(st.integers(0, len(stream) - 1))]
    elif kind == "extend":
        stream += data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "flip":
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        rows = data.draw(st.integers(0, 40))
    try:
        decoded = decode(bytes(stream), rows, 8, what="t")
    except ArtifactError:
        return
    assert kind in ("flip", "shape") and decoded.shape == (rows, 8)


def test_refuses_wide_linear_prediction_and_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="side <= 2048"):
        encode(np.zeros((2049, 2049), np.int16), linear=True)
    with pytest.raises(ValueError, match=r"expected integers \(R, C\)"):
        encode(np.zeros(4, np.int16))
    with pytest.raises(ValueError, match="int32 range"):
        encode(np.full((1, 1), 2**40))
