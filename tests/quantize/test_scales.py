"""Row codes: few bits, nearly the same error, exact steps."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.quantize.scales import StepError, code_bits, row_codes, row_sigma, step_codes
from golf.quantize.tensors import row_steps


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
    weights = rng.standard_normal((3000, 256)) * np.exp2(rng.normal(-5, 0.25, (3000, 1)))
    codes = row_codes(weights, clip=12.85)
    assert 1.0 < code_bits(codes) <= 3.5

    def relative_error(steps: np.ndarray) -> float:
        quantized = np.rint(weights / steps[:, None]) * steps[:, None]
        return float(((weights - quantized) ** 2).sum() / (weights**2).sum())

    exact = relative_error(row_sigma(weights) * 12.85 / 31)
    assert abs(relative_error(row_steps(codes).astype(np.float64)) / exact - 1) <= 0.002


def test_the_rate_follows_the_clip_almost_continuously() -> None:
    weights = np.random.default_rng(1).standard_normal((400, 64)) * 0.02
    means = [row_codes(weights, clip=12.0 * (1 + 0.005 * i)).mean() for i in range(12)]
    rises = np.diff(means)
    assert (rises >= 0).all() and rises.max() < 0.5  # in 1/8 octaves: a common rounding would jump by 1


def test_a_constant_row_costs_the_smallest_code_in_use() -> None:
    weights = np.random.default_rng(2).standard_normal((5, 16))
    weights[3] = 0
    codes = row_codes(weights, clip=12.85)
    assert codes[3] == np.delete(codes, 3).min()
    assert (row_codes(np.zeros((2, 4)), clip=12.85) == 0).all()


def test_a_tiny_row_takes_the_smallest_code_there_is() -> None:
    assert step_codes(np.array([1e-30, 1.0]), per_octave=8).tolist() == [-128, 0]


def test_code_bits() -> None:
    assert code_bits(np.array([], dtype=np.int8)) == 0.0
    assert code_bits(np.array([3, 3, 3])) == 0.0
    assert code_bits(np.array([0, 1, 2, 3])) == 2.0


@pytest.mark.parametrize(
    ("weights", "clip", "message"),
    [
        (np.zeros((0, 3)), 12.85, "wanted a matrix with rows and columns"),
        (np.zeros(3), 12.85, "found shape \\(3,\\)"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), 12.85, "row 1 holds NaN"),
        (np.ones((1, 2)), 0.0, "clip: found 0.0"),
        (np.array([[1e9, -1e9]]), 12.85, "weights are too large"),
    ],
)
def test_errors_say_what_was_found(weights: np.ndarray, clip: float, message: str) -> None:
    with pytest.raises(StepError, match=message):
        row_codes(weights, clip=clip)


def test_negative_steps_are_refused() -> None:
    with pytest.raises(StepError, match="finite numbers >= 0"):
        step_codes(np.array([-1.0]), per_octave=8)
