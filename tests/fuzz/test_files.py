"""Files that travel between stages, damaged or lying: each ends in a named error or in what was stored."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

import stages.hedge
from golf.artifact.write import pack
from golf.base.errors import GolfError
from golf.base.files import save_numpy, save_torch
from golf.base.params import load_section, to_dict
from golf.data.shards import ShardWriter, documents_of, load_split, open_split
from golf.data.tokenizer import Tokenizer, train_tokenizer
from golf.quantize.calibrate import hessians_or_none
from golf.quantize.hessian import save_hessians
from golf.quantize.pipeline import Quantizer
from golf.quantize.storage import load_quantized, save_quantized
from golf.scoring.modes import run_mode
from golf.scoring.record_stream import StreamingConfig
from golf.scoring.text import load_text
from golf.training.checkpoint import open_checkpoints
from hostile import damaged, lying_tensors, turns
from shipped import shipped
from tiny import quantize_config, quantize_model, recurrent, shaken

SHAPE, VOCAB = recurrent(width=8, blocks=1), 340


def read_shards(root: Path) -> object:
    folder = root / "artifacts/tokens/val"
    split, reader = load_split(folder), open_split(folder)
    assert np.array_equal(reader.read(0, reader.num_tokens), split.tokens)
    return sum(map(len, documents_of(folder)))


def read_weights(root: Path) -> object:
    return Quantizer.load(root, quantize_config("gptq_lite")).run()


def read_hessians(root: Path) -> object:
    hessians = hessians_or_none(root)
    meta: dict[str, Any] = {"model": SHAPE, "vocab_size": VOCAB}
    model = shaken(SHAPE, VOCAB)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return quantize_model(state, model, quantize_config("gptq"), meta=meta, hessians=hessians)


def read_quantized(root: Path) -> object:
    return pack(load_quantized(root / "artifacts/quantize/model.safetensors"), b"tokenizer")


def read_record(root: Path) -> object:
    return stages.hedge.run(root / "params.yaml", root)


def read_checkpoint(root: Path) -> object:
    with open_checkpoints(root / "ckpt") as folder:
        found = folder.load()
    assert found is not None and found[1] == {"step": 7}
    assert torch.equal(found[0]["a"], torch.arange(6.0)) and torch.equal(found[0]["b"], torch.ones(2, 2))
    return None


def read_tokenizer(root: Path) -> object:
    tokenizer = Tokenizer.from_file(root / "tokenizer.model")
    document, num_bytes = tokenizer.document("A few words, \u00e9 and \u4e2d.")
    assert num_bytes == len("A few words, \u00e9 and \u4e2d.".encode()) or not tokenizer.lossless
    return tokenizer.decode(document)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "shards": ("artifacts/tokens/val/shard_000000.safetensors", read_shards),
    "weights": ("artifacts/average/model.safetensors", read_weights),
    "hessians": ("artifacts/calibrate/hessians.safetensors", read_hessians),
    "quantized": ("artifacts/quantize/model.safetensors", read_quantized),
    "record": ("artifacts/evaluate/streaming_tokens.safetensors", read_record),
    "checkpoint": ("ckpt/state_00000007.safetensors", read_checkpoint),
    "tokenizer": ("tokenizer.model", read_tokenizer),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """One good file of each kind."""
    folder, rng = tmp_path_factory.mktemp("project"), np.random.default_rng(0)
    prose = (root / "docs" / "architecture.md").read_text(encoding="utf-8")[:1200]
    tokenizer = train_tokenizer([prose], VOCAB)
    kept = {"vocab_size": VOCAB, "bos_id": tokenizer.bos_id, "tokenizer_sha256": tokenizer.sha256}
    writer = ShardWriter(folder / "artifacts/tokens/val", **kept)
    for start in (0, 300):
        writer.add(*tokenizer.document(prose[start : start + 300]))
    writer.close()
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
    model = shaken(SHAPE, VOCAB)
    meta: dict[str, Any] = {"model": SHAPE, "vocab_size": VOCAB, "sequence_length": 64}
    save_torch(folder / "artifacts/average/model.safetensors", model.state_dict(), meta)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    quantizer = Quantizer(dict(state), model, quantize_config("gptq_lite"), meta=meta)
    save_quantized(folder / "artifacts/quantize/model.safetensors", quantizer.run().model)
    names, hessians, without = quantizer.quantized_names(), {}, {}
    for name in names:
        if quantizer.roles[name] == "embedding":
            without[name] = "a table"
        else:
            inputs = rng.normal(size=(99, state[name].shape[-1]))
            hessians[name] = inputs.T @ inputs
    save_hessians(folder / "artifacts/calibrate/hessians.safetensors", hessians, {"without": without})
    params = shipped()
    sampled = {"window": 32, "chunk": 16, "sampled_rows": 4, "precision": "fp32", "warmup": 32}
    params["evaluate"]["streaming"] |= sampled
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(params, file)
    config = load_section(folder / "params.yaml", "evaluate.streaming", StreamingConfig)
    text = load_text(folder / "artifacts/tokens/val", vocab_size=VOCAB, tokenizer_sha256=tokenizer.sha256)
    made = {"config": to_dict(config), "artifact_sha256": "0" * 64, "mode": "streaming"}
    scored = run_mode("streaming", model.eval(), text, config)
    save_numpy(folder / READERS["record"][0], dict(scored.tensors), made | kept)
    with open_checkpoints(folder / "ckpt") as checkpoints:
        checkpoints.save(7, {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, {"step": 7})
    return folder


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_or_lying_file_is_a_named_error_or_harmless(kind: str, project: Path, tmp_path: Path) -> None:
    rng, (name, read) = random.Random(kind), READERS[kind]
    shutil.copytree(project, tmp_path / "p")
    path, count, refused = tmp_path / "p" / name, turns(25, 800), 0
    whole = path.read_bytes()
    read(tmp_path / "p")
    for _ in range(count):
        path.write_bytes(damaged(whole, rng) if path.suffix == ".model" else lying_tensors(whole, rng))
        try:
            read(tmp_path / "p")
        except GolfError as error:
            assert str(error).isprintable() and len(str(error)) < 3000
            refused += 1
    assert refused > count // 5
