"""Column-aware tables: exact round trips, golden bytes, size against order-0, damaged streams."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.artifact.bytes import ArtifactError
from golf.artifact.columns import decode, encode, normal_tables
from golf.artifact.grouped import next_state, parities
from golf.base.jit import kernel
from golf.quantize.tensors import NEXT_STATES, trellis_values
from quantizing import plain_trellis


def _entropy_bytes(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


def _columns(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wide = np.geomspace(1, 6, 48) * np.exp(0.4 * rng.normal(size=(rows, 1)))
    return np.rint((rng.normal(size=(rows, 48)) + rng.normal(size=48)) * wide).astype(np.int16)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 70), st.integers(0, 40)),
    scale=st.floats(0.01, 60),
    offset=st.integers(-30000, 30000),
)
def test_round_trip(seed: int, shape: tuple[int, int], scale: float, offset: int) -> None:
    noise = np.clip(np.random.default_rng(seed).standard_t(3, shape) * scale, -500, 500)
    values = (np.rint(noise) + offset).astype(np.int32)
    stream = encode(values)
    assert stream is not None and np.array_equal(decode(stream, *shape, what="t"), values)


def test_round_trip_with_explicit_tables() -> None:
    values = np.where(_columns(2000) > 1, 40, _columns(2000, 1) % 3).astype(np.int16)  # no normal fits this
    stream = encode(values)
    assert stream is not None and np.array_equal(decode(stream, 2000, 48, what="t"), values)
    assert len(stream) <= 1.01 * _entropy_bytes(values)


def test_columns_and_rows_of_different_width_cost_less_than_order_0() -> None:
    values = _columns(1500)
    stream = encode(values)
    assert stream is not None and len(stream) < 0.9 * _entropy_bytes(values)


def test_normal_noise_costs_its_entropy() -> None:
    values = np.rint(np.random.default_rng(0).normal(size=(1000, 400)) * 2.41).astype(np.int16)
    stream = encode(values)
    assert stream is not None and len(stream) <= 1.002 * _entropy_bytes(values)


def test_range_beyond_the_tables_is_left_to_other_coders() -> None:
    assert encode(np.array([[0, 1024]])) is None


@pytest.mark.parametrize(("deviation", "mean"), [(64, 0), (600, -300), (9000, 5000), (256 * 64, 0)])
def test_normal_table_matches_the_error_function(deviation: int, mean: int) -> None:
    import math

    table = normal_tables(-31, 63, np.array([deviation]), np.array([mean]))[0]
    edges = [(256 * (i - 31) - 128 - mean) / deviation for i in range(64)]
    cdf = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in edges])
    exact = np.diff(cdf) / (cdf[-1] - cdf[0])
    assert table.sum() == 65536 and table.min() >= 1
    assert np.abs(table / 65536 - exact).max() < 2e-3


@pytest.mark.parametrize(
    ("options", "golden"),
    [
        ({}, "f7b38b6920ddf7a1"),
        ({"trellis": True, "column_codes": (np.arange(24) % 5 - 2).astype(np.int8)}, "f7e180c0d7696f25"),
    ],
)
def test_golden_bytes(options: dict[str, Any], golden: str) -> None:
    """Bytes of format version 2, whose words are those of ``golf.artifact.grouped``; version 1 had constriction's."""
    ramp = np.add.outer(np.arange(64) * 7, np.arange(24) * 5) % 11 - np.arange(24) % 3 * 2
    assert hashlib.sha256(encode(ramp, **options) or b"").hexdigest()[:16] == golden


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 40)),
    scale=st.floats(0.01, 60),
    trellis=st.booleans(),
)
def test_round_trip_with_trellis_and_column_steps(
    seed: int, shape: tuple[int, int], scale: float, trellis: bool
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-128, 128, shape[1]).astype(np.int8)
    values = np.rint(np.clip(rng.standard_t(3, shape) * scale * 2 ** (-codes / 40), -500, 500)).astype(np.int16)
    known: dict[str, Any] = {"trellis": trellis, "column_codes": codes}
    assert np.array_equal(decode(encode(values, **known) or b"", *shape, what="t", **known), values)


def test_parity_and_column_steps_save_bytes() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(-8, 9, 80).astype(np.int8)
    weights = rng.normal(size=(60, 80)) * 2 ** (-codes / 4)
    values = plain_trellis(weights.astype(np.float32), np.full(60, 0.7, np.float32))
    sizes = [
        len(encode(values, trellis=trellis, column_codes=hint) or b"")
        for trellis, hint in ((False, None), (True, None), (True, codes))
    ]
    assert sizes[1] < 0.997 * sizes[0] and sizes[2] < 0.985 * sizes[1]


def test_the_trellis_is_that_of_the_quantizer() -> None:
    step = kernel(next_state)
    assert [int(step(state, bit)) for state in range(8) for bit in (0, 1)] == np.ravel(NEXT_STATES).tolist()
    values = np.random.default_rng(0).integers(-9, 9, (20, 31)).astype(np.int32)
    assert np.array_equal(parities(values), 2 * (trellis_values(values.astype(np.int16)) - values))


_STREAM = encode(_columns(40)) or b""


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_streams_end_in_a_named_error_or_in_the_right_shape(data: st.DataObject) -> None:
    stream = bytearray(_STREAM)
    kind = data.draw(st.sampled_from(["cut", "extend", "flip", "shape"]))
    rows = 40
    if kind == "cut":
        stream = stream[: data.draw(st.integers(0, len(stream) - 1))]
    elif kind == "extend":
        stream += data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "flip":
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        rows = data.draw(st.integers(0, 80))
    try:
        decoded = decode(bytes(stream), rows, 48, what="t")
    except ArtifactError:
        return
    assert decoded.shape == (rows, 48)
