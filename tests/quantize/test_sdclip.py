from __future__ import annotations

import numpy as np
import pytest

from golf.quantize.grid import order0_bits
from golf.quantize.naive import naive_sdclip_row
from golf.quantize.sdclip import quantize_sdclip


def test_same_as_the_reference() -> None:
    weights = np.random.default_rng(0).standard_t(3, (20, 300)).astype(np.float32) * 0.05
    found = quantize_sdclip("w", weights, role="mlp", levels=31, clip=12.85)
    for i, row in enumerate(weights):
        values, step = naive_sdclip_row(row, 31, 12.85)
        assert found.row_scale[i] == step and found.values[i].tolist() == values


def test_rate_is_chosen_by_the_clip() -> None:
    """Gaussian rows cost log2(levels / clip) + log2(sqrt(2 pi e)) bits: 3.33 at 12.85 and 31."""
    weights = np.random.default_rng(1).normal(size=(200, 1000)).astype(np.float32)
    for clip, bits in ((12.85, 3.33), (20.0, 2.70)):
        found = quantize_sdclip("w", weights, role="mlp", levels=31, clip=clip)
        assert order0_bits(found.values) / found.values.size == pytest.approx(bits, abs=0.03)


def test_outliers_are_not_clipped() -> None:
    """Hard limits wreck outliers beyond 25 standard deviations; entropy coding makes the range free."""
    weights = np.random.default_rng(2).normal(size=(1, 5000)).astype(np.float32)
    weights[0, 9] = 2000.0
    found = quantize_sdclip("w", weights, role="mlp", levels=31, clip=12.85)
    assert found.values[0, 9] > 127
    assert found.dequantize()[0, 9] == pytest.approx(2000.0, rel=0.01)


def test_rows_without_spread() -> None:
    weights = np.array([[0, 0, 0], [2, 2, 2], [1e-9, 1e-9, 1e-9]], np.float32)
    found = quantize_sdclip("w", weights, role="mlp", levels=31, clip=12.85)
    assert found.values.tolist() == [[0, 0, 0], [31, 31, 31], [0, 0, 0]]
    assert np.allclose(found.dequantize(), weights, rtol=1e-3, atol=1e-8)


def test_one_column_rows_have_no_spread() -> None:
    found = quantize_sdclip("w", np.array([[0.3], [-7.0]]), role="mlp", levels=31, clip=12.85)
    assert found.values.tolist() == [[31], [-31]]


def test_a_tiny_spread_beside_a_large_mean_does_not_overflow_int16() -> None:
    weights = np.full((3, 64), 1.0, np.float32)
    weights[:, 0] += np.float32(1e-6)
    found = quantize_sdclip("w", weights, role="mlp", levels=127, clip=0.01)
    assert np.abs(found.values.astype(int)).max() <= 32767
    assert np.allclose(found.dequantize(), weights, rtol=1e-3)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_clip_is_named(clip: float) -> None:
    with pytest.raises(ValueError, match="w: clip is"):
        quantize_sdclip("w", np.ones((2, 2)), role="mlp", levels=31, clip=clip)
