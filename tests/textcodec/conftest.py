"""A tiny artifact with random weights and a lossless tokenizer of this repository's prose."""

from __future__ import annotations

from pathlib import Path

import pytest

from golf.data.tokenizer import train_tokenizer
from golf.textcodec.model import TextModel, open_model
from tiny import pack_untrained, recurrent


def make_artifact(path: Path, tokenizer: bytes, vocab_size: int, seed: int = 0) -> Path:
    path.write_bytes(pack_untrained(recurrent(width=32, blocks=1), vocab_size, tokenizer, seed=seed))
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
def decoded(artifact: Path) -> TextModel:
    return open_model(artifact)
