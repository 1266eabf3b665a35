"""Trellis-coded quantization: a naive Viterbi, a naive decoder, and the gain on a Gaussian."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.quantize.gptq import GptqError
from golf.quantize.rounding import entropy_bits
from golf.quantize.tensors import NEXT_STATES, parent_table, trellis_values
from quantizing import plain_trellis


def _naive_values(row: list[int]) -> list[float]:
    state, out = 0, []
    for k in row:
        out.append((2 * k + (state & 1)) / 2)
        state = NEXT_STATES[state][k & 1]
    return out


def _naive_viterbi(row: np.ndarray, step: float) -> float:
    """Least squared error over all paths, trying five integers around the best at every branch."""
    best = {0: 0.0}
    for x in row.tolist():
        after: dict[int, float] = {}
        for state, cost in best.items():
            center = round(x / step - (state & 1) / 2)
            for k in range(center - 2, center + 3):
                total = cost + (x - (2 * k + (state & 1)) * step / 2) ** 2
                target = NEXT_STATES[state][k & 1]
                after[target] = min(after.get(target, math.inf), total)
        best = after
    return min(best.values())


def test_the_table_is_the_formats() -> None:
    assert NEXT_STATES == ((0, 2), (5, 7), (1, 3), (4, 6), (2, 0), (7, 5), (3, 1), (6, 4))


def test_every_state_has_two_parents_that_offer_grids_two_quarter_steps_apart() -> None:
    parents = parent_table()
    assert parents.shape == (8, 2, 3)
    for state in range(8):
        for source, bit, offset in parents[state].tolist():
            assert NEXT_STATES[source][bit] == state and offset == 2 * bit + (source & 1)
        assert abs(int(parents[state, 0, 2]) - int(parents[state, 1, 2])) == 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_decoding_equals_the_naive_walk(seed: int, num_columns: int) -> None:
    values = np.random.default_rng(seed).integers(-32768, 32768, (3, num_columns)).astype(np.int16)
    decoded = trellis_values(values)
    assert decoded.dtype == np.float32
    assert decoded.tolist() == [_naive_values(row.tolist()) for row in values]


def test_decoding_takes_any_memory_layout_and_no_rows() -> None:
    values = np.random.default_rng(0).integers(-9, 9, (20, 40)).astype(np.int16)
    np.testing.assert_array_equal(trellis_values(np.asfortranarray(values)), trellis_values(values))
    assert trellis_values(np.zeros((0, 5), np.int16)).shape == (0, 5)
    assert trellis_values(np.zeros((5, 0), np.int16)).shape == (5, 0)


def test_without_a_hessian_the_search_finds_the_best_path() -> None:
    weights = np.random.default_rng(1).standard_normal((6, 40)).astype(np.float32)
    steps = np.linspace(0.3, 1.2, 6).astype(np.float32)
    decoded = trellis_values(plain_trellis(weights, steps)) * steps[:, None]
    errors = ((weights.astype(np.float64) - decoded) ** 2).sum(1)
    for row, step, error in zip(weights, steps.tolist(), errors, strict=True):
        assert error == pytest.approx(_naive_viterbi(row, step), rel=1e-5)


def test_one_decibel_below_rounding_at_equal_entropy_on_a_gaussian() -> None:
    weights = np.random.default_rng(3).standard_normal((400, 500)).astype(np.float32)
    step = np.float32(16 / 31)
    values = plain_trellis(weights, np.full(400, step))
    decoded = trellis_values(values)
    parity = decoded != values  # coded with one table per parity, as the codec does
    bits = sum(entropy_bits(values[parity == p]) for p in (False, True)) / values.size
    rounded = {k: np.rint(weights / (k / 31)).astype(np.int16) for k in np.linspace(14, 18, 17).tolist()}
    curve = sorted(
        (entropy_bits(q) / q.size, float(((weights - q * (k / 31)) ** 2).mean())) for k, q in rounded.items()
    )
    error = float(((weights - decoded * step) ** 2).mean())
    at_equal_bits = np.exp(np.interp(bits, [b for b, _ in curve], [np.log(e) for _, e in curve]))
    assert 10 * np.log10(at_equal_bits / error) >= 1.0


def test_overflow_is_an_error() -> None:
    with pytest.raises(GptqError, match="row 1: an integer exceeds 32000"):
        plain_trellis(np.ones((2, 3), np.float32), np.array([1.0, 1e-6], np.float32))


def test_the_decoder_needs_no_compiler() -> None:
    """numba takes a second to import and the shipped decoder only reads a table."""
    code = (
        "import sys, numpy as np; from golf.quantize.tensors import trellis_values; "
        "assert trellis_values(np.array([[1, 1]], np.int16)).tolist() == [[1.0, 1.0]]; "
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_start_leads_everywhere() -> None:
    """A wrong table would leave states that no path from state 0 reaches."""
    reached = {0}
    for _ in range(8):
        reached |= {after for state in reached for after in NEXT_STATES[state]}
    assert len(reached) == 8
