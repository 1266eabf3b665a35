"""Control tensors: the grid they are rounded to, what never changes, and that the knob acts on them alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from golf.quantize.config import QuantizeConfig
from golf.quantize.controls import stored_control
from golf.quantize.pipeline import quantize_model
from tiny import flat, shaken

MODEL = flat(negative_slope=0.0)
CONFIG = QuantizeConfig("sdclip", dict.fromkeys(("embedding", "attention", "mlp"), 31), (1.0,), 8.0)


@settings(max_examples=60, deadline=None)
@given(
    weights=arrays(np.float32, st.integers(0, 20), elements=st.floats(-1000, 1000, width=32)),
    step=st.sampled_from([0.003, 1 / 64, 0.1, 1.0]),
)
def test_multiples_of_a_power_of_two_below_the_share_and_half_of_it_away_at_most(
    weights: np.ndarray, step: float
) -> None:
    found = stored_control("w", weights, step=step).astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(weights, dtype=np.float64)))) if weights.size else 0.0
    if size < 1e-2:  # the grid would be finer than fp16
        return
    grid = 2.0 ** np.floor(np.log2(step * size))
    assert grid <= step * size < 2 * grid
    assert np.abs(found - weights).max() <= grid / 2 + 2.0**-11 * np.abs(weights).max()
    small = np.abs(found) <= 1024 * grid  # where fp16 is as fine as the grid
    assert np.array_equal(found[small] / grid, np.rint(found[small] / grid))


@pytest.mark.parametrize("step", [0.0, 1 / 64])
def test_zeros_empty_tensors_and_numbers_beyond_fp16(step: float) -> None:
    assert not stored_control("w", np.zeros(3, np.float32), step=step).any()
    assert stored_control("w", np.zeros((0, 2), np.float32), step=step).shape == (0, 2)
    for largest in (1e5, 65503.9):  # the second leaves fp16 by being rounded up to 65536
        found = stored_control("w", np.array([1.0, largest], np.float32), step=8 * step)
        assert np.isfinite(found).all() and found[1] == pytest.approx(largest, rel=0.07)
    with pytest.raises(ValueError, match="w: holds NaN or infinity"):
        stored_control("w", np.array([np.inf], np.float32), step=step)


def test_without_a_step_they_are_plain_fp16() -> None:
    weights = np.random.default_rng(0).normal(size=40).astype(np.float32)
    assert np.array_equal(stored_control("w", weights, step=0.0), weights.astype(np.float16))


def test_the_knob_acts_on_control_tensors_alone_and_wrong_values_are_named() -> None:
    model = shaken(MODEL, 40)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    plain, rounded = (
        quantize_model(
            state, model, dataclasses.replace(CONFIG, control_step=step), meta={"model": MODEL, "vocab_size": 40}
        ).model
        for step in (0.0, 1 / 8)
    )
    for name, tensor in plain.tensors.items():
        assert np.array_equal(tensor.values, rounded.tensors[name].values)
    for name, array in rounded.plain.items():
        assert np.array_equal(array, stored_control(name, state[name], step=1 / 8))
    assert any(not np.array_equal(array, plain.plain[name]) for name, array in rounded.plain.items())
    with pytest.raises(ValueError, match="control_step: found 2, wanted 0"):
        dataclasses.replace(CONFIG, control_step=2)
