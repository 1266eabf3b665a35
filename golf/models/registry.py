"""The way from a configuration to a model; ``golf.models.configs.families`` says how a family is added.

Files of weights are read here too: their numbers and their metadata, checked, and the model that they are of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from golf.base.errors import GolfError
from golf.base.files import FileError, checked, load_torch
from golf.base.params import Ge, Le
from golf.models.base import LanguageModel
from golf.models.configs.families import FAMILIES, config_from_dict, config_to_dict

if TYPE_CHECKING:
    from golf.models.configs.families import ModelConfig

__all__ = [
    "FAMILIES", "build_model", "config_from_dict", "config_to_dict", "empty_model", "empty_shapes", "load_weights",
    "model_of",
]  # fmt: skip


def build_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """A freshly initialized float32 model; the weights follow from torch's global seed alone."""
    if vocab_size < 2:
        raise GolfError(f"vocab_size: found {vocab_size}, expected 2 or more")
    _, (module, name) = FAMILIES[config.family]
    model: LanguageModel = getattr(import_module(module), name)(config, vocab_size)
    return model


def empty_shapes(config: ModelConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Shape of every name of the state dict, without memory for the weights."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build_model(config, vocab_size).state_dict().items()}


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class _Meta:
    """What is read of a file's metadata, beside the configuration ``model``."""

    vocab_size: Annotated[int, Ge(2), Le(1 << 18)]


def load_weights(path: str | Path, *, made_by: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Float32 weights by name, and the file's metadata.

    They may be stored as float16, bfloat16, float32 or float64; other numbers are a ``FileError`` naming the tensor.
    """
    tensors, meta = load_torch(path, made_by=made_by)
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            found, expected = str(tensor.dtype).removeprefix("torch."), "float16, bfloat16, float32 or float64"
            raise FileError(f"{path}: {name} holds {found} numbers, expected {expected}; re-run {made_by}")
    return {name: tensor.float() for name, tensor in tensors.items()}, meta


def empty_model(meta: Mapping[str, Any], *, path: str | Path, made_by: str, device: str = "cpu") -> LanguageModel:
    """The model that the metadata of ``path`` describes, without its weights; torch's random state stays as it was.

    On the ``device`` "meta" it has names, shapes and roles, and no memory.

    Raises ``FileError`` for metadata that describes none.
    """
    about = checked(_Meta, meta, path=path, made_by=made_by)
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            return build_model(config_from_dict(meta.get("model"), where=f"{path}: model"), about.vocab_size)
    except GolfError as error:
        raise FileError(f"{error}; re-run {made_by}") from error


def model_of(
    meta: Mapping[str, Any], weights: Mapping[str, Tensor], *, path: str | Path, made_by: str
) -> LanguageModel:
    """The model that the metadata of ``path`` describes, holding ``weights``.

    Raises ``FileError`` for metadata that describes none and for weights that are not its own, naming the tensor.
    """
    model = empty_model(meta, path=path, made_by=made_by)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(shapes.keys() | weights.keys()):
        found = list(weights[name].shape) if name in weights else "none"
        if found != shapes.get(name, "none"):
            raise FileError(
                f"{path}: tensor `{name}`: found {found}, the configuration beside it expects "
                f"{shapes.get(name, 'none')}; re-run {made_by}"
            )
    model.load_state_dict(dict(weights))
    return model
