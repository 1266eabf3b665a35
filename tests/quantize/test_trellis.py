"""Trellis-coded quantization: a naive Viterbi, a naive decoder, and the gain on a Gaussian."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.quantize.trellis import TrellisError, next_states, parent_table, trellis_encode, trellis_values

STATES = (4, 8, 16, 32, 64, 128, 256)


def _naive_values(row: list[int], states: int) -> list[float]:
    table, state, out = next_states(states), 0, []
    for k in row:
        out.append((2 * k + (state & 1)) / 2)
        state = int(table[state][k & 1])
    return out


def _naive_viterbi(row: np.ndarray, step: float, states: int) -> float:
    """Least squared error over all paths, trying five integers around the best at every branch."""
    table = next_states(states)
    best = {0: 0.0}
    for x in row.tolist():
        after: dict[int, float] = {}
        for state, cost in best.items():
            centre = round(x / step - (state & 1) / 2)
            for k in range(centre - 2, centre + 3):
                total = cost + (x - (2 * k + (state & 1)) * step / 2) ** 2
                target = int(table[state][k & 1])
                after[target] = min(after.get(target, math.inf), total)
        best = after
    return min(best.values())


def test_the_default_table_is_the_formats() -> None:
    assert next_states(8).tolist() == [[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]]


@pytest.mark.parametrize("states", STATES)
def test_every_state_has_two_parents_that_offer_grids_two_quarter_steps_apart(states: int) -> None:
    parents = parent_table(states)
    table = next_states(states)
    for state in range(states):
        for source, bit, offset in parents[state].tolist():
            assert table[source][bit] == state and offset == 2 * bit + (source & 1)
        assert abs(int(parents[state, 0, 2]) - int(parents[state, 1, 2])) == 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from(STATES))
def test_decoding_equals_the_naive_walk(seed: int, num_columns: int, states: int) -> None:
    values = np.random.default_rng(seed).integers(-32768, 32768, (3, num_columns)).astype(np.int16)
    decoded = trellis_values(values, states=states)
    assert decoded.dtype == np.float32
    assert decoded.tolist() == [_naive_values(row.tolist(), states) for row in values]


def test_decoding_takes_any_memory_layout_and_no_rows() -> None:
    values = np.random.default_rng(0).integers(-9, 9, (20, 40)).astype(np.int16)
    np.testing.assert_array_equal(trellis_values(np.asfortranarray(values)), trellis_values(values))
    assert trellis_values(np.zeros((0, 5), np.int16)).shape == (0, 5)
    assert trellis_values(np.zeros((5, 0), np.int16)).shape == (5, 0)


@pytest.mark.parametrize("states", [4, 8, 16])
def test_encoding_finds_the_best_path(states: int) -> None:
    weights = np.random.default_rng(1).standard_normal((6, 40)).astype(np.float32)
    steps = np.linspace(0.3, 1.2, 6).astype(np.float32)
    values, costs = trellis_encode(weights, steps, states=states)
    decoded = trellis_values(values, states=states) * steps[:, None]
    errors = ((weights.astype(np.float64) - decoded) ** 2).sum(1)
    np.testing.assert_allclose(costs, errors, rtol=1e-5)
    for row, step, error in zip(weights, steps.tolist(), errors, strict=True):
        assert error == pytest.approx(_naive_viterbi(row, step, states), rel=1e-5)


def test_column_steps_and_weights_reach_the_search() -> None:
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((4, 50)).astype(np.float32)
    steps = np.full(4, 0.5, np.float32)
    columns = np.where(np.arange(50) % 2, 0.5, 2).astype(np.float32)
    scaled, _ = trellis_encode(weights / columns, steps)
    with_columns, _ = trellis_encode(weights, steps, column_steps=columns, column_weights=1 / columns)
    np.testing.assert_array_equal(scaled, with_columns)
    assert (with_columns != trellis_encode(weights, steps, column_steps=columns)[0]).any()


def _entropy(values: np.ndarray) -> float:
    share = np.unique(values, return_counts=True)[1] / values.size
    return float(-(share * np.log2(share)).sum())


def test_one_decibel_below_rounding_at_equal_entropy_on_a_gaussian() -> None:
    weights = np.random.default_rng(3).standard_normal((400, 500)).astype(np.float32)
    step = np.float32(16 / 31)
    values, costs = trellis_encode(weights, np.full(400, step))
    decoded = trellis_values(values)
    parity = decoded != values  # coded with one table per parity, as the codec does
    bits = sum(float((parity == p).mean()) * _entropy(values[parity == p]) for p in (False, True))
    rounded = {k: np.rint(weights / (k / 31)) for k in np.linspace(14, 18, 17).tolist()}
    curve = sorted((_entropy(q), float(((weights - q * (k / 31)) ** 2).mean())) for k, q in rounded.items())
    error = float(costs.sum() / weights.size)
    at_equal_bits = np.exp(np.interp(bits, [b for b, _ in curve], [np.log(e) for _, e in curve]))
    assert 10 * np.log10(at_equal_bits / error) >= 1.0


def test_more_states_never_cost_more_on_average() -> None:
    weights = np.random.default_rng(4).standard_normal((200, 300)).astype(np.float32)
    errors = [trellis_encode(weights, np.full(200, 0.5, np.float32), states=s)[1].sum() for s in STATES]
    assert errors == sorted(errors, reverse=True)


def test_unknown_states_and_overflow_are_errors() -> None:
    with pytest.raises(TrellisError, match="states: found 7, wanted one of 4, 8, 16, 32, 64, 128, 256"):
        next_states(7)
    with pytest.raises(TrellisError, match="row 1: an integer exceeds 32000"):
        trellis_encode(np.ones((2, 3), np.float32), np.array([1.0, 1e-6], np.float32))


def test_the_decoder_needs_no_compiler() -> None:
    """numba takes a second to import and the shipped decoder only reads a table."""
    code = (
        "import sys, numpy as np; from golf.quantize.trellis import trellis_values; "
        "assert trellis_values(np.array([[1, 1]], np.int16)).tolist() == [[1.0, 1.0]]; "
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("states", [4, 8, 256])
def test_every_start_leads_everywhere(states: int) -> None:
    """A wrong polynomial would leave states that no path from state 0 reaches."""
    reached, table = {0}, next_states(states)
    for _ in range(states):
        reached |= {int(after) for state in reached for after in table[state]}
    assert len(reached) == states
