"""Sums that are exact in any order, elementwise functions that do not know their neighbors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.textcodec.integer import exact
from golf.textcodec.integer.exact import (
    IntegerError,
    capped_logits,
    check_exact,
    exp_nonpositive,
    normed,
    plain_normed,
    plain_snap,
    plain_squared,
    plain_weights,
    snap,
    snap_to,
    softmax_weights,
    squared,
)
from golf.textcodec.integer.rotary import rotations
from golf.textcodec.integer.rows import probabilities

ROWS = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=9)


@settings(max_examples=60)
@given(ROWS)
def test_snapped_rows_are_integers_times_one_power_of_two(row: list[float]) -> None:
    x = torch.tensor([row], dtype=torch.float64)
    snapped, top = snap(x), x.abs().max().item()
    unit = math.ldexp(1.0, max(math.frexp(top)[1], -200) - exact.BITS) if top else 1.0
    integers = snapped / unit
    assert torch.equal(integers, integers.round())
    assert integers.abs().max() <= 1 << exact.BITS
    assert (snapped - x).abs().max() <= unit / 2


def test_one_grid_for_all_rows_holds_what_is_beyond_it() -> None:
    x = torch.tensor([0.3, -7.9999, 9.0, -1e9, 0.0], dtype=torch.float64)
    assert snap_to(x, 3, bits=4).tolist() == [0.5, -8.0, 8.0, -8.0, 0.0]


def test_products_equal_python_integers_in_any_order() -> None:
    torch.manual_seed(0)
    left, right = snap(torch.randn(5, 700, dtype=torch.float64)), snap(torch.randn(3, 700, dtype=torch.float64))
    unit = 2.0**-40  # finer than both grids
    found = left @ right.T
    for i in range(5):
        for j in range(3):
            a, b = ([int(v / unit) for v in rows.tolist()] for rows in (left[i], right[j]))
            assert int(found[i, j].item() * 2.0**80) == sum(x * y for x, y in zip(a, b, strict=True))
    order = torch.randperm(700)
    assert torch.equal(left[:, order] @ right[:, order].T, found)


def test_bound_of_exact_sums() -> None:
    check_exact(8191, 20, 20, what="here")
    with pytest.raises(IntegerError, match=r"here: 8192 products of 20- and 20-bit .* 2\^53.* at most 8191 terms"):
        check_exact(8192, 20, 20, what="here")
    largest = torch.full((8191,), 2.0**20, dtype=torch.float64)
    assert int((largest @ largest).item()) == 8191 << 40


def test_exponential_is_close() -> None:
    x = -torch.linspace(0.0, 50.0, 1003, dtype=torch.float64)
    np.testing.assert_allclose(exp_nonpositive(x).numpy(), np.exp(x.numpy()), rtol=3e-14)


@pytest.mark.parametrize("columns", [1, 2, 7, 8, 13, 97])  # bodies and tails of vector loops
def test_loops_give_the_bits_of_plain_operations(columns: int) -> None:
    torch.manual_seed(columns)
    x = torch.randn(2, 3, 2, 5, columns, dtype=torch.float64) * 10.0 ** torch.randint(-9, 9, (2, 3, 2, 5, 1))
    x[0, 0, 0, 0] = 0.0
    assert torch.equal(snap(x), plain_snap(x))
    for found, expected in zip(normed(x, 1e-6), plain_normed(x, 1e-6), strict=True):
        assert torch.equal(found, expected)
    inverse = torch.rand(2, 3, 2, 5, 1, dtype=torch.float64)
    for slope in (0.0, 0.5):
        assert torch.equal(squared(x.clone(), inverse, slope), plain_squared(x, inverse, slope))
    gain, seen = torch.randn(3, 2, dtype=torch.float64), torch.rand(2, 5, columns) < 0.7
    seen[:, :, 0] = True
    products = snap(torch.randn(2, 3, 2, 5, columns, dtype=torch.float64) * 20)
    for found, expected in zip(
        softmax_weights(products.clone(), gain, seen), plain_weights(products, gain, seen), strict=True
    ):
        assert torch.equal(found, expected)


def test_capped_logits_are_rounded_and_odd() -> None:
    z = torch.linspace(-200.0, 200.0, 997, dtype=torch.float64)[None]
    found = capped_logits(z.clone(), 30.0)
    assert torch.equal(found, found.round())
    assert (found / 1024 - 30 * torch.tanh(z / 30)).abs().max() <= 0.5001 / 1024
    assert torch.equal(capped_logits(-z, 30.0), -found)
    decay = exp_nonpositive(-2.0 * (z.abs() / 30.0))
    assert torch.equal(found.abs(), (((1.0 - decay) / (1.0 + decay)) * (30.0 * 1024)).round())
    assert torch.equal(torch.cat([capped_logits(part.clone(), 30.0) for part in z.split(5, 1)], 1), found)


def test_rotations_are_those_of_the_angles_whatever_is_asked_for_beside_them() -> None:
    positions = np.array([0, 1, 2, 255, 256, 1000, 65535, 99999])
    cos, sin = rotations(positions, 8, 10000.0)
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-10)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-10)
    for i in range(len(positions)):
        alone = rotations(positions[i : i + 1], 8, 10000.0)
        assert np.array_equal(alone[0][0], cos[i]) and np.array_equal(alone[1][0], sin[i])


@given(st.lists(st.integers(-30720, 30720), min_size=2, max_size=40))
def test_probabilities_of_integer_logits(logits: list[int]) -> None:
    row = np.array([logits], dtype=np.float64)
    found = probabilities(row)[0]
    expected = np.exp((row[0] - row.max()) / 1024)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-9, atol=2.0**-40)
    assert found.min() > 0 and abs(found.sum() - 1) < 1e-12
