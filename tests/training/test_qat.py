"""Late QAT: the very grid of `quantize`, over everything it quantizes, active however the loss is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.base.params import ParamsError, from_dict
from golf.models.registry import build_model, config_from_dict
from golf.quantize.rounding import quantize_sdclip
from golf.training.config import QatConfig, check_qat, qat_differences
from golf.training.qat import LateQat, fake_quantize

LEVELS = {"embedding": 31, "attention": 31, "mlp": 15}


def by_numpy(weights: np.ndarray, levels: int, clip: float) -> np.ndarray:
    return quantize_sdclip("w", weights, role="mlp", levels=levels, clip=clip).dequantize()


def assert_same_grid(weights: np.ndarray, levels: int, clip: float) -> int:
    """Rows that are not those of the quantizer; these too are multiples of a neighboring fp16 step."""
    got = fake_quantize(torch.from_numpy(weights), levels=levels, clip=clip).numpy()
    expected = quantize_sdclip("w", weights, role="mlp", levels=levels, clip=clip)
    odd = np.flatnonzero((got != expected.dequantize()).any(axis=1))
    for row in odd:
        step = expected.row_scale[row]
        steps = [np.nextafter(step, np.float16(side)).astype(np.float32) for side in (0, np.inf)]
        assert any(np.array_equal(got[row], np.rint(weights[row] / other) * other) for other in steps), row
    return len(odd)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    levels=st.sampled_from([7, 15, 31, 63, 127]),
    clip=st.sampled_from([3.0, 12.85, 20.0]),
    scale=st.integers(-24, 9),
)
@settings(max_examples=60, deadline=None)
def test_the_grid_is_that_of_sdclip_to_a_unit_of_fp16(
    seed: int, rows: int, columns: int, levels: int, clip: float, scale: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_t(3, (rows, columns)) * 2.0**scale).astype(np.float32)
    assert_same_grid(weights, levels, clip)


def test_rows_without_spread_outliers_and_zeros() -> None:
    outlier = np.zeros((1, 4096), np.float32)
    outlier[0, 7] = 900.0
    for weights in (np.zeros((2, 8), np.float32), np.full((1, 5), 0.1, np.float32), outlier):
        got = fake_quantize(torch.from_numpy(weights), levels=31, clip=12.85)
        assert np.array_equal(got.numpy(), by_numpy(weights, 31, 12.85))


@pytest.mark.parametrize("seed", range(3))
def test_of_many_rows_a_few_differ_at_most(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(20_000, 8)).astype(np.float32)
    assert assert_same_grid(weights, 31, 12.85) < 10


@pytest.fixture
def model(sections: dict[str, dict[str, Any]]) -> Any:
    torch.manual_seed(0)
    built = build_model(config_from_dict(sections["model"]), 64)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def test_compiled_graphs_see_quantized_weights_without_a_new_graph(model: Any) -> None:
    graphs, calls = 0, 0

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1

        def run(*values: Any) -> Any:
            nonlocal calls
            calls += 1
            return graph(*values)

        return run

    ids = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    loss = torch.compile(model.loss, backend=counting, dynamic=False)
    qat, counts = LateQat(model, QatConfig(0.5, 3.0, LEVELS)), dict[str, int]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = loss(ids, ids)
    made = graphs
    with qat.quantized(counts):
        quantized, eager = loss(ids, ids), model.loss(ids, ids)
        for name, (parameter, levels) in qat.tensors.items():
            wanted = by_numpy(before[name].numpy(), levels, 3.0)
            assert np.array_equal(parameter.detach().numpy(), wanted), name
        quantized.backward()
    assert graphs == made and calls >= 2 * made, "the flag must not be part of a graph"
    assert quantized.item() == pytest.approx(eager.item(), abs=1e-6)
    assert abs(quantized.item() - plain.item()) > 1e-4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "masters come back"
    assert counts == dict.fromkeys(model.quantizable_names(), 1)


def test_the_gradient_is_that_of_the_quantized_weights(model: Any, sections: dict[str, dict[str, Any]]) -> None:
    ids = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    other = build_model(config_from_dict(sections["model"]), 64)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name in other.quantizable_names():
            parameter = other.get_parameter(name)
            levels = LEVELS[other.role(name)]
            parameter.copy_(torch.from_numpy(by_numpy(parameter.numpy(), levels, 12.85)))
    other.loss(ids, ids).backward()
    with LateQat(model, QatConfig(0.5, 12.85, LEVELS)).quantized({}):
        model.loss(ids, ids).backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, other.get_parameter(name).grad), name


def test_masters_come_back_after_an_error(model: Any) -> None:
    before = model.token_embedding.detach().clone()
    with pytest.raises(RuntimeError), LateQat(model, QatConfig(0.5, 3.0, LEVELS)).quantized({}):
        raise RuntimeError
    assert torch.equal(model.token_embedding, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"below": 1.5}, "below: found 1.5 "),
        ({"clip": 0.0}, "clip: found 0.0 "),
        ({"levels": {"mlp": 3}}, "levels: found mlp, expected exactly embedding, attention, mlp"),
        ({"levels": {**LEVELS, "mlp": 128}}, "levels.mlp: found 128 "),
    ],
)
def test_bad_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        from_dict(QatConfig, {"below": 0.1, "clip": 12.85, "levels": LEVELS, **change})


def test_steps_that_quantize_will_not_use_are_told() -> None:
    qat = QatConfig(0.2, 12.85, LEVELS)
    same = {"method": "sdclip", "clip": 12.85, "levels": dict(LEVELS)}
    assert qat_differences(qat, same) == []
    assert qat_differences(QatConfig(0.0, 12.85, LEVELS), {**same, "clip": 16.0}) == []
    assert "train.qat.clip is 12.85, quantize.clip 16.0" in qat_differences(qat, {**same, "clip": 16.0})[0]
    assert "train.qat.levels" in qat_differences(qat, {**same, "levels": {}})[0]


def test_qat_for_another_grid_than_that_of_quantize_is_an_error_that_names_both_keys() -> None:
    qat = QatConfig(0.2, 12.85, LEVELS)
    own = {"embedding": {"method": None}, "attention": {"method": "gptq"}, "mlp": {"method": "sdclip"}}
    check_qat(QatConfig(0.0, 12.85, LEVELS), {"method": "gptq_trellis"})
    check_qat(qat, {"method": "sdclip", "roles": {"mlp": {"method": None}}})
    check_qat(qat, {})
    with pytest.raises(ValueError, match="train.qat.below is 0.2 and quantize.method is gptq_trellis"):
        check_qat(qat, {"method": "gptq_trellis"})
    with pytest.raises(ValueError, match="train.qat.below is 0.2 and quantize.roles.attention.method is gptq"):
        check_qat(qat, {"method": "sdclip", "roles": own})
