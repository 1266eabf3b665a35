"""Steps by token frequency: the water-filling formula, the mean that stays, and the knob acting on tables alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from golf.models.registry import build_model, config_from_dict
from golf.quantize.config import QuantizeConfig
from golf.quantize.frequency import row_factors
from golf.quantize.full_gptq import GptqConfig
from golf.quantize.pipeline import Quantizer
from tiny import recurrent

VOCAB = 60
MODEL = recurrent(blocks=1)
ROLES = ("embedding", "attention", "mlp")
COUNTS = (100_000 / np.arange(1, VOCAB + 1)).astype(np.int64)
GPTQ = GptqConfig(token_exponent=0.5)
CONFIG = QuantizeConfig("gptq", dict.fromkeys(ROLES, 31), (1.0,), 8.0)


def quantize(config: QuantizeConfig, counts: np.ndarray | None = COUNTS) -> Any:
    torch.manual_seed(0)
    model = build_model(config_from_dict(MODEL), VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    hessians: dict[str, Any] = dict.fromkeys(model.quantizable_names())
    meta = {"model": MODEL, "vocab_size": VOCAB}
    result = Quantizer(state, model, config, meta=meta, hessians=hessians, token_counts=counts).run()
    return state, result


def test_at_one_half_the_steps_follow_frequency_alone() -> None:
    matrix = np.random.default_rng(0).standard_normal((VOCAB, 8)) * np.linspace(1, 9, VOCAB)[:, None]
    steps = matrix.std(1) * row_factors(matrix, COUNTS, exponent=0.5)
    frequency = COUNTS / COUNTS.mean() + 0.05
    np.testing.assert_allclose(steps / steps[0], (frequency / frequency[0]) ** -0.5)
    for exponent in (0.0, 0.2, 0.5):
        factors = row_factors(matrix, COUNTS, exponent=exponent)
        assert np.log(factors).mean() == pytest.approx(0.0, abs=1e-12)
        assert exponent > 0 or (factors == 1).all()


def test_rows_without_counts_or_spread_keep_a_finite_step() -> None:
    matrix = np.random.default_rng(0).standard_normal((4, 8))
    matrix[1] = 0.0
    factors = row_factors(matrix, np.array([0, 5, 0, 100]), exponent=0.5)
    assert np.isfinite(factors).all() and (factors > 0).all()
    assert np.isfinite(row_factors(np.zeros((2, 3)), np.array([1, 0]), exponent=0.5)).all()


@pytest.mark.parametrize(
    ("counts", "exponent", "message"),
    [([1, 2], 0.6, "token_exponent: found 0.6"), ([1], 0.5, "wanted 2 token counts"), ([0, 0], 0.5, "not all of them")],
)
def test_wrong_arguments_are_named(counts: list[int], exponent: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row_factors(np.ones((2, 3)), np.array(counts), exponent=exponent)


@pytest.mark.parametrize("method", ["gptq", "gptq_trellis"])
def test_the_exponent_lowers_the_error_that_counts_on_tables_alone(method: Any) -> None:
    config = dataclasses.replace(CONFIG, method=method)
    state, plain = quantize(config)
    _, found = quantize(dataclasses.replace(config, gptq=GPTQ))
    for name, tensor in found.model.tensors.items():
        errors = [
            float((((r.model.tensors[name].dequantize() - state[name]) ** 2).sum(1) * COUNTS).sum())
            for r in (plain, found)
        ] if tensor.role == "embedding" else [1.0, 0.0]  # fmt: skip
        assert errors[1] < errors[0], name
        same = np.array_equal(tensor.values, plain.model.tensors[name].values)
        assert same == (tensor.role != "embedding"), name


def test_it_needs_counts_and_a_method_of_gptq() -> None:
    with pytest.raises(ValueError, match="quantize.gptq.token_exponent: wanted token counts"):
        quantize(dataclasses.replace(CONFIG, gptq=GPTQ), None)
    with pytest.raises(ValueError, match="token_exponent: found 0.7"):
        GptqConfig(token_exponent=0.7)
    quantize(dataclasses.replace(CONFIG, method="gptq_lite", gptq=GPTQ), None)  # whose clips are its own
