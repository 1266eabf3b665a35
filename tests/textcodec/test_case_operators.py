"""Artifacts whose tokenizer has case operators code, score and write the text itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from golf.artifact.decode import load_artifact
from golf.cli.generate import written
from golf.data.case import Case
from golf.data.tokenizer import Tokenizer, train_tokenizer
from golf.models.generate import Sampling
from golf.scoring.files import read_texts
from golf.textcodec import blocks
from golf.textcodec.files import CodecConfig, unzip_file, zip_file, zip_tokens
from golf.textcodec.model import TextModel, open_model
from tiny import write_artifact

TEXT = "The NASA Launch of McDonald's iPhone, aBC \ue001 End\ue004\ue004 \u00c9COLE \u2581Two  Spaces\nEND OF \ue002 "


@pytest.fixture(scope="module", params=["caseops", "caseops_merged"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prose: str) -> Path:
    form: Case = request.param
    tokenizer = train_tokenizer([prose], 400, form)
    return write_artifact(tmp_path_factory.mktemp("artifact"), tokenizer)


@pytest.fixture(scope="module")
def decoded(artifact: Path) -> TextModel:
    return open_model(artifact)


@pytest.mark.parametrize("block_bytes", [16, 1 << 20])
@pytest.mark.parametrize("text", [TEXT, "", "A", "\ue001"])
def test_any_text_comes_back(text: str, block_bytes: int, tmp_path: Path, decoded: TextModel) -> None:
    data, config = text.encode(), CodecConfig(block_bytes=block_bytes)  # the larger has a short header
    (tmp_path / "text").write_bytes(data)
    report = zip_file(tmp_path / "text", tmp_path / "coded", decoded, config)
    assert unzip_file(tmp_path / "coded", tmp_path / "back", decoded).text_bytes == len(data) == report.text_bytes
    assert (tmp_path / "back").read_bytes() == data


def test_documents_cut_anywhere_come_back(
    tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of a split may end behind an operator, and a document with a run of capitals before another letter."""
    monkeypatch.setattr(blocks, "TOKENS_PER_STREAM", 16)
    tokenizer = Tokenizer(decoded.tokenizer_model)
    documents = ["see NASA", "then", "", "The end of a McDONALD \ue001", "Z"]
    stream = np.concatenate([tokenizer.document(text)[0] for text in documents]).astype(np.int64)
    for end in (len(stream), len(stream) - 1, len(stream) - 3, 5):
        text = tokenizer.decode(stream[:end])
        assert "".join(documents).encode().startswith(text)
        zip_tokens([stream[:end]], tmp_path / "c", decoded, CodecConfig(streams=4), total_bytes=len(text))
        unzip_file(tmp_path / "c", tmp_path / "back", decoded)
        assert (tmp_path / "back").read_bytes() == text


def test_a_score_is_divided_by_the_bytes_of_the_text(tmp_path: Path, decoded: TextModel) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    read = read_texts([tmp_path / "a.txt"], Tokenizer(decoded.tokenizer_model))
    assert read.text.num_bytes == len(TEXT.encode())


def test_what_a_model_writes_has_capitals_and_no_operators(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_artifact(artifact)
    tokenizer = Tokenizer(model.tokenizer_model)
    stray = [tokenizer.encode("A")[0], tokenizer.encode("1")[0]]  # a mark, and no letter behind it
    ids = [*tokenizer.encode(" McDonald's NASA \u00c9"), *stray]
    monkeypatch.setattr("golf.models.generate.generate", lambda *a, **k: iter(ids))
    pieces = list(written(model, "The", Sampling(), tokens=99))
    assert "".join(pieces) == " McDonald's NASA \u00c91"
    monkeypatch.undo()
    free = "".join(written(model, "The NASA", Sampling(1.0, 1.0, 3), tokens=60))
    assert not set(free) & set("\ue001\ue002\ue003\ue004")
