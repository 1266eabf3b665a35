"""GDN-Hybrid with its carried state, through a real artifact: the streaming scorer at any length, the text codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from golf.artifact.write import pack
from golf.base.params import read_params, to_dict
from golf.data.tokenizer import Tokenizer, train_tokenizer
from golf.models.registry import build_model, config_from_dict
from golf.quantize.pipeline import Quantizer
from golf.scoring.streaming import PassConfig, streaming_nats
from golf.scoring.text import ValidationText
from golf.textcodec import blocks
from golf.textcodec.files import CodecConfig, unzip_file, zip_file
from golf.textcodec.model import TextModel, text_model
from tiny import quantize_config

SMALL = {
    "layout": "gdn2_swa_gdn_swa_shared", "kv_share_stride": 2, "width": 24, "delta_heads": 2, "delta_key_dim": 8,
    "delta_value_dim": 8, "delta_chunk": 8, "heads": 2, "kv_heads": 1, "window": 6, "hash_rows": 32, "hash_width": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def decoded(root: Path) -> TextModel:
    """A model with random weights, packed and decoded."""
    trained = train_tokenizer([(root / "docs/architecture.md").read_text()], 400)
    config = config_from_dict(read_params(root / "conf/model/gdn_hybrid_small.yaml") | SMALL)
    torch.manual_seed(0)
    model = build_model(config, trained.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    method = quantize_config("sdclip", 12.85)
    meta = {"model": to_dict(config), "vocab_size": trained.vocab_size}
    return text_model(pack(Quantizer(state, model, method, meta=meta).run().model, trained.model))


def test_streaming_scores_equal_one_pass_over_the_whole_text(decoded: TextModel, root: Path) -> None:
    """The text is 40 windows long; each token is run once, in passes of 16."""
    tokenizer = Tokenizer(decoded.tokenizer_model)
    data = (root / "docs/architecture.md").read_text()[:500]
    ids = np.concatenate([[tokenizer.bos_id], tokenizer.encode(data)])[:240].astype(np.int64)
    ids[100] = tokenizer.bos_id
    text = ValidationText(ids, np.array([0, 100]), np.array([100, 140]), decoded.vocab_size)
    config = PassConfig(window=240 - 1, chunk=16, segment=1000, warmup=0, streams=1, precision="fp32")
    with torch.no_grad():
        rows = decoded.model.logits(decoded.model.hidden(torch.from_numpy(ids[None, :-1])))[0].double()
    wanted = -torch.log_softmax(rows, -1).numpy()[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(streaming_nats(decoded.model, text, config), wanted, atol=2e-5)


@pytest.mark.slow
def test_a_text_comes_back_through_the_codec(
    decoded: TextModel, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "TOKENS_PER_STREAM", 64)  # several streams, each longer than ten attention windows
    data = (root / "docs/architecture.md").read_bytes()[:600]
    (tmp_path / "text").write_bytes(data)
    config = CodecConfig(streams=3, window=32, threads=1, arithmetic="portable", mixture=False)
    report = zip_file(tmp_path / "text", tmp_path / "text.golfz", decoded, config)
    unzip_file(tmp_path / "text.golfz", tmp_path / "back", decoded, threads=2)
    assert (tmp_path / "back").read_bytes() == data and report.file_bytes > 0
