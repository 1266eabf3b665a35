"""Parameters of `tokenize`, shards as the competition writes them, tokenizers as other people train them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import sentencepiece

from golf.data.tokenize import TokenizeConfig


def tokenize_config(**changes: object) -> TokenizeConfig:
    """A small text corpus below ``data``, no caps."""
    values: dict[str, object] = {
        "source": "text",
        "path": "data",
        "val_path": "none",
        "text_key": "text",
        "max_bytes": 0,
        "tokenizer": "train",
        "case": "none",
        "vocab_size": 300,
        "train_bytes": 1_000_000,
        "val_fraction": 0.2,
        "val_max_bytes": 0,
        "holdout_fraction": 0.2,
        "holdout_max_bytes": 0,
        "split_seed": 0,
    }
    return TokenizeConfig(**(values | changes))  # type: ignore[arg-type]


def write_bin(path: Path, ids: list[int], *, magic: int = 20240520, version: int = 1, count: int | None = None) -> Path:
    """Header and ids of one shard; ``count`` is what the header says, if not the truth."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(ids) if count is None else count
    path.write_bytes(header.tobytes() + np.array(ids, dtype="<u2").tobytes())
    return path


def write_documents(path: Path, documents: list[list[int]]) -> Path:
    """Documents one after another, BOS (1) in front of each."""
    return write_bin(path, [token for document in documents for token in [1, *document]])


def other_model(texts: list[str], vocab_size: int, **options: object) -> bytes:
    """A SentencePiece model as other people train them: NFKC, dummy prefix, spaces collapsed, byte fallback."""
    model = io.BytesIO()
    settings = {"model_type": "bpe", "byte_fallback": True, "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=vocab_size, minloglevel=3, **(settings | options)
    )
    return model.getvalue()
