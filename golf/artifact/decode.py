"""From artifact to a model ready to score. What this module reaches is the shipped decoder (golf.artifact.ship)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from golf.artifact.bytes import ArtifactError
from golf.artifact.read import unpack
from golf.base.errors import GolfError
from golf.base.params import quoted
from golf.models.base import LanguageModel
from golf.models.registry import bare_model, build_model, config_from_dict
from golf.quantize.tensors import QuantizedModel

__all__ = ["ArtifactError", "Decoded", "decode_artifact", "load_artifact"]


@dataclass(frozen=True)
class Decoded:
    """A model with the artifact's weights (float32, CPU, eval mode) and everything needed to score text with it."""

    model: LanguageModel
    tokenizer_model: bytes
    tokenizer_sha256: str
    config: dict[str, Any]
    vocab_size: int
    sha256: str
    num_bytes: int


def load_artifact(path: str | Path, *, threads: int = 1) -> Decoded:
    """Read and decode the artifact at ``path``, ``threads`` tensors at a time.

    Raises ``ArtifactError`` when it is missing, damaged or of another model.
    """
    path = Path(path)
    if not path.is_file():
        state = "is a folder, expected an artifact" if path.is_dir() else "not found"
        raise ArtifactError("missing", f"{path}: {state}; it is made by `compress`")
    return decode_artifact(path.read_bytes(), where=str(path), threads=threads)


def decode_artifact(data: bytes, *, where: str = "artifact", threads: int = 1) -> Decoded:
    """Decode artifact bytes; ``where`` begins every message."""
    unpacked = unpack(data, where=where, threads=threads)
    stored = unpacked.model
    names = len(stored.tensors) + len(stored.plain) + len(stored.aliases)
    for key in ("blocks", "layers", "value_tables"):  # a lie would build modules for ever before shapes are compared
        if isinstance(stored.config.get(key), int) and stored.config[key] > names:
            message = f"model.{key} is {quoted(stored.config[key])}, more than the {names} names stored"
            raise ArtifactError("index", f"{where}: {message}")
    try:
        config = config_from_dict(stored.config, where="model")
        model = bare_model(config, stored.vocab_size)  # every weight comes from the file
    except (GolfError, ArithmeticError, RuntimeError, TypeError) as error:  # torch's words for impossible sizes
        raise ArtifactError("index", f"{where}: {error}") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = _shapes(stored)
    if wanted != found:
        odd = sorted(set(wanted.items()) ^ set(found.items()))[0]
        raise ArtifactError("tensor", f"{where}: tensors do not fit the model config, first difference {odd}")
    arrays = stored.state()
    state = {name: torch.from_numpy(arrays[name]) for name in arrays if name not in stored.aliases}
    state |= {alias: state[name] for alias, name in stored.aliases.items()}
    if any(buffer.is_meta for buffer in model.buffers()):  # buffers outside the state dict: the real constructor
        with torch.random.fork_rng(devices=[]):
            model = build_model(config, stored.vocab_size)
    model.load_state_dict(state, strict=True, assign=True)
    return Decoded(
        model=model.eval(),
        tokenizer_model=unpacked.tokenizer,
        tokenizer_sha256=hashlib.sha256(unpacked.tokenizer).hexdigest(),
        config=stored.config,
        vocab_size=stored.vocab_size,
        sha256=unpacked.sha256,
        num_bytes=unpacked.num_bytes,
    )


def _shapes(stored: QuantizedModel) -> dict[str, tuple[int, ...]]:
    shapes = {name: tensor.shape for name, tensor in stored.tensors.items()}
    shapes |= {name: array.shape for name, array in stored.plain.items()}
    return shapes | {alias: shapes[name] for alias, name in stored.aliases.items()}
