"""A streaming state that gradients can pass through, and that lets go of streams that have ended.

Shapes: L layers, B streams, C slots, E head width. ``golf.models.stream`` keeps the keys of all layers in one tensor
and writes into it, so each layer would overwrite what those before it saved for the backward pass; here every layer has
a tensor of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from golf.models.stream import StreamState

__all__ = ["first_streams", "taped"]


class LayerTensors:
    """Stands where a tensor (L, B, K, C, E) does: what ``StreamState`` asks of it, layer by layer."""

    def __init__(self, layers: list[Tensor], device: torch.device) -> None:
        self.layers, self.device = layers, device

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int):
            return self.layers[index]
        return LayerTensors([layer[index[1:]] for layer in self.layers], self.device)

    def __setitem__(self, index: Any, value: LayerTensors) -> None:
        for layer, part in zip(self.layers, value.layers, strict=True):
            layer[index[1:]] = part

    def size(self, dim: int) -> int:
        """As a tensor's."""
        return self.layers[0].size(dim - 1) if dim else len(self.layers)

    def clone(self) -> LayerTensors:
        """A copy of every layer."""
        return LayerTensors([layer.clone() for layer in self.layers], self.device)


def taped(state: Any) -> Any:
    """A fresh ``state`` of any family, changed so that ``model._step`` can run on it with gradients."""
    if isinstance(state, StreamState):
        device = state.keys.device
        keys: Any = LayerTensors([layer.clone() for layer in state.keys], device)
        values: Any = LayerTensors([layer.clone() for layer in state.values], device)
        return dataclasses.replace(state, keys=keys, values=values)
    if not hasattr(state, "attention"):
        return state
    return dataclasses.replace(state, attention=taped(state.attention))


def first_streams(state: Any, streams: int) -> Any:
    """A ``taped`` state of the first ``streams`` of its B, cut off from the gradients of the passes before."""
    if isinstance(state, Tensor):
        return state.detach()[:streams]
    if isinstance(state, list | tuple):
        return type(state)(first_streams(part, streams) for part in state)
    if isinstance(state, LayerTensors):
        return LayerTensors(first_streams(state.layers, streams), state.device)
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        return state
    names = {field.name for field in dataclasses.fields(state)} - {"band"}  # the one tensor without streams
    return dataclasses.replace(state, **{name: first_streams(getattr(state, name), streams) for name in names})
