from __future__ import annotations

import numpy as np
import pytest

from golf.quantize.grid import SMALLEST_HALF, check_matrix, half_steps, order0_bits, round_rows, row_errors


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
    wanted = [
        sum((float(w) - float(np.float32(q) * np.float32(s))) ** 2 for w, q in zip(row, ints, strict=True))
        for row, ints, s in zip(weights, values, steps, strict=True)
    ]
    assert np.allclose(row_errors(weights, values, steps), wanted, rtol=1e-12)


def test_order0_bits() -> None:
    assert order0_bits(np.array([[1, 1, -1, -1]], np.int16)) == pytest.approx(4.0)
    assert order0_bits(np.full(7, 3, np.int16)) == 0.0
    assert order0_bits(np.zeros((0, 3), np.int16)) == 0.0
