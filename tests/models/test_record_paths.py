"""One forward pass of the record stack under training, scoring, adaptation and the codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.artifact.decode import Decoded, decode_artifact
from golf.data.tokenizer import Tokenizer, train_tokenizer
from golf.models.record import Record
from golf.scoring.network import SlidingConfig, window_nats
from golf.scoring.streaming import PassConfig, streaming_nats
from golf.scoring.text import ValidationText
from golf.scoring.ttt import TttConfig, score_ttt
from golf.textcodec import blocks
from golf.textcodec.files import CodecConfig, unzip_file, zip_file
from tiny import pack_untrained, record, shaken

VOCAB = 40
STARTS = (0, 5, 31, 70)


def _text(seed: int = 0) -> ValidationText:
    tokens = np.random.default_rng(seed).integers(2, VOCAB, 96)
    tokens[list(STARTS)] = 1
    return ValidationText(tokens, np.array(STARTS), np.array([20, 90, 120, 80]), VOCAB)


def _model() -> Record:
    model = shaken(record(), VOCAB)
    assert isinstance(model, Record)
    return model


def _alone(model: Record, text: ValidationText) -> np.ndarray:
    """Nats of every target of a document from a pass over that document alone; NaN for the later documents' BOS."""
    out = np.full(text.num_targets, np.nan)
    for start, end in zip(STARTS, (*STARTS[1:], len(text.tokens)), strict=True):
        ids = torch.from_numpy(text.tokens[None, start:end])
        with torch.no_grad():
            rows = torch.log_softmax(model.logits(model.hidden(ids[:, :-1]))[0].double(), -1)
        out[start : end - 1] = -rows.gather(1, ids[0, 1:, None])[:, 0].numpy()
    return out


def _sliding(model: Record, text: ValidationText) -> np.ndarray:
    return window_nats(model, text, SlidingConfig(95, 95, 2, "fp32"))[0]


def _streaming(model: Record, text: ValidationText) -> np.ndarray:
    return streaming_nats(model, text, PassConfig(95, 16, 1000, 0, 1, "fp32"))


def _adapted(model: Record, text: ValidationText) -> np.ndarray:
    """The score of what adapts, before it has learned anything: added weights must leave no part of the model out."""
    return score_ttt(model, text, TttConfig(True, 95, 95, 2, 0.5, 4, "fp32")).nats


@pytest.mark.parametrize("path", [_sliding, _streaming, _adapted], ids=lambda path: path.__name__[1:])
def test_every_path_scores_a_document_as_if_it_stood_alone(path: Any) -> None:
    model, text = _model(), _text()
    wanted, found = _alone(model, text), path(model, text)
    inside = ~np.isnan(wanted)
    assert inside.sum() == 96 - len(STARTS)
    np.testing.assert_allclose(found[inside], wanted[inside], atol=3e-5)


def test_training_sees_the_same_function_in_packed_rows() -> None:
    model, text = _model(), _text()
    ids = torch.from_numpy(text.tokens[None])
    loss = float(model.loss(ids[:, :-1], ids[:, 1:]).detach())
    assert loss == pytest.approx(_sliding(model, text).mean(), abs=1e-5)
    model.set_context(7)  # segments of 7 tokens inside documents, each as a text of its own but for the smear
    assert float(model.loss(ids[:, :-1], ids[:, 1:]).detach()) != pytest.approx(loss, abs=2e-5)


@pytest.fixture(scope="module")
def decoded(root: Path) -> Decoded:
    trained = train_tokenizer([(root / "docs/architecture.md").read_text()], 400)
    return decode_artifact(pack_untrained(record(bos_id=1), trained.vocab_size, trained.model))


def test_a_text_comes_back_through_the_codec(
    decoded: Decoded, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Tokenizer(decoded.tokenizer_model).bos_id == 1
    monkeypatch.setattr(blocks, "TOKENS_PER_STREAM", 64)
    data = (root / "docs/architecture.md").read_bytes()[:600]
    (tmp_path / "text").write_bytes(data)
    config = CodecConfig(streams=3, window=32, threads=1, arithmetic="portable", mixture=False)
    zip_file(tmp_path / "text", tmp_path / "text.golfz", decoded, config)
    unzip_file(tmp_path / "text.golfz", tmp_path / "back", decoded, threads=2)
    assert (tmp_path / "back").read_bytes() == data
