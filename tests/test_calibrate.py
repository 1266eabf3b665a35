"""Hessians: the naive sums, every quantized storage covered once, training text only, named errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.calibrate import LOOKUP_REASON, CalibrateConfig, calibrate, calibration_windows
from golf.files import save_torch
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.quantize.hessian import HessianError, load_hessians
from golf.quantize.pipeline import QuantizeConfig, quantize_model
from golf.tokens.shards import ShardWriter
from stages import calibrate as stage

TINY = {
    "family": "depth_recurrent",
    "width": 16,
    "blocks": 2,
    "repeats": 3,
    "heads": 2,
    "kv_heads": 1,
    "mlp_ratio": 2.0,
    "value_tables": 1,
    "cross_repeat_skip": True,
    "xsa_last": 1,
    "softcap": 30.0,
    "qk_gain": 1.5,
    "norm_eps": 1e-6,
    "rope_base": 10000.0,
    "negative_slope": 0.5,
}
CONFIG = CalibrateConfig(tokens=96, window=12, batch=3)


class Text:
    """A token stream that remembers what was read."""

    def __init__(self, count: int) -> None:
        self.tokens = np.random.default_rng(0).integers(0, 40, count).astype(np.uint16)
        self.num_tokens = count
        self.starts: list[int] = []

    def read(self, start: int, length: int) -> np.ndarray:
        self.starts.append(start)
        return self.tokens[start : start + length]


def tiny_model() -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(config_from_dict(TINY), 40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def test_windows_are_spread_evenly_over_the_text() -> None:
    text = Text(1200)
    assert calibration_windows(text, CONFIG).shape == (8, 12)
    assert text.starts == [i * 100 // 8 * 12 for i in range(8)]
    assert calibration_windows(Text(30), CONFIG).shape == (2, 12)
    with pytest.raises(ValueError, match="training split has 11 tokens, wanted calibrate.window=12"):
        calibration_windows(Text(11), CONFIG)


def test_every_quantized_storage_has_a_hessian_or_a_reason() -> None:
    model = tiny_model()
    result = calibrate(model, calibration_windows(Text(1200), CONFIG), CONFIG)
    assert {*result.hessians, *result.without} == set(model.quantizable_names())
    assert result.without == {"value_embeddings.0": LOOKUP_REASON}
    assert set(result.samples) == set(result.hessians)


def test_hessians_are_the_means_over_all_uses() -> None:
    """Naive: keep every input of one shared matrix, and the hidden states, and multiply at the end."""
    model = tiny_model()
    windows = calibration_windows(Text(1200), CONFIG)
    seen: list[torch.Tensor] = []
    hook = model.blocks[1].mlp.output.register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, 1)))
    with torch.no_grad():
        hidden = model.hidden(torch.from_numpy(windows)).flatten(0, 1)
    hook.remove()
    result = calibrate(model, windows, CONFIG)
    assert len(seen) == 3  # one use at each repeat
    inputs = torch.cat(seen)
    assert result.samples["blocks.1.mlp.output.weight"] == len(inputs) == 3 * 96
    wanted = (inputs.T @ inputs / len(inputs)).numpy()
    np.testing.assert_allclose(result.hessians["blocks.1.mlp.output.weight"], wanted, rtol=1e-4, atol=1e-5)
    head = (hidden.T @ hidden / len(hidden)).numpy()
    np.testing.assert_allclose(result.hessians["token_embedding"], head, rtol=1e-4, atol=1e-5)


def test_the_batch_does_not_matter_and_hooks_are_removed() -> None:
    model = tiny_model()
    windows = calibration_windows(Text(1200), CONFIG)
    one = calibrate(model, windows, CONFIG)
    two = calibrate(model, windows, dataclasses.replace(CONFIG, batch=8))
    for name, hessian in one.hessians.items():
        np.testing.assert_allclose(hessian, two.hessians[name], rtol=1e-4, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_matrix_that_nothing_uses_is_named() -> None:
    model = tiny_model()
    model.blocks.append(build_model(config_from_dict(TINY), 40).blocks[0])  # runs in no layer
    with pytest.raises(HessianError, match="blocks.2.attention.query.weight: no linear layer ever used it"):
        calibrate(model, calibration_windows(Text(1200), CONFIG), CONFIG)


@pytest.mark.parametrize("key", ["tokens", "window", "batch"])
def test_config_is_checked(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: found 0, wanted 1 or more"):
        dataclasses.replace(CONFIG, **{key: 0})


def test_stage_writes_the_hessians_that_quantize_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    save_torch(tmp_path / "artifacts/average/model.safetensors", model.state_dict(), {"model": TINY, "vocab_size": 40})
    write_tokens(tmp_path / "artifacts/tokens/train")
    params = tmp_path / "params.yaml"
    params.write_text("calibrate: {tokens: 96, window: 12, batch: 3}\n")
    monkeypatch.setattr("sys.argv", ["calibrate", "--root", str(tmp_path), "--params", str(params)])
    monkeypatch.setenv("GOLF_DEVICE", "cpu")
    stage.main()
    hessians, meta = load_hessians(tmp_path / "artifacts/calibrate/hessians.safetensors")
    assert meta["tokens"] == 96 and meta["without"] == {"value_embeddings.0": LOOKUP_REASON}
    metrics = json.loads((tmp_path / "metrics/calibrate.json").read_text())
    assert metrics["calibrate_hessians"] == len(hessians) == 13 and metrics["calibrate_without_hessian"] == 1


def write_tokens(folder: Path) -> None:
    meta = {"vocab_size": 40, "bos_id": 1, "tokenizer_sha256": "0" * 64}
    writer = ShardWriter(folder, **meta)  # type: ignore[arg-type]
    for seed in range(20):
        writer.add([1, *np.random.default_rng(seed).integers(2, 40, 30).tolist()], 60)
    writer.close()


@pytest.mark.parametrize("method", ["gptq", "gptq_trellis"])
def test_gptq_beats_rounding_where_it_counts(method: str) -> None:
    """At the same clip the output error, in the norm of the Hessian, is smaller than that of sdclip."""
    model = tiny_model()
    result = calibrate(model, calibration_windows(Text(9600), CONFIG_LONG), CONFIG_LONG)
    hessians = {**result.hessians, **dict.fromkeys(result.without)}
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    meta = {"model": TINY, "vocab_size": 40}
    levels = {"embedding": 31, "attention": 31, "mlp": 31}
    plain = quantize_model(state, model, QuantizeConfig("sdclip", levels, (1.0,), 20.0), meta=meta).model
    config = QuantizeConfig(method, levels, (1.0,), 20.0)  # type: ignore[arg-type]
    found = quantize_model(state, model, config, meta=meta, hessians=hessians).model
    for name, hessian in result.hessians.items():
        errors = []
        for quantized in (found, plain):
            difference = (quantized.tensors[name].dequantize() - state[name]).astype(np.float64)
            errors.append(np.vdot(difference @ hessian, difference))
        assert errors[0] < errors[1], name
        assert found.tensors[name].row_scale.dtype == np.int8 and found.tensors[name].column_codes is not None
    assert found.tensors["value_embeddings.0"].column_codes is None
    assert all(tensor.trellis == (method == "gptq_trellis") for tensor in found.tensors.values())
    with pytest.raises(ValueError, match="has no Hessian and no reason for none; re-run `calibrate`"):
        quantize_model(state, model, config, meta=meta)


CONFIG_LONG = CalibrateConfig(tokens=4800, window=48, batch=25)
