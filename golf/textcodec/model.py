"""An artifact as the codec needs it: weights as arrays, tokenizer, names; no torch, but for the float model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from golf.artifact.bytes import ArtifactError
from golf.artifact.read import unpack

__all__ = ["TextModel", "open_model", "text_model"]


@dataclass(frozen=True)
class TextModel:
    """``arrays`` by parameter name, float32; ``data`` is the whole artifact. The rest as in
    ``golf.artifact.decode.Decoded``."""

    arrays: dict[str, np.ndarray]
    tokenizer_model: bytes
    tokenizer_sha256: str
    config: dict[str, Any]
    vocab_size: int
    sha256: str
    data: bytes

    @property
    def num_bytes(self) -> int:
        """Of the artifact."""
        return len(self.data)

    @cached_property
    def model(self) -> Any:
        """The float model, by torch."""
        from golf.artifact.decode import decode_artifact

        return decode_artifact(self.data).model


def open_model(path: str | Path) -> TextModel:
    """The artifact at ``path``; ``ArtifactError`` when it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        state = "is a folder, expected an artifact" if path.is_dir() else "not found"
        raise ArtifactError("missing", f"{path}: {state}; it is made by `compress`")
    return text_model(path.read_bytes(), where=str(path))


def text_model(data: bytes, *, where: str = "artifact") -> TextModel:
    """The artifact ``data``; ``where`` begins every message."""
    unpacked = unpack(data, where=where)
    stored = unpacked.model
    return TextModel(
        arrays={name: np.asarray(array) for name, array in stored.state().items()},
        tokenizer_model=unpacked.tokenizer,
        tokenizer_sha256=hashlib.sha256(unpacked.tokenizer).hexdigest(),
        config=stored.config,
        vocab_size=stored.vocab_size,
        sha256=unpacked.sha256,
        data=data,
    )
