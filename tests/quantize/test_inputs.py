"""Weights off the beaten path: every float type is read, what cannot be quantized is one line that names the tensor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import stages.calibrate
import stages.quantize
from golf.base.errors import GolfError
from golf.base.files import FileError, load_numpy, save_torch, write_json
from golf.base.params import to_dict
from golf.data.shards import ShardWriter
from golf.models import registry
from golf.models.registry import StoredWeights, empty_model, load_weights, model_of
from golf.quantize import pipeline
from golf.quantize.calibrate import WEIGHTS, CalibrateConfig
from golf.quantize.pipeline import Quantizer
from tiny import quantize_config, quantize_model, recurrent, shaken

VOCAB = 40
TINY = recurrent(blocks=1)
META = {"model": TINY, "vocab_size": VOCAB}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_weights(root: Path, state: dict[str, torch.Tensor]) -> None:
    save_torch(root / "artifacts/average/model.safetensors", state, META)


@pytest.mark.parametrize("kind", FLOATS)
def test_bug_every_float_type_is_calibrated_and_quantized(
    kind: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 weights were calibrated, then `quantize` ended in `TypeError: data type 'bfloat16' not understood`."""
    model = shaken(TINY, VOCAB)
    save_weights(tmp_path, {name: tensor.to(kind) for name, tensor in model.state_dict().items()})
    writer = ShardWriter(tmp_path / "artifacts/tokens/train", vocab_size=VOCAB, bos_id=1, tokenizer_sha256="0" * 64)
    writer.add([1, *np.random.default_rng(0).integers(2, VOCAB, 100).tolist()], 100)
    writer.close()
    calibrate = CalibrateConfig(tokens=96, window=24, source="train", sensitivity_tokens=0)
    sections = {"calibrate": dataclasses.asdict(calibrate), "quantize": to_dict(quantize_config("gptq_trellis"))}
    write_json(tmp_path / "params.json", sections)
    monkeypatch.setenv("GOLF_DEVICE", "cpu")
    stages.calibrate.run(tmp_path / "params.json", tmp_path)
    stages.quantize.run(tmp_path / "params.json", tmp_path)
    arrays, _ = load_numpy(tmp_path / "artifacts/quantize/model.safetensors", made_by="x")
    assert arrays["blocks.0.mlp.input.weight"].any()


@pytest.mark.parametrize("kind", FLOATS)
def test_weights_are_read_as_float32(kind: torch.dtype, tmp_path: Path) -> None:
    exact = {name: tensor.to(kind) for name, tensor in shaken(TINY, VOCAB).state_dict().items()}
    save_weights(tmp_path, exact)
    found, meta = load_weights(tmp_path / WEIGHTS, made_by="`average`")
    assert meta == META and set(found) == set(exact)
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, exact[name].float()), name


def test_other_numbers_and_missing_meta_are_named(tmp_path: Path) -> None:
    save_weights(tmp_path, {"a": torch.zeros(2, 2), "b": torch.zeros(2, 2, dtype=torch.int64)})
    with pytest.raises(FileError, match="b holds int64 numbers, expected float16, bfloat16, float32 or float64; "):
        load_weights(tmp_path / WEIGHTS, made_by="`average`")
    with pytest.raises(FileError, match="b holds int64 numbers, expected float16, bfloat16, float32 or float64; "):
        StoredWeights(tmp_path / WEIGHTS, made_by="`average`")["b"]
    with pytest.raises(FileError, match=r"missing key `vocab_size` .*; re-run `average`"):
        empty_model({"model": TINY}, path=tmp_path / WEIGHTS, made_by="`average`")


def test_a_large_model_is_quantized_from_its_file_tensor_by_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(tmp_path, shaken(TINY, VOCAB).state_dict())
    small = Quantizer.load(tmp_path, quantize_config("sdclip"), once=True)
    monkeypatch.setattr(pipeline, "LARGE", 64)
    large = Quantizer.load(tmp_path, quantize_config("sdclip"), once=True)
    assert isinstance(large.state, StoredWeights) and not isinstance(small.state, StoredWeights)
    assert large.aliases == small.aliases and large.roles == small.roles
    assert {name: array.tobytes() for name, array in large.run().model.state().items()} == {
        name: array.tobytes() for name, array in small.run().model.state().items()
    }


def test_a_large_model_holds_the_very_tensors_that_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of 5 GB beside the 5 GB that were read is what does not fit."""
    save_weights(tmp_path, shaken(TINY, VOCAB).state_dict())
    weights, meta = load_weights(tmp_path / WEIGHTS, made_by="`average`")
    small = model_of(meta, weights, path=tmp_path / WEIGHTS, made_by="`average`")
    monkeypatch.setattr(registry, "LARGE", 64)
    large = model_of(meta, weights, path=tmp_path / WEIGHTS, made_by="`average`")
    assert large.token_embedding.data_ptr() == weights["token_embedding"].data_ptr() != small.token_embedding.data_ptr()
    assert list(large.unique_parameters()) == list(small.unique_parameters())
    ids = torch.arange(2, 12)[None]
    assert torch.equal(large.hidden(ids), small.hidden(ids))


@pytest.mark.parametrize("method", ["gptq_lite", "sdclip", "gptq", "gptq_trellis"])
@pytest.mark.parametrize("value", [1e30, float("inf"), float("nan")])
def test_bug_weights_that_no_step_can_hold_name_the_tensor(method: str, value: float) -> None:
    """One weight of 1e30 ended in `steps: found 4.49e+28`, of which tensor was not told."""
    model = shaken(TINY, VOCAB)
    state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    state["blocks.0.mlp.output.weight"][1, 2] = value
    hessians = dict.fromkeys(model.quantizable_names())
    with pytest.raises(GolfError, match=r"^blocks\.0\.mlp\.output\.weight: "):
        quantize_model(state, model, quantize_config(method), meta=META, hessians=hessians)


@pytest.mark.parametrize("method", ["gptq_lite", "sdclip", "gptq", "gptq_trellis"])
def test_zeros_denormals_and_one_outlier_are_fine(method: str) -> None:
    model = shaken(TINY, VOCAB)
    state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    state["blocks.0.mlp.output.weight"][:] = 0.0
    state["blocks.0.mlp.input.weight"][0] = 1e-40
    state["blocks.0.attention.query.weight"][1, 1] = 1e4
    hessians = dict.fromkeys(model.quantizable_names())
    rebuilt = quantize_model(state, model, quantize_config(method), meta=META, hessians=hessians).model.state()
    assert not rebuilt["blocks.0.mlp.output.weight"].any()
    assert all(np.isfinite(array).all() for array in rebuilt.values())
    assert rebuilt["blocks.0.attention.query.weight"][1, 1] == pytest.approx(1e4, rel=0.05)
