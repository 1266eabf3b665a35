"""A tiny artifact with random weights and a lossless tokenizer of this repository's prose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golf.container.write import pack
from golf.decode import Decoded, load_artifact
from golf.models.registry import build_model, config_from_dict
from golf.params import to_dict
from golf.quantize.pipeline import QuantizeConfig, quantize_model
from golf.tokens.trainer import train_tokenizer


def make_artifact(path: Path, tokenizer: bytes, vocab_size: int, seed: int = 0) -> Path:
    shape = {"family": "depth_recurrent", "width": 32, "blocks": 1, "repeats": 2, "heads": 2, "kv_heads": 1}
    shape |= {"mlp_ratio": 2.0, "value_tables": 1, "cross_repeat_skip": True, "xsa_last": 1, "negative_slope": 0.5}
    shape |= {"softcap": 30.0, "rope_base": 10000.0, "qk_gain": 1.5, "norm_eps": 1e-6}
    config = config_from_dict(shape)
    torch.manual_seed(seed)
    model = build_model(config, vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    levels = {"embedding": 31, "attention": 31, "mlp": 31}
    method = QuantizeConfig(method="gptq_lite", levels=levels, percentiles=(0.999, 1.0), clip=12.85)
    quantized = quantize_model(state, model, method, meta={"model": to_dict(config), "vocab_size": vocab_size}).model
    path.write_bytes(pack(quantized, tokenizer))
    return path


@pytest.fixture(scope="session")
def prose(root: Path) -> str:
    return (root / "docs" / "architecture.md").read_text()


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, prose: str) -> Path:
    tokenizer = train_tokenizer([prose], 400)
    return make_artifact(tmp_path_factory.mktemp("artifact") / "model.golf", tokenizer.model, tokenizer.vocab_size)


@pytest.fixture(scope="session")
def other_artifact(tmp_path_factory: pytest.TempPathFactory, prose: str) -> Path:
    tokenizer = train_tokenizer([prose], 400)
    path = tmp_path_factory.mktemp("artifact") / "other.golf"
    return make_artifact(path, tokenizer.model, tokenizer.vocab_size, seed=1)


@pytest.fixture(scope="session")
def decoded(artifact: Path) -> Decoded:
    return load_artifact(artifact)
