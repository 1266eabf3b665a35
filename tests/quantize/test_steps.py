"""Steps of rows and columns: few bits, nearly the same error, exact floats, water-filling, knobs that act."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.quantize.rounding import entropy_bits
from golf.quantize.steps import StepError, column_codes, row_codes, row_steps_by_spread, step_codes
from golf.quantize.tensors import column_steps, row_steps

IMPORTANCE = np.exp2(np.random.default_rng(0).normal(0, 1.5, 300))


def test_decoded_steps_are_the_nearest_float32_of_the_power() -> None:
    codes = np.arange(-128, 128, dtype=np.int8)
    for code, step in zip(codes.tolist(), row_steps(codes), strict=True):
        below, above = (Fraction(float(np.nextafter(step, np.float32(side)))) for side in (0, math.inf))
        # step is nearest to 2^(code/8) when step^8 * 2^-code lies between the eighth powers of its midpoints
        power = Fraction(2) ** code
        assert ((below + Fraction(float(step))) / 2) ** 8 < power < ((above + Fraction(float(step))) / 2) ** 8


@given(st.lists(st.floats(2.0**-15, 2.0**15), min_size=1, max_size=50))
def test_a_step_moves_by_at_most_a_sixteenth_of_an_octave(steps: list[float]) -> None:
    coded = row_steps(step_codes(np.array(steps), per_octave=8))
    assert (np.abs(np.log2(coded / np.array(steps))) <= 1 / 16 + 1e-6).all()


def test_rows_take_at_most_3_5_bits_and_error_moves_by_at_most_0_2_percent() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((3000, 256)) * np.exp2(rng.normal(-5, 0.25, (3000, 1)))).astype(np.float32)
    codes = row_codes(weights, clip=12.85, levels=31)
    assert 1.0 < entropy_bits(codes) / len(codes) <= 3.5

    def relative_error(steps: np.ndarray) -> float:
        quantized = np.rint(weights / steps[:, None]) * steps[:, None]
        return float(((weights - quantized) ** 2).sum() / (weights**2).sum())

    exact = relative_error(row_steps_by_spread(weights, clip=12.85, levels=31))
    assert abs(relative_error(row_steps(codes).astype(np.float64)) / exact - 1) <= 0.002


def test_the_rate_follows_the_clip_almost_continuously() -> None:
    weights = (np.random.default_rng(1).standard_normal((400, 64)) * 0.02).astype(np.float32)
    means = [row_codes(weights, clip=12.0 * (1 + 0.005 * i), levels=31).mean() for i in range(12)]
    rises = np.diff(means)
    assert (rises >= 0).all() and rises.max() < 0.5  # in 1/8 octaves: a common rounding would jump by 1


def test_rows_of_zeros_without_spread_and_with_an_outlier() -> None:
    weights = np.random.default_rng(2).standard_normal((5, 16)).astype(np.float32)
    weights[3] = 0
    codes = row_codes(weights, clip=12.85, levels=31)
    assert codes[3] == np.delete(codes, 3).min()  # it costs the smallest code in use
    assert (row_codes(np.zeros((2, 4), np.float32), clip=12.85, levels=31) == 0).all()
    for odd in (np.full((1, 8), 3.0, np.float32), np.eye(1, 4096, dtype=np.float32) * 1e4):
        steps = row_steps(row_codes(odd, clip=0.01, levels=127))
        assert np.abs(odd / steps[:, None]).max() <= 16000 * 2 ** (1 / 16)  # far below what the kernels accept


def test_a_tiny_row_takes_the_smallest_code_there_is() -> None:
    assert step_codes(np.array([1e-30, 1.0]), per_octave=8).tolist() == [-128, 0]


def test_factors_multiply_the_steps() -> None:
    weights = np.random.default_rng(3).standard_normal((4, 32)).astype(np.float32)
    plain = row_codes(weights, clip=8.0, levels=31)
    finer = row_codes(weights, clip=8.0, levels=31, factors=np.array([1.0, 0.5, 2.0, 0.25]))
    assert (finer - plain).tolist() == [0, -8, 8, -16]


def test_bug_steps_that_are_too_large_name_the_tensor() -> None:
    """`steps: found 4.49e+28` named no tensor when one weight of a model was 1e30."""
    with pytest.raises(StepError, match=r"blocks\.1\.mlp: found a step of .*, expected .* at most; its weights are"):
        row_codes(np.array([[1e9, -1e9]], np.float32), clip=12.85, levels=31, name="blocks.1.mlp")
    with pytest.raises(StepError, match="blocks.1.mlp: its steps must be finite numbers >= 0"):
        step_codes(np.array([-1.0]), per_octave=8, name="blocks.1.mlp")


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_column_steps_follow_the_power_law_within_an_eighth_of_an_octave(exponent: float) -> None:
    steps = column_steps(column_codes(IMPORTANCE, exponent=exponent))
    drift = np.log2(steps) + exponent * np.log2(IMPORTANCE)
    assert np.abs(drift - drift.mean()).max() <= 0.125 + 0.02
    assert abs(np.log2(steps).mean()) < 0.02  # the rate stays where the row steps put it


def test_exponent_zero_is_no_column_step() -> None:
    assert (column_codes(IMPORTANCE, exponent=0.0) == 0).all()


def test_water_filling_lowers_the_weighted_error_at_the_same_mean_log_step() -> None:
    errors = [
        float(((column_steps(column_codes(IMPORTANCE, exponent=a)) * IMPORTANCE) ** 2).mean()) for a in (0, 0.5, 1)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1.05 * np.exp(2 * np.log(IMPORTANCE).mean())  # the bound: the geometric mean


def test_scaling_the_importance_changes_nothing() -> None:
    assert (column_codes(IMPORTANCE, exponent=1) == column_codes(IMPORTANCE * 1024, exponent=1)).all()


@pytest.mark.parametrize(
    ("importance", "exponent", "message"),
    [
        (IMPORTANCE, 1.5, "exponent: found 1.5"),
        (IMPORTANCE, -0.1, "exponent: found -0.1"),
        (np.array([1.0, 0.0]), 0.5, "w: importance must be positive finite numbers"),
        (np.array([]), 0.5, "w: importance must be positive finite numbers"),
    ],
)
def test_column_errors(importance: np.ndarray, exponent: float, message: str) -> None:
    with pytest.raises(StepError, match=message):
        column_codes(importance, exponent=exponent, name="w")
