"""The way from a configuration to a model; ``golf.models.configs.families`` says how a family is added.

Files of weights are read here too: their numbers and their metadata, checked, and the model that they are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from golf.base.errors import GolfError
from golf.base.files import FileError, checked, load_torch, open_tensors, read_meta
from golf.base.params import Ge, Le
from golf.base.tensor_file import LARGE
from golf.models.base import LanguageModel
from golf.models.configs.families import FAMILIES, config_from_dict, config_to_dict

if TYPE_CHECKING:
    from golf.models.configs.families import ModelConfig

__all__ = [
    "FAMILIES", "StoredWeights", "bare_model", "build_model", "config_from_dict", "config_to_dict", "empty_model",
    "empty_shapes", "load_weights", "model_of",
]  # fmt: skip

_ELEMENTWISE = frozenset({"add", "mul", "neg", "log", "exp", "expm1", "clamp"})


class _ShapesAlone(TorchFunctionMode):
    """Initial values are not computed, only their shapes: torch's own meta arithmetic imports its compiler (3.5 s of
    CPU time) for the first product."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randn:
            func = torch.empty
        elif func is torch.stack:
            return torch.empty(len(args[0]), *args[0][0].shape)
        elif args and isinstance(args[0], torch.Tensor) and func.__name__ in _ELEMENTWISE:
            return args[0]  # a constructor only combines equal shapes and scalars
        return func(*args, **(kwargs or {}))


def build_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """A freshly initialized float32 model; the weights follow from torch's global seed alone."""
    if vocab_size < 2:
        raise GolfError(f"vocab_size: found {vocab_size}, expected 2 or more")
    _, (module, name) = FAMILIES[config.family]
    model: LanguageModel = getattr(import_module(module), name)(config, vocab_size)
    return model


def bare_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """The same on the device "meta": names, shapes and roles, without memory and random numbers."""
    with torch.device("meta"), _ShapesAlone():
        return build_model(config, vocab_size)


def empty_shapes(config: ModelConfig, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Shape of every name of the state dict, without memory for the weights."""
    return {name: tuple(tensor.shape) for name, tensor in bare_model(config, vocab_size).state_dict().items()}


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
    return {name: _as_float(tensor, f"{path}: {name}", made_by) for name, tensor in tensors.items()}, meta


def _as_float(tensor: Tensor, where: str, made_by: str) -> Tensor:
    if tensor.dtype not in _FLOATS:
        found, expected = str(tensor.dtype).removeprefix("torch."), "float16, bfloat16, float32 or float64"
        raise FileError(f"{where} holds {found} numbers, expected {expected}; re-run {made_by}")
    return tensor.float()


class StoredWeights(Mapping[str, NDArray[np.float32]]):
    """The same of a model too large for memory: each is read when it is asked for, and its part of the file is mapped
    no longer than it is used."""

    def __init__(self, path: Path, *, made_by: str) -> None:
        self._path, self._made_by = path, made_by
        self.meta = read_meta(path, made_by=made_by)
        with open_tensors(path, "pt", made_by) as file:
            self._names = sorted(file.keys())

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self._names:
            raise KeyError(name)
        with open_tensors(self._path, "pt", self._made_by) as file:
            tensor = file.get_tensor(name)
        found: NDArray[np.float32] = _as_float(tensor, f"{self._path}: {name}", self._made_by).numpy()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def empty_model(meta: Mapping[str, Any], *, path: str | Path, made_by: str, device: str = "cpu") -> LanguageModel:
    """The model that the metadata of ``path`` describes, without its weights; torch's random state stays as it was.

    On the ``device`` "meta" it has names, shapes and roles, and no memory.

    Raises ``FileError`` for metadata that describes none.
    """
    about = checked(_Meta, meta, path=path, made_by=made_by)
    try:
        build = bare_model if device == "meta" else build_model
        with torch.random.fork_rng(devices=[]):
            return build(config_from_dict(meta.get("model"), where=f"{path}: model"), about.vocab_size)
    except GolfError as error:
        raise FileError(f"{error}; re-run {made_by}") from error


def model_of(
    meta: Mapping[str, Any], weights: Mapping[str, Tensor], *, path: str | Path, made_by: str
) -> LanguageModel:
    """The model that the metadata of ``path`` describes, holding ``weights``.

    Raises ``FileError`` for metadata that describes none and for weights that are not its own, naming the tensor.
    """
    large = sum(tensor.numel() for tensor in weights.values()) > LARGE
    model = empty_model(meta, path=path, made_by=made_by, device="meta" if large else "cpu")
    if any(buffer.is_meta for buffer in model.buffers()):  # made by the constructor alone
        large, model = False, empty_model(meta, path=path, made_by=made_by)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(shapes.keys() | weights.keys()):
        found = list(weights[name].shape) if name in weights else "none"
        if found != shapes.get(name, "none"):
            raise FileError(
                f"{path}: tensor `{name}`: found {found}, the configuration beside it expects "
                f"{shapes.get(name, 'none')}; re-run {made_by}"
            )
    if large:  # the weights themselves, which may be a file's, instead of a copy; ties stay
        named = list(model.named_parameters(remove_duplicate=False))
        first = {id(parameter): name for name, parameter in reversed(named)}
        once = {name: torch.nn.Parameter(weights[name], requires_grad=False) for name in first.values()}
        weights = dict(weights) | {name: once[first[id(parameter)]] for name, parameter in named}
    model.load_state_dict(dict(weights), assign=large)
    return model
