"""Hessians: the naive sums, every quantized storage covered once, training text or own samples only, named errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import golf.quantize.calibrate as calibrate_module
from golf.base.files import save_torch, write_json
from golf.base.params import ParamsError, from_dict, to_dict
from golf.data.shards import ShardWriter, open_split
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.quantize.calibrate import LOOKUP_REASON, CalibrateConfig, calibrate, calibration_windows, sampled_windows
from golf.quantize.hessian import HessianError, load_hessians
from stages import calibrate as stage
from tiny import quantize_config, quantize_model, recurrent, shaken

TINY = recurrent(repeats=3)
CONFIG = CalibrateConfig(tokens=96, window=12, source="train", sensitivity_tokens=0)


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
    return shaken(TINY, 40).eval()


def test_windows_are_spread_evenly_over_the_text() -> None:
    text = Text(1200)
    assert calibration_windows(text, CONFIG).shape == (8, 12)
    assert text.starts == [i * 100 // 8 * 12 for i in range(8)]
    assert calibration_windows(Text(30), CONFIG).shape == (2, 12)
    with pytest.raises(ValueError, match="calibrate.window: the training split has 11 tokens, expected at least 12"):
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
    expected = (inputs.T @ inputs / len(inputs)).numpy()
    np.testing.assert_allclose(result.hessians["blocks.1.mlp.output.weight"], expected, rtol=1e-4, atol=1e-5)
    head = (hidden.T @ hidden / len(hidden)).numpy()
    np.testing.assert_allclose(result.hessians["token_embedding"], head, rtol=1e-4, atol=1e-5)


def test_the_batch_does_not_matter_and_hooks_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    windows = calibration_windows(Text(1200), CONFIG)
    one = calibrate(model, windows, CONFIG)
    monkeypatch.setattr(calibrate_module, "_BATCH", 3)
    two = calibrate(model, windows, CONFIG)
    for name, hessian in one.hessians.items():
        np.testing.assert_allclose(hessian, two.hessians[name], rtol=1e-4, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_matrix_that_nothing_uses_is_named() -> None:
    model = tiny_model()
    model.blocks.append(build_model(config_from_dict(TINY), 40).blocks[0])  # runs in no layer
    with pytest.raises(HessianError, match="blocks.2.attention.query.weight: no linear layer ever used it"):
        calibrate(model, calibration_windows(Text(1200), CONFIG), CONFIG)


@pytest.mark.parametrize("key", ["tokens", "window"])
def test_config_is_checked(key: str) -> None:
    with pytest.raises(ParamsError, match=f"{key}: found 0 .*, expected int, 1 or more"):
        from_dict(CalibrateConfig, to_dict(CONFIG) | {key: 0})


def test_samples_follow_the_model_alone() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.token_embedding.mul_(3)  # a model with opinions
    windows = sampled_windows(model, CONFIG, bos_id=1)
    assert windows.shape == (8, 12) and windows.dtype == np.int64 and (windows[:, 0] == 1).all()
    assert (windows >= 0).all() and (windows < 40).all()
    np.testing.assert_array_equal(sampled_windows(model, CONFIG, bos_id=1), windows)
    torch.manual_seed(9)  # the global generator has no part in it
    np.testing.assert_array_equal(sampled_windows(model, CONFIG, bos_id=1), windows)
    with torch.no_grad():
        model.token_embedding.mul_(0.5)
    assert (sampled_windows(model, CONFIG, bos_id=1) != windows).any()


def test_samples_have_the_distribution_of_the_model() -> None:
    """The second tokens of 4,000 samples, against the softmax that the model gives behind BOS."""
    model = tiny_model()
    with torch.no_grad():
        model.token_embedding.mul_(3)
        logits = model.logits(model.hidden(torch.tensor([[1]])))[0, 0].double()
    config = dataclasses.replace(CONFIG, tokens=8000, window=2)
    counts = np.bincount(sampled_windows(model, config, bos_id=1)[:, 1], minlength=40) / 4000
    expected = torch.softmax(logits / 0.8, 0).numpy()
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected.max() / 4000)
    assert np.abs(counts - torch.softmax(logits, 0).numpy()).sum() > 2 * np.abs(counts - expected).sum()


def run_stage(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Path:
    """The stage on the tiny model and text, with ``changes`` in its section; the folder of its outputs."""
    model = tiny_model()
    save_torch(folder / "artifacts/average/model.safetensors", model.state_dict(), {"model": TINY, "vocab_size": 40})
    write_tokens(folder / "artifacts/tokens/train")
    write_json(folder / "params.json", {"calibrate": dataclasses.asdict(CONFIG) | changes})
    monkeypatch.setenv("GOLF_DEVICE", "cpu")
    stage.run(folder / "params.json", folder)
    return folder / "artifacts/calibrate"


def test_stage_writes_the_hessians_that_quantize_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run_stage(tmp_path, monkeypatch)
    hessians, meta = load_hessians(out / "hessians.safetensors")
    assert meta["tokens"] == 96 and meta["without"] == {"value_embeddings.0": LOOKUP_REASON}
    metrics = json.loads((tmp_path / "metrics/calibrate.json").read_text())
    assert metrics["calibrate_hessians"] == len(hessians) == 13 and metrics["calibrate_without_hessian"] == 1


def test_stage_runs_the_chosen_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No validation split is there to be read."""
    for source in ("train", "samples"):
        out = run_stage(tmp_path, monkeypatch, source=source)
        hessians, meta = load_hessians(out / "hessians.safetensors")
        metrics = json.loads((tmp_path / "metrics/calibrate.json").read_text())
        assert meta["source"] == source == metrics["calibrate_source"]
        split = open_split(tmp_path / "artifacts/tokens/train")
        own = sampled_windows(tiny_model(), CONFIG, bos_id=1)
        again = calibrate(tiny_model(), own if source == "samples" else calibration_windows(split, CONFIG), CONFIG)
        np.testing.assert_array_equal(again.hessians["token_embedding"], hessians["token_embedding"])
    assert not (tmp_path / "artifacts/tokens/val").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "validation"}, "calibrate.source: found 'validation' .*, expected one of train, samples"),
        ({"window": 0}, "calibrate.window: found 0"),
    ],
)
def test_wrong_sources_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_stage(tmp_path, monkeypatch, **change)


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
    plain = quantize_model(state, model, quantize_config("sdclip", clip=20.0), meta=meta).model
    config = quantize_config(method, clip=20.0)  # type: ignore[arg-type]
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


CONFIG_LONG = CalibrateConfig(tokens=4800, window=48, source="train", sensitivity_tokens=0)
