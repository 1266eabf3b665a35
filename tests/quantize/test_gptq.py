"""GPTQ against a naive column-by-column loop, its loss against the matrix formula, and the gain of each part."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.quantize.gptq import GptqError, gptq
from golf.quantize.hessian import Factor, factorize
from golf.quantize.pipeline import output_error
from golf.quantize.steps import column_codes, row_codes
from golf.quantize.tensors import NEXT_STATES, column_steps, row_steps, trellis_values


def _hessian(channels: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((channels, channels)) * np.exp2(rng.normal(0, 1, channels))
    inputs = rng.standard_normal((4 * channels, channels)) @ (mix / np.sqrt(channels) + np.eye(channels))
    return inputs.T @ inputs / len(inputs)


def _weights(rows: int, channels: int, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, channels)) * 0.02).astype(np.float32)


def _naive_gptq(row: np.ndarray, factor: Factor, step: np.float32, columns: np.ndarray) -> list[int]:
    row, values = row.copy(), []
    for j in range(len(row)):
        q = np.rint(row[j] / np.float32(step * columns[j]))
        values.append(int(q))
        error = row[j] - q * step * columns[j]
        row[j + 1 :] -= error * factor.feedback[j, j + 1 :]
    return values


def _naive_gptq_trellis(row: np.ndarray, factor: Factor, step: np.float32, columns: np.ndarray) -> list[int]:
    """Survivors as {state: (cost, rest of the row, integers)}; each tries the best integer of either parity."""
    table = NEXT_STATES
    survivors: dict[int, tuple[float, np.ndarray, list[int]]] = {0: (0.0, row.copy(), [])}
    for j in range(len(row)):
        after: dict[int, tuple[float, np.ndarray, list[int]]] = {}
        for state in sorted(survivors):
            cost, rest, values = survivors[state]
            half = step * np.float32(0.5)
            for bit in (0, 1):
                shift = np.float32(2 * bit + (state & 1))
                m = np.float32(4) * np.rint((rest[j] / (half * columns[j]) - shift) * np.float32(0.25)) + shift
                error = rest[j] - m * half * columns[j]
                total = cost + float(error * factor.importance[j]) ** 2
                target = table[state][bit]
                if target not in after or total < after[target][0]:
                    moved = rest.copy()
                    moved[j + 1 :] -= error * factor.feedback[j, j + 1 :]
                    after[target] = (total, moved, [*values, int(m - (state & 1)) // 2])
        survivors = after
    return min((survivors[s] for s in sorted(survivors)), key=lambda survivor: survivor[0])[2]


@given(st.integers(0, 10_000), st.sampled_from([1, 7, 64, 65, 150]))
@settings(max_examples=12)
def test_equals_the_naive_loop_to_the_last_bit(seed: int, channels: int) -> None:
    weights, factor = _weights(5, channels, seed), factorize(_hessian(channels, seed))
    steps = row_steps(row_codes(weights, clip=16, levels=31))
    columns = column_steps(column_codes(factor.importance, exponent=0.5))
    result = gptq(weights, factor, row_steps=steps, column_steps=columns)
    assert result.values.tolist() == [_naive_gptq(w, factor, s, columns) for w, s in zip(weights, steps, strict=True)]


@given(st.integers(0, 10_000), st.sampled_from([1, 7, 64, 65, 150]))
@settings(max_examples=6)
def test_trellis_equals_naive_survivors_to_the_last_bit(seed: int, channels: int) -> None:
    weights, factor = _weights(2, channels, seed), factorize(_hessian(channels, seed))
    steps = row_steps(row_codes(weights, clip=16, levels=31))
    columns = column_steps(column_codes(factor.importance, exponent=0.5))
    result = gptq(weights, factor, row_steps=steps, column_steps=columns, trellis=True)
    naive = [_naive_gptq_trellis(w, factor, s, columns) for w, s in zip(weights, steps, strict=True)]
    assert result.values.tolist() == naive


def test_identity_hessian_is_plain_rounding() -> None:
    weights, factor = _weights(9, 200), factorize(np.eye(200))
    steps = row_steps(row_codes(weights, clip=12.85, levels=31))
    np.testing.assert_array_equal(
        gptq(weights, factor, row_steps=steps).values, np.rint(weights / steps[:, None]).astype(np.int16)
    )


@pytest.mark.parametrize("trellis", [False, True])
def test_loss_is_the_trace_formula(trellis: bool) -> None:
    weights, h = _weights(20, 130), _hessian(130)
    steps = row_steps(row_codes(weights, clip=16, levels=31))
    result = gptq(weights, factorize(h, damping=0.02), row_steps=steps, trellis=trellis)
    units = trellis_values(result.values) if trellis else result.values.astype(np.float32)
    damped = h + 0.02 * np.diag(h).mean() * np.eye(130)
    rebuilt = units * steps[:, None]
    difference, exact = weights.astype(float) - rebuilt, weights.astype(float)
    error = np.trace(difference @ damped @ difference.T)
    assert result.loss == pytest.approx(error, rel=1e-4)
    relative = output_error(weights, rebuilt, damped.astype(np.float32))
    assert relative == pytest.approx(error / np.trace(exact @ damped @ exact.T), rel=1e-4)


def test_each_part_lowers_the_output_error_at_about_equal_bits() -> None:
    weights, h = _weights(60, 128), _hessian(128)
    factor, steps = factorize(h), row_steps(row_codes(weights, clip=16, levels=31))
    columns = column_steps(column_codes(factor.importance, exponent=1.0))
    rounded = np.rint(weights / steps[:, None]) * steps[:, None]
    rtn = np.trace((weights - rounded) @ h @ (weights - rounded).T)
    plain = gptq(weights, factor, row_steps=steps).loss
    filled = gptq(weights, factor, row_steps=steps, column_steps=columns).loss
    trellis = gptq(weights, factor, row_steps=steps, trellis=True).loss
    both = gptq(weights, factor, row_steps=steps, column_steps=columns, trellis=True).loss
    assert plain < 0.7 * rtn and filled < 0.95 * plain and trellis < 0.85 * plain and both < 0.85 * filled


def test_act_order_quantizes_the_permuted_problem_and_returns_storage_order() -> None:
    weights, h = _weights(30, 90), _hessian(90)
    steps = row_steps(row_codes(weights, clip=16, levels=31))
    ordered = factorize(h, act_order=True)
    result = gptq(weights, ordered, row_steps=steps)
    permuted = factorize(h[np.ix_(ordered.order, ordered.order)])
    expected = gptq(weights[:, ordered.order], permuted, row_steps=steps)
    np.testing.assert_array_equal(result.values[:, ordered.order], expected.values)
    assert result.loss == expected.loss


def test_dead_columns_become_zero() -> None:
    weights, h = _weights(8, 40), _hessian(40)
    h[[3, 7], :] = h[:, [3, 7]] = 0
    steps = row_steps(row_codes(weights, clip=16, levels=31))
    values = gptq(weights, factorize(h), row_steps=steps).values
    assert not values[:, [3, 7]].any() and values[:, [2, 4]].any()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    weights, h = _weights(33, 200), _hessian(200)
    steps = row_steps(row_codes(weights, clip=16, levels=31))
    before = numba.get_num_threads()
    found = []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            factor = factorize(h)
            found.append((factor, *(gptq(weights, factor, row_steps=steps, trellis=on) for on in (False, True))))
    finally:
        numba.set_num_threads(before)
    for factor, plain, trellis in found[1:]:
        assert factor.feedback.tobytes() == found[0][0].feedback.tobytes()
        assert plain.values.tobytes() == found[0][1].values.tobytes()
        assert trellis.row_losses.tobytes() == found[0][2].row_losses.tobytes()


def test_outliers_keep_their_size() -> None:
    """Clipping integers at +-60 with feedback wrecked a model: a weight of 60 standard deviations must survive."""
    weights = _weights(4, 64)
    weights[1, 5] = 1.2
    steps = np.full(4, 0.01, np.float32)
    assert gptq(weights, factorize(_hessian(64) / 9), row_steps=steps).values[1, 5] > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_steps": np.ones(3, np.float32)}, "layer: row steps have shape \\(3,\\), expected \\(4,\\)"),
        ({"row_steps": np.zeros(4, np.float32)}, "layer: row steps hold a value that is not positive"),
        ({"column_steps": np.ones(9, np.float32)}, "layer: column steps have shape \\(9,\\), expected \\(8,\\)"),
        ({"row_steps": np.full(4, 1e-7, np.float32)}, "layer: row 0: an integer exceeds 32000"),
        ({"weights": np.zeros(8)}, "layer: found shape \\(8,\\), expected a matrix"),
        ({"weights": np.full((4, 8), np.nan)}, "layer: holds NaN or infinity"),
        ({"factor": factorize(np.eye(9))}, "layer: has 8 columns, its Hessian 9"),
        (
            {"factor": factorize(np.diag(np.arange(1.0, 9.0)), act_order=True), "trellis": True},
            "layer: act_order and trellis exclude each other",
        ),
    ],
)
def test_errors_name_the_tensor(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "weights": _weights(4, 8), "factor": factorize(np.eye(8)), "row_steps": np.full(4, 0.01, np.float32)
    }  # fmt: skip
    with pytest.raises(GptqError, match=message):
        gptq(**{**arguments, **change}, name="layer")  # type: ignore[arg-type]
