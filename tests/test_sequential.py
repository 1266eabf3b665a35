"""GPTQ layer by layer: the order of the layers, the naive reference, that it acts, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.calibrate import calibrate, save_windows, second_moments
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict, config_to_dict
from golf.params import from_dict, read_params
from golf.quantize.full_gptq import GptqConfig
from golf.quantize.hessian import HessianError, save_hessians
from golf.quantize.pipeline import QuantizeConfig, Quantizer
from golf.quantize.storage import load_quantized
from golf.sequential import layer_order, sequential_hessians
from stages import quantize as stage

CONFIGS = {
    "transformer": ("transformer_small", {"width": 16, "layers": 2, "heads": 2, "kv_heads": 1}),
    "depth_recurrent": ("depth_recurrent_small", {"width": 16, "blocks": 2, "repeats": 2, "heads": 2, "xsa_last": 1}),
    "gdn_hybrid": (
        "gdn_hybrid_small",
        {"layout": "gdn2_swa_gdn_swa_shared", "kv_share_stride": 2, "width": 16, "delta_heads": 2, "delta_key_dim": 8,
         "delta_value_dim": 8, "heads": 2, "kv_heads": 1, "window": 8, "hash_rows": 16, "hash_width": 8},
    ),
    "pure gdn": (
        "gdn_hybrid_small",
        {"layout": "gdn2", "width": 16, "delta_heads": 2, "delta_key_dim": 8, "delta_value_dim": 8, "heads": 2,
         "hash_rows": 0, "smear": False},
    ),
}  # fmt: skip
WINDOWS = np.random.default_rng(0).integers(0, 40, (6, 24))
LEVELS = {"embedding": 31, "attention": 31, "mlp": 31}
COARSE = QuantizeConfig("gptq", LEVELS, (1.0,), 40.0, GptqConfig(sequential=True))


def build(root: Path, family: str) -> tuple[LanguageModel, dict[str, np.ndarray]]:
    """A tiny model with every part shaken, and a copy of its float weights."""
    name, changes = CONFIGS[family]
    torch.manual_seed(0)
    model = build_model(config_from_dict(read_params(root / f"conf/model/{name}.yaml") | changes), 40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval(), {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def quantizer_of(model: LanguageModel, state: dict[str, np.ndarray], config: QuantizeConfig = COARSE) -> Quantizer:
    """With the Hessians of the float model."""
    found = calibrate(model, WINDOWS, CALIBRATE)
    hessians = {**found.hessians, **dict.fromkeys(found.without)}
    meta = {"model": config_to_dict(model.config), "vocab_size": 40}  # type: ignore[arg-type]
    return Quantizer(state, model, config, meta=meta, hessians=hessians)


def _calibrate_config() -> Any:
    from golf.calibrate import CalibrateConfig

    return CalibrateConfig(tokens=144, window=24, batch=2)


CALIBRATE = _calibrate_config()


def test_order_is_that_of_the_forward_pass(root: Path) -> None:
    attention = [("query", "key", "value"), ("output",)]
    mlp = [("mlp.input",), ("mlp.output",)]

    def block(index: int, parts: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        named = [tuple(f"blocks.{index}.attention.{m}.weight" for m in group) for group in parts]
        return named + [tuple(f"blocks.{index}.{m}.weight" for m in group) for group in mlp]

    found = [group.names for group in layer_order(build(root, "transformer")[0], WINDOWS[:1])]
    assert found == block(0, attention) + block(1, attention)
    recurrent = layer_order(build(root, "depth_recurrent")[0], WINDOWS[:1])
    assert [group.names for group in recurrent] == block(0, attention) + block(1, attention)
    assert {count for group in recurrent for count in group.uses.values()} == {2}  # one use at each repeat
    delta = [("query", "key", "value", "gate"), ("output",)]
    lent = [("query", "gate"), ("output",)]  # keys and values are those of the block before
    hybrid = layer_order(build(root, "gdn_hybrid")[0], WINDOWS[:1])
    shared = [("blocks.4.mlp.input.weight",), ("blocks.4.mlp.output.weight",)]
    wanted = block(0, delta) + block(1, lent) + block(2, attention) + block(3, delta) + shared
    assert [group.names for group in hybrid] == [("hashes.projection.weight",), *wanted]
    uses = {name: count for group in hybrid for name, count in group.uses.items()}
    assert uses["blocks.0.attention.key.weight"] == 2 and uses["blocks.2.attention.output.weight"] == 2


def naive_hessians(model: LanguageModel, quantizer: Quantizer) -> dict[str, np.ndarray]:
    """A whole pass with all inputs kept, for every matrix in turn, in the order written down here."""
    modules = [f"attention.{m}" for m in ("query", "key", "value", "output")] + ["mlp.input", "mlp.output"]
    order = [f"blocks.{i}.{m}.weight" for i in range(2) for m in modules]
    together = {"attention.key": "attention.query", "attention.value": "attention.query"}  # the same input
    found: dict[str, np.ndarray] = {}
    with torch.no_grad():
        model.token_embedding.copy_(torch.from_numpy(quantizer.quantize("token_embedding").dequantize()))
        for name in order:
            block, module = name.removesuffix(".weight").split(".", 2)[1:]
            if module in together:
                found[name] = found[f"blocks.{block}.{together[module]}.weight"]
            else:
                seen: list[torch.Tensor] = []
                target = model.get_submodule(f"blocks.{block}.{module}")
                hook = target.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].flatten(0, 1)))
                model.hidden(torch.from_numpy(WINDOWS))
                hook.remove()
                inputs = torch.cat(seen)
                found[name] = (inputs.T @ inputs / len(inputs)).numpy()
            quantizer.set_hessians({name: found[name]})
            if module != "attention.query" and module != "attention.key":  # all three see the float ones of their group
                for member in [name, *(f"blocks.{block}.{m}.weight" for m in ("attention.query", "attention.key")
                                       if module == "attention.value")]:  # fmt: skip
                    tensor = torch.from_numpy(quantizer.quantize(member).dequantize())
                    model.get_parameter(member).copy_(tensor)
    return found


def test_hessians_equal_the_naive_ones_of_a_two_layer_model(root: Path) -> None:
    model, state = build(root, "transformer")
    quantizer = quantizer_of(model, state)
    of_float = dict(quantizer.hessians)
    found = sequential_hessians(model, quantizer, WINDOWS, batch=4)
    other, _ = build(root, "transformer")
    naive = naive_hessians(other, quantizer_of(other, state))
    for name, hessian in naive.items():
        np.testing.assert_allclose(found[name], hessian, rtol=2e-3, atol=2e-4 * hessian.max(), err_msg=name)
        difference = np.abs(hessian - of_float[name]).max() / hessian.max()
        assert difference > 1e-3, f"{name}: the same as behind float layers"
    assert found["token_embedding"] is of_float["token_embedding"]


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_every_storage_has_a_hessian_or_a_reason(root: Path, family: str) -> None:
    model, state = build(root, family)
    result = calibrate(model, WINDOWS, CALIBRATE)
    assert {*result.hessians, *result.without} == set(model.quantizable_names())
    assert not set(result.hessians) & set(result.without)
    tables = {name for name in model.quantizable_names() if model.role(name) == "embedding"}
    assert set(result.without) == tables - {"token_embedding"}
    quantizer = quantizer_of(model, state)
    found = sequential_hessians(model, quantizer, WINDOWS, batch=4)
    assert set(found) == set(model.quantizable_names())
    assert {name for name, hessian in found.items() if hessian is None} == set(result.without)


@pytest.mark.parametrize("family", ["depth_recurrent", "gdn_hybrid"])
def test_the_model_ends_with_the_weights_that_are_shipped(root: Path, family: str) -> None:
    model, state = build(root, family)
    quantizer = quantizer_of(model, state)
    sequential_hessians(model, quantizer, WINDOWS)
    shipped = quantizer.run().model
    for name, tensor in shipped.tensors.items():
        np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), tensor.dequantize(), err_msg=name)


def test_a_pass_stops_behind_the_last_use_that_is_wanted(root: Path) -> None:
    model, _ = build(root, "transformer")
    late: list[int] = []
    hook = model.get_submodule("blocks.1.mlp.input").register_forward_pre_hook(lambda *_: late.append(1))
    sums = second_moments(model, WINDOWS, batch=4, uses={"blocks.0.mlp.output.weight": 1})
    hook.remove()
    assert list(sums.samples()) == ["blocks.0.mlp.output.weight"] and not late
    assert sums.samples()["blocks.0.mlp.output.weight"] == WINDOWS.size
    whole = second_moments(model, WINDOWS, batch=4).means()["blocks.0.mlp.output.weight"]
    np.testing.assert_array_equal(sums.means()["blocks.0.mlp.output.weight"], whole)


def test_rotation_is_refused(root: Path) -> None:
    model, state = build(root, "transformer")
    quantizer = quantizer_of(model, state)
    quantizer.config = dataclasses.replace(COARSE, rotate=True)
    with pytest.raises(HessianError, match="gptq.sequential and quantize.rotate: wanted one at most"):
        sequential_hessians(model, quantizer, WINDOWS)


def test_the_stage_obeys_the_key(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from golf.files import save_torch, write_json

    model, _ = build(root, "gdn_hybrid")
    meta = {"model": config_to_dict(model.config), "vocab_size": 40}  # type: ignore[arg-type]
    save_torch(tmp_path / "artifacts/average/model.safetensors", model.state_dict(), meta)
    found = calibrate(model, WINDOWS, CALIBRATE)
    about = {"without": found.without}
    save_hessians(tmp_path / "artifacts/calibrate/hessians.safetensors", found.hessians, about)
    save_windows(tmp_path / "artifacts/calibrate/windows.safetensors", WINDOWS, {})
    section = read_params(root / "params.yaml")["quantize"] | {"method": "gptq", "clip": 40.0}
    values = {}
    for sequential in (False, True):
        changed = section | {"gptq": section["gptq"] | {"sequential": sequential, "token_exponent": 0.0}}
        assert from_dict(QuantizeConfig, changed).gptq.sequential is sequential
        write_json(tmp_path / "params.json", {"quantize": changed})
        place = ["--root", str(tmp_path), "--params", str(tmp_path / "params.json")]
        monkeypatch.setattr("sys.argv", ["quantize", *place])
        stage.main()
        values[sequential] = load_quantized(tmp_path / "artifacts/quantize/model.safetensors")[0].tensors
    changed = {name for name in values[True] if (values[True][name].values != values[False][name].values).any()}
    assert "blocks.4.mlp.output.weight" in changed and not {"token_embedding", "hashes.embedding"} & changed


def test_clips_chosen_by_the_error_of_outputs(root: Path) -> None:
    """Row by row the weighted choice has the smaller output error; plain squared error is worse or equal there."""
    model, state = build(root, "gdn_hybrid")
    plain = QuantizeConfig("gptq_lite", dict.fromkeys(LEVELS, 7), (0.8, 0.9, 0.95, 1.0), 8.0)
    weighted = dataclasses.replace(plain, clip_error="outputs")
    assert weighted.needs_hessians and not plain.needs_hessians
    quantizers = [quantizer_of(model, state, config) for config in (plain, weighted)]
    models = [quantizer.run().model for quantizer in quantizers]
    differ = 0
    for name, hessian in quantizers[0].hessians.items():
        errors = []
        for found in models:
            difference = (found.tensors[name].dequantize() - state[name]).astype(np.float64)
            moment = np.eye(difference.shape[1]) if hessian is None else hessian
            errors.append(np.einsum("rc,cd,rd->r", difference, moment, difference))
        assert (errors[1] <= errors[0] * (1 + 1e-6)).all(), name
        differ += int((errors[1] < errors[0] * 0.999).any()) if hessian is not None else 0
        if hessian is None:  # a lookup table has no Hessian: nothing changes
            np.testing.assert_array_equal(models[0].tensors[name].values, models[1].tensors[name].values)
    assert differ > 3, "the key has no effect"
    with pytest.raises(ValueError, match="has no Hessian and no reason for none; re-run `calibrate`"):
        Quantizer(state, model, weighted, meta=quantizers[0].meta).run()
