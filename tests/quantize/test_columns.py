"""Column steps: water-filling at the same mean rate."""

from __future__ import annotations

import numpy as np
import pytest

from golf.quantize.columns import column_codes
from golf.quantize.scales import StepError
from golf.quantize.tensors import column_steps

IMPORTANCE = np.exp2(np.random.default_rng(0).normal(0, 1.5, 300))


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_steps_follow_the_power_law_within_an_eighth_of_an_octave(exponent: float) -> None:
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
        (np.array([1.0, 0.0]), 0.5, "positive finite numbers"),
        (np.array([]), 0.5, "positive finite numbers"),
    ],
)
def test_errors(importance: np.ndarray, exponent: float, message: str) -> None:
    with pytest.raises(StepError, match=message):
        column_codes(importance, exponent=exponent)
