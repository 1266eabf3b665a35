"""Models that others trained, read and run: their own runtime says the same logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.base.errors import GolfError
from golf.imports.origin import converted, import_model, open_origin
from golf.models.base import LanguageModel
from golf.models.registry import load_weights, model_of
from origins import MODELS, logits, their_logits, their_model


def ours(folder: Path, root: Path) -> LanguageModel:
    import_model(open_origin(folder), root)
    path = root / "artifacts/average/model.safetensors"
    weights, meta = load_weights(path, made_by="test")
    return model_of(meta, weights, path=path, made_by="test").eval()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_origins_own_runtime(name: str, tmp_path: Path) -> None:
    theirs = their_model(name)
    sharded = {"max_shard_size": "15KB"} if "rope" in name or name == "gpt2" else {}
    theirs.save_pretrained(tmp_path / "their", **sharded)
    assert (tmp_path / "their/model.safetensors.index.json").exists() == bool(sharded)
    model, ids = ours(tmp_path / "their", tmp_path), torch.randint(0, 99, (2, 40))
    expected = their_logits(theirs, ids)
    torch.testing.assert_close(logits(model, ids), expected, atol=1e-4, rtol=1e-4)
    state = model.new_state(2, 64)  # and token by token
    pieces = [model.step(ids[:, i : i + 8], state) for i in range(0, 40, 8)]
    torch.testing.assert_close(model.logits(torch.cat(pieces, 1)), expected, atol=1e-4, rtol=1e-4)
    nats = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    with torch.no_grad():
        torch.testing.assert_close(model.loss(ids[:, :-1], ids[:, 1:]), nats)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = their_model("llama").to(dtype)
    theirs.save_pretrained(tmp_path)
    config, _, tensors = converted(open_origin(tmp_path))
    found = dict(tensors)
    assert open_origin(tmp_path).exact_bits == 16
    expected = theirs.model.layers[1].self_attn.k_proj.weight.float()
    np.testing.assert_array_equal(found["blocks.1.attention.key.weight"], expected.detach().numpy())


def changed(tmp_path: Path, **keys: Any) -> Path:
    """A tiny Llama on disk whose configuration says something else."""
    their_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text(encoding="utf-8")) | keys
    path.write_text(json.dumps(data), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "mamba"}, "model_type: found 'mamba', expected one of llama"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope scaling 'yarn' is not built"),
        ({"hidden_act": "relu"}, "hidden_act: found 'relu', built is only 'silu'"),
        ({"num_key_value_heads": 3}, "kv_heads: found 3, expected a divisor of heads 4"),
        ({"hidden_size": "wide"}, "hidden_size: found 'wide', expected int"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight has no place"),
        ({"intermediate_size": 41}, r"gate_proj.weight: found \(40, 24\), its configuration expects \(41, 24\)"),
        ({"tie_word_embeddings": True}, "found true, but lm_head.weight differs from model.embed_tokens.weight"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types: .* built is only full_attention"),
    ],
)
def test_what_is_not_built_or_does_not_fit_is_refused_by_name(keys: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(GolfError, match=words):
        dict(converted(open_origin(changed(tmp_path, **keys)))[2])


def test_files_that_are_no_model_are_told(tmp_path: Path) -> None:
    with pytest.raises(GolfError, match="config.json: not found"):
        open_origin(tmp_path)
    folder = changed(tmp_path / "m")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(GolfError, match="expected one .safetensors, or an index"):
        open_origin(folder)
    (folder / "other.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(GolfError, match="not a readable safetensors file"):
        open_origin(folder)
    (tmp_path / "m.bin").touch()
    with pytest.raises(GolfError, match="expected a .gguf, a folder with config.json and .*, or one with a .pt"):
        open_origin(tmp_path / "m.bin")
