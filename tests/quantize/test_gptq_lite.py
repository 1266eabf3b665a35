from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from golf.quantize.rounding import PERCENTILES, SMALLEST_HALF, quantize_gptq_lite, row_errors
from quantizing import naive_gptq_lite_row

matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 40)),
    elements=st.floats(-100, 100, width=32, allow_nan=False),
)


@given(matrices, st.sampled_from([7, 15, 31, 63, 127]))
def test_never_worse_than_the_row_by_row_reference(weights: np.ndarray, levels: int) -> None:
    """Quantiles may differ in the last bit, so errors are compared, not integers."""
    found = quantize_gptq_lite("w", weights, role="mlp", levels=levels)
    errors = row_errors(weights, found.values, found.row_scale)
    for row, error in zip(weights, errors, strict=True):
        values, step = naive_gptq_lite_row(row, levels, PERCENTILES)
        expected = row_errors(row[None], np.array([values], np.int16), np.array([step]))[0]
        assert error <= expected * 1.01 + 1e-12


def test_same_integers_as_the_reference_on_ordinary_rows() -> None:
    weights = np.random.default_rng(0).standard_t(4, (12, 600)).astype(np.float32) * 0.02
    found = quantize_gptq_lite("w", weights, role="mlp", levels=31)
    for i, row in enumerate(weights):
        values, step = naive_gptq_lite_row(row, 31, PERCENTILES)
        assert found.row_scale[i] == step and found.values[i].tolist() == values


def test_search_uses_the_step_that_is_stored() -> None:
    """The public code searched with the fp32 step and stored fp16: the stored pair was then not the best one."""
    weights = np.random.default_rng(1).normal(size=(64, 200)).astype(np.float32)
    found = quantize_gptq_lite("w", weights, role="mlp", levels=31)
    error = row_errors(weights, found.values, found.row_scale)
    for p in PERCENTILES:
        step = (np.quantile(np.abs(weights), p, axis=1).astype(np.float32) / np.float32(31)).astype(np.float16)
        other = quantize_gptq_lite("w", weights, role="mlp", levels=31, percentiles=[p])
        assert (other.row_scale == step).mean() > 0.95
        assert (error <= row_errors(weights, other.values, other.row_scale)).all()


def test_more_percentiles_never_hurt_and_huge_outliers_make_them_help() -> None:
    weights = np.random.default_rng(2).normal(size=(8, 4000)).astype(np.float32)
    weights[:, 0] = 40.0
    narrow = quantize_gptq_lite("w", weights, role="mlp", levels=7, percentiles=[1.0])
    wide = quantize_gptq_lite("w", weights, role="mlp", levels=7)
    assert (
        row_errors(weights, wide.values, wide.row_scale).sum()
        < row_errors(weights, narrow.values, narrow.row_scale).sum()
    )


def test_rows_of_small_weights_keep_their_resolution() -> None:
    """Floor bug of the public baseline: steps were at least 1/levels, so rows with max below 1 were crushed."""
    weights = np.random.default_rng(3).normal(size=(4, 256)).astype(np.float32) * 1e-3
    found = quantize_gptq_lite("w", weights, role="mlp", levels=127)
    error = row_errors(weights, found.values, found.row_scale).sum() / np.square(weights.astype(np.float64)).sum()
    assert error < 1e-3 and np.abs(found.values).max() == 127


def test_odd_rows() -> None:
    weights = np.array([[0, 0, 0], [2, 2, 2], [-3e-9, 1e-9, 0], [1e-7, -1e-7, 5e-8], [1e4, 1, -1]], np.float32)
    found = quantize_gptq_lite("w", weights, role="mlp", levels=31)
    assert found.values[0].tolist() == [0, 0, 0]
    assert found.values[1].tolist() == [31, 31, 31]
    assert found.row_scale[2] == np.float16(SMALLEST_HALF) and found.values[2].tolist() == [0, 0, 0]
    assert found.values[3].tolist() == [2, -2, 1]  # subnormal steps still resolve what they can
    rebuilt = found.dequantize()
    assert np.isfinite(rebuilt).all() and abs(rebuilt[4, 0] - 1e4) < 5


def test_one_column() -> None:
    weights = np.array([[0.5], [-2.0], [0.0]], np.float32)
    found = quantize_gptq_lite("w", weights, role="mlp", levels=7)
    assert found.values.tolist() == [[7], [-7], [0]]
    assert np.allclose(found.dequantize(), weights, rtol=1e-3)


def test_leading_axes_become_rows() -> None:
    weights = np.random.default_rng(4).normal(size=(2, 3, 5)).astype(np.float32)
    found = quantize_gptq_lite("w", weights, role="embedding", levels=31)
    flat = quantize_gptq_lite("w", weights.reshape(6, 5), role="embedding", levels=31)
    assert found.values.tolist() == flat.values.tolist() and found.dequantize().shape == (2, 3, 5)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(5).normal(size=(10, 8)).astype(np.float32)
    whole = quantize_gptq_lite("w", weights, role="mlp", levels=31)
    monkeypatch.setattr("golf.quantize.rounding._CHUNK_WEIGHTS", 24)
    parts = quantize_gptq_lite("w", weights, role="mlp", levels=31)
    assert (parts.values == whole.values).all() and (parts.row_scale == whole.row_scale).all()


@pytest.mark.parametrize(("levels", "percentiles"), [(0, [1.0]), (128, [1.0]), (31, []), (31, [0.0]), (31, [1.5])])
def test_wrong_settings_are_named(levels: int, percentiles: list[float]) -> None:
    with pytest.raises(ValueError, match=r"w: (levels|percentiles)"):
        quantize_gptq_lite("w", np.ones((2, 2)), role="mlp", levels=levels, percentiles=percentiles)
