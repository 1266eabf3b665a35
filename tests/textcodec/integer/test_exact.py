"""Exact products, fixed polynomials, rotations: the same numbers whatever stands beside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.base.exact import exp_all, log_all
from golf.base.jit import kernel
from golf.textcodec.integer import product
from golf.textcodec.integer.exact import exp_nonpositive, snap_row, snapped
from golf.textcodec.integer.product import PANEL, pack_panels, product_of
from golf.textcodec.integer.rotary import rotations
from plain_network import exp_nonpositive as plain_exp
from plain_network import snap


@kernel
def exponentials(x):  # type: ignore[no-untyped-def]
    out = np.empty(len(x))
    for i in range(len(x)):
        out[i] = exp_nonpositive(x[i])
    return out


@kernel
def snap_rows(x, left, unit):  # type: ignore[no-untyped-def]
    for r in range(len(x)):
        unit[r] = snap_row(x, r, x.shape[1], left)


@settings(max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=9))
def test_snapped_rows_are_integers_times_one_power_of_two(row: list[float]) -> None:
    x = np.array([row])
    left, unit = np.zeros(x.shape, np.int16), np.zeros(1)
    snap_rows(x, left, unit)
    expected, expected_unit = snap(x, 13)
    assert np.array_equal(left, expected) and (unit[0] == expected_unit[0, 0] or not x.any())
    assert np.abs(left * unit - x).max() <= unit[0] / 2 and np.abs(left).max() <= 1 << 13
    found, again = snapped(x, 13)
    assert np.array_equal(found, left) and (again[0] == unit[0] or not x.any())


@pytest.mark.parametrize("shape", [(1, 2, 16), (7, 64, 33), (100, 130, 16), (3, 5, 40)])
def test_products_are_those_of_python_integers(shape: tuple[int, int, int]) -> None:
    """Of every number of rows at a time, more terms than a 32-bit sum takes, an odd number of them, at the limits."""
    rows, terms, columns = shape
    rng = np.random.default_rng(rows)
    left = rng.integers(-(1 << 13), (1 << 13) + 1, (rows, terms + terms % 2)).astype(np.int16)
    left[0], left[:, terms:] = 1 << 13, 0
    right = rng.integers(-(1 << 11), (1 << 11) + 1, (terms, columns)).astype(np.int16)
    right[:, 0] = -(1 << 11)
    panels = pack_panels(right)
    assert panels.shape == (-(-columns // PANEL), (terms + 1) // 2, PANEL, 2)
    out = np.full((rows, len(panels) * PANEL + 3), np.nan)
    product_of(left, panels, out)
    assert np.array_equal(out[:, :columns], left[:, :terms].astype(np.int64) @ right.astype(np.int64))
    assert (out[:, columns : len(panels) * PANEL] == 0.0).all() and np.isnan(out[:, len(panels) * PANEL :]).all()


def test_the_largest_sums_of_32_bits_are_exact() -> None:
    terms = product.GROUP
    left, right = np.full((1, terms), 1 << 13, np.int16), np.full((terms, 1), -(1 << 11), np.int16)
    out = np.zeros((1, PANEL))
    product_of(left, pack_panels(right), out)
    assert out[0, 0] == -terms * (1 << 24)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 13, 1003])  # bodies and tails of vector loops
def test_polynomials_are_close_and_do_not_know_their_neighbors(size: int) -> None:
    x = -np.linspace(0.0, 60.0, size)
    np.testing.assert_allclose(exponentials(x), np.exp(x), rtol=1e-8)
    assert np.array_equal(exponentials(x), plain_exp(x))
    wide = np.linspace(-700.0, 700.0, size)
    found, powers = exp_all(wide), np.exp(wide)
    np.testing.assert_allclose(found, powers, rtol=2e-14)
    np.testing.assert_allclose(log_all(powers), wide, rtol=1e-15, atol=2e-16)
    for i in range(0, size, 7):
        assert exponentials(x[i : i + 1])[0] == exponentials(x)[i]
        assert exp_all(wide[i : i + 1])[0] == found[i] and log_all(powers[i : i + 1])[0] == log_all(powers)[i]
    assert exp_all(np.array([-1e9, -708.0, 0.0]))[::2].tolist() == [exp_all(np.array([-708.0]))[0], 1.0]


def test_rotations_are_those_of_the_angles_whatever_is_asked_for_beside_them() -> None:
    positions = np.array([0, 1, 2, 255, 256, 1000, 65535, 99999])
    cos, sin = rotations(positions, 8, 10000.0)
    angles = positions[:, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-10)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-10)
    for i in range(len(positions)):
        alone = rotations(positions[i : i + 1], 8, 10000.0)
        assert np.array_equal(alone[0][0], cos[i]) and np.array_equal(alone[1][0], sin[i])
