"""Rotation of whole models: equal logits where it is exact, a sentence that names the tensor where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from golf.models.registry import build_model, config_from_dict
from golf.quantize.config import QuantizeConfig
from golf.quantize.pipeline import Quantizer
from golf.quantize.residual import rotate_residual
from golf.quantize.rotation import RotationError
from tiny import flat, recurrent

FLAT = flat(layers=4)
RECURRENT = recurrent()
CONFIG = QuantizeConfig("gptq", dict.fromkeys(("embedding", "attention", "mlp"), 127), (1.0,), 8.0, rotate=True)


def model_with_constant_scales(shape: dict[str, Any]) -> Any:
    """Random weights; scales on the stream differ from one another, but not between channels."""
    torch.manual_seed(1)
    model = build_model(config_from_dict(shape), 50).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
            if name.endswith(("residual_mix", "skip_scales", "value_scales", "cross_repeat_scales")):
                parameter.copy_(torch.randn(*parameter.shape[:-1], 1).expand_as(parameter))
    return model.eval()


def logits(model: Any, state: dict[str, np.ndarray], ids: torch.Tensor) -> torch.Tensor:
    model.load_state_dict({name: torch.from_numpy(array).double() for name, array in state.items()})
    with torch.no_grad():
        return torch.as_tensor(model.logits(model.hidden(ids)))


@pytest.mark.parametrize("shape", [FLAT, RECURRENT])
def test_the_rotated_model_has_the_same_logits(shape: dict[str, Any]) -> None:
    model = model_with_constant_scales(shape)
    state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    rotated, _ = rotate_residual(state, {})
    ids = torch.arange(40).reshape(2, 20)
    exact, found = logits(model, state, ids), logits(model, rotated, ids)
    assert torch.allclose(exact, found, atol=2e-4), (exact - found).abs().max()
    moved = [name for name in state if not np.array_equal(state[name], rotated[name])]
    assert {"token_embedding", "blocks.0.attention_scale", "blocks.1.mlp.output.weight"} <= set(moved)
    gram = rotated["token_embedding"].astype(np.float64)
    gram = gram.T @ gram
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-4 * gram.max()  # columns are uncorrelated


def test_hessians_turn_with_the_stream() -> None:
    """The Hessian of rotated inputs is that of the inputs, turned: errors weigh the same on both sides."""
    model = model_with_constant_scales(FLAT)
    state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    x = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float32)
    x *= np.linspace(0.1, 3, 16, dtype=np.float32)
    given = {name: x.T @ x / len(x) for name in ("token_embedding", "blocks.0.mlp.input.weight")}
    rotated, hessians = rotate_residual(state, given | {"blocks.0.attention.output.weight": np.eye(16)})
    for name, before in given.items():
        after = hessians[name]
        assert after is not None
        outputs = np.trace(state[name] @ before @ state[name].T), np.trace(rotated[name] @ after @ rotated[name].T)
        assert outputs[0] == pytest.approx(outputs[1], rel=1e-4)
    assert np.array_equal(np.asarray(hessians["blocks.0.attention.output.weight"]), np.eye(16))  # inputs inside a head


def test_the_pipeline_rotates_and_decodes_to_nearly_the_same_logits() -> None:
    model = model_with_constant_scales(FLAT)
    state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    inputs = {name: model.get_parameter(name).shape[1] for name in model.quantizable_names()}
    hessians = {name: np.eye(columns, dtype=np.float32) for name, columns in inputs.items()}
    meta = {"model": FLAT, "vocab_size": 50}
    quantized = Quantizer(state, model, CONFIG, meta=meta, hessians=hessians).run().model
    assert np.all(quantized.plain["blocks.0.mlp_scale"] == 1)
    ids = torch.arange(40).reshape(2, 20)
    exact = logits(model, state, ids)
    assert (exact - logits(model, quantized.state(), ids)).abs().mean() < 0.1 * exact.abs().mean()


@pytest.mark.parametrize("name", ["blocks.1.residual_mix", "skip_scales"])
def test_a_scale_on_the_stream_that_varies_is_named(name: str) -> None:
    model = model_with_constant_scales(FLAT)
    state = {key: tensor.float().numpy().copy() for key, tensor in model.state_dict().items()}
    state[name][0, 3] += 0.5
    with pytest.raises(RotationError, match=f"{name} scales the residual stream by another factor in every channel"):
        rotate_residual(state, {})


def test_a_tensor_of_unknown_place_is_named() -> None:
    state = {"token_embedding": np.ones((4, 2), np.float32), "smear.gate": np.ones(2, np.float32)}
    with pytest.raises(RotationError, match=r"the place of smear.gate on the residual stream is not known"):
        rotate_residual(state, {})
