"""Plain rounding: checks, fp16 steps, error measures, SDClip against its reference, and control tensors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from golf.quantize.rounding import (
    SMALLEST_HALF,
    check_matrix,
    entropy_bits,
    half_steps,
    quantize_sdclip,
    round_rows,
    row_errors,
    stored_control,
)
from quantizing import naive_sdclip_row
from tiny import flat, quantize_config, quantize_model, shaken

MODEL = flat(negative_slope=0.0)
CONFIG = quantize_config("sdclip")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    weights = np.ones((4, 3), np.float32)
    weights[2, 1] = bad
    with pytest.raises(ValueError, match=r"blocks\.0\.fc: row 2 holds NaN or infinity"):
        check_matrix("blocks.0.fc", weights)


@pytest.mark.parametrize("shape", [(4,), (0, 3), (3, 0)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be quantized by rows"):
        check_matrix("w", np.ones(shape, np.float32))


def test_steps_never_become_zero_in_fp16() -> None:
    """fp16 ends at 6e-8: the floor of 1e-12 alone would store a zero step, and q / 0 is not a number."""
    steps = half_steps("w", np.array([0.0, 1e-12, 1e-9, 2.0**-24, 1.0]))
    assert steps.dtype == np.float16
    assert steps.tolist() == [SMALLEST_HALF, SMALLEST_HALF, SMALLEST_HALF, SMALLEST_HALF, 1.0]


def test_steps_above_fp16_are_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match=r"w: a row step of 70000 does not fit fp16"):
        half_steps("w", np.array([1.0, 70000.0]))


def test_rounding_is_to_even_and_held_within_the_levels() -> None:
    values = round_rows(np.array([[0.5, 1.5, -2.5, 9.0, -9.0]], np.float32), np.ones(1, np.float16), 7)
    assert values.tolist() == [[0, 2, -2, 7, -7]]


def test_row_errors_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    weights, steps = rng.normal(size=(5, 9)).astype(np.float32), rng.uniform(0.1, 1, 5).astype(np.float16)
    values = round_rows(weights, steps, 3)
    expected = [
        sum((float(w) - float(np.float32(q) * np.float32(s))) ** 2 for w, q in zip(row, ints, strict=True))
        for row, ints, s in zip(weights, values, steps, strict=True)
    ]
    assert np.allclose(row_errors(weights, values, steps), expected, rtol=1e-12)


def test_entropy_against_the_definition() -> None:
    values = np.array([[3, 3, 5], [3, 900, -900]], np.int16)
    expected = -(3 * math.log2(3 / 6) + 3 * math.log2(1 / 6))
    assert entropy_bits(values) == pytest.approx(expected)
    assert entropy_bits(np.zeros(0, np.int16)) == 0.0
    assert entropy_bits(np.ones(9, np.int16)) == 0.0


def test_sdclip_is_its_reference() -> None:
    weights = np.random.default_rng(0).standard_t(3, (20, 300)).astype(np.float32) * 0.05
    found = quantize_sdclip("w", weights, role="mlp", levels=31, clip=12.85)
    for i, row in enumerate(weights):
        values, step = naive_sdclip_row(row, 31, 12.85)
        assert found.row_scale[i] == step and found.values[i].tolist() == values


def test_rate_is_chosen_by_the_clip() -> None:
    """Gaussian rows cost log2(levels / clip) + log2(sqrt(2 pi e)) bits: 3.33 at 12.85 and 31."""
    weights = np.random.default_rng(1).normal(size=(200, 1000)).astype(np.float32)
    for clip, bits in ((12.85, 3.33), (20.0, 2.70)):
        found = quantize_sdclip("w", weights, role="mlp", levels=31, clip=clip)
        assert entropy_bits(found.values) / found.values.size == pytest.approx(bits, abs=0.03)


def test_outliers_are_not_clipped() -> None:
    """Hard limits wreck outliers beyond 25 standard deviations; entropy coding makes the range free."""
    weights = np.random.default_rng(2).normal(size=(1, 5000)).astype(np.float32)
    weights[0, 9] = 2000.0
    found = quantize_sdclip("w", weights, role="mlp", levels=31, clip=12.85)
    assert found.values[0, 9] > 127
    assert found.dequantize()[0, 9] == pytest.approx(2000.0, rel=0.01)


def test_sdclip_rows_without_spread() -> None:
    weights = np.array([[0, 0, 0], [2, 2, 2], [1e-9, 1e-9, 1e-9]], np.float32)
    found = quantize_sdclip("w", weights, role="mlp", levels=31, clip=12.85)
    assert found.values.tolist() == [[0, 0, 0], [31, 31, 31], [0, 0, 0]]
    assert np.allclose(found.dequantize(), weights, rtol=1e-3, atol=1e-8)


def test_one_column_rows_have_no_spread() -> None:
    found = quantize_sdclip("w", np.array([[0.3], [-7.0]]), role="mlp", levels=31, clip=12.85)
    assert found.values.tolist() == [[31], [-31]]


def test_a_tiny_spread_beside_a_large_mean_does_not_overflow_int16() -> None:
    weights = np.full((3, 64), 1.0, np.float32)
    weights[:, 0] += np.float32(1e-6)
    found = quantize_sdclip("w", weights, role="mlp", levels=127, clip=0.01)
    assert np.abs(found.values.astype(int)).max() <= 32767
    assert np.allclose(found.dequantize(), weights, rtol=1e-3)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf")])
def test_a_wrong_sdclip_clip_is_named(clip: float) -> None:
    with pytest.raises(ValueError, match="w: clip is"):
        quantize_sdclip("w", np.ones((2, 2)), role="mlp", levels=31, clip=clip)


@settings(max_examples=60, deadline=None)
@given(
    weights=arrays(np.float32, st.integers(0, 20), elements=st.floats(-1000, 1000, width=32)),
    step=st.sampled_from([0.003, 1 / 64, 0.1, 1.0]),
)
def test_multiples_of_a_power_of_two_below_the_share_and_half_of_it_away_at_most(
    weights: np.ndarray, step: float
) -> None:
    found = stored_control("w", weights, step=step).astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(weights, dtype=np.float64)))) if weights.size else 0.0
    if size < 1e-2:  # the grid would be finer than fp16
        return
    grid = 2.0 ** np.floor(np.log2(step * size))
    assert grid <= step * size < 2 * grid
    assert np.abs(found - weights).max() <= grid / 2 + 2.0**-11 * np.abs(weights).max()
    small = np.abs(found) <= 1024 * grid  # where fp16 is as fine as the grid
    assert np.array_equal(found[small] / grid, np.rint(found[small] / grid))


@pytest.mark.parametrize("step", [0.0, 1 / 64])
def test_zeros_empty_tensors_and_numbers_beyond_fp16(step: float) -> None:
    assert not stored_control("w", np.zeros(3, np.float32), step=step).any()
    assert stored_control("w", np.zeros((0, 2), np.float32), step=step).shape == (0, 2)
    for largest in (1e5, 65503.9):  # the second leaves fp16 by being rounded up to 65536
        found = stored_control("w", np.array([1.0, largest], np.float32), step=8 * step)
        assert np.isfinite(found).all() and found[1] == pytest.approx(largest, rel=0.07)
    with pytest.raises(ValueError, match="w: holds NaN or infinity"):
        stored_control("w", np.array([np.inf], np.float32), step=step)


def test_without_a_step_they_are_plain_fp16() -> None:
    weights = np.random.default_rng(0).normal(size=40).astype(np.float32)
    assert np.array_equal(stored_control("w", weights, step=0.0), weights.astype(np.float16))


def test_the_knob_acts_on_control_tensors_alone() -> None:
    model = shaken(MODEL, 40)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    plain, rounded = (
        quantize_model(
            state, model, dataclasses.replace(CONFIG, control_step=step), meta={"model": MODEL, "vocab_size": 40}
        ).model
        for step in (0.0, 1 / 8)
    )
    for name, tensor in plain.tensors.items():
        assert np.array_equal(tensor.values, rounded.tensors[name].values)
    for name, array in rounded.plain.items():
        assert np.array_equal(array, stored_control(name, state[name], step=1 / 8))
    assert any(not np.array_equal(array, plain.plain[name]) for name, array in rounded.plain.items())
