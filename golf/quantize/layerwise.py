"""Calibration of models that do not fit memory with all their Hessians: layer by layer, straight to the file.

The stream of all windows is kept between two blocks, (B, T, D) float32; the Hessians (C, C) of one block are in memory
at a time. Matrices that read the same input (query, key and value; gate and up) share one Hessian, under the name of
the first of them: about half of the work and of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from golf.base.progress import bar
from golf.base.tensor_file import own_metadata, tensor_file
from golf.models.base import LanguageModel
from golf.quantize.calibrate import LOOKUP_REASON
from golf.quantize.hessian import HessianError, HessianSums

__all__ = ["LayerWise", "calibrate_by_layer"]

_BATCH = 8  # windows in one forward pass


@runtime_checkable
class LayerWise(Protocol):
    """A model whose ``blocks`` can be run one by one (``golf.models.decoder``).

    Methods alone: Python 3.12 looks for the members of a protocol without ``__getattr__``, which is where torch has the
    modules of a module.
    """

    def embedded(self, ids: Tensor) -> Tensor: ...
    def layer_calls(self, tokens: int) -> list[Callable[[Tensor], Tensor]]: ...
    def final(self, x: Tensor) -> Tensor: ...
    @property
    def head_table(self) -> Tensor: ...


def calibrate_by_layer(
    model: LanguageModel, windows: np.ndarray, path: Path, meta: Mapping[str, Any]
) -> tuple[int, dict[str, str]]:
    """Write the mean of x x^T of every quantized matrix of ``model``, over ``windows`` (B, T) int64, to ``path``.

    Returns the number of Hessians, and why other names have none. Raises ``HessianError`` for a matrix that is never
    used. ``meta`` goes into the file beside ``without``, ``leaders`` and ``samples``.
    """
    assert isinstance(model, LayerWise)
    names = {id(parameter): name for name, parameter in model.unique_parameters().items()}
    leaders, sizes = _inputs(model, windows[:1, :2], names)
    head = names[id(model.head_table)]
    leaders[head], sizes[head] = head, model.head_table.size(1)
    wanted = model.quantizable_names()
    without = {name: LOOKUP_REASON for name in wanted if name not in leaders and model.role(name) == "embedding"}
    missing = [name for name in wanted if name not in leaders and name not in without]
    if missing:
        raise HessianError(f"{missing[0]}: no linear layer ever used it, so it has no Hessian and no reason for none")
    shapes = {name: (sizes[name], sizes[name]) for name in sorted(set(leaders.values()))}
    shared = {name: leader for name, leader in leaders.items() if leader != name}
    about = {**meta, "without": without, "leaders": shared, "samples": dict.fromkeys(shapes, windows.size)}
    with tensor_file(path, shapes, own_metadata(about)) as put:
        for sums in _layers(model, windows, names, set(shapes), head):
            for name, h in sums.means().items():
                put(name, h)
    return len(shapes), without


def _inputs(model: Any, ids: np.ndarray, names: Mapping[int, str]) -> tuple[dict[str, str], dict[str, int]]:
    """For every matrix in the blocks, the first one that reads the same tensor, and the channels of that."""
    seen: list[tuple[Tensor, str]] = []  # keeps the tensors alive: their identity is what tells them apart
    leaders: dict[str, str] = {}
    sizes: dict[str, int] = {}

    def watch(name: str) -> Any:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            leader = next((other for tensor, other in seen if tensor is inputs[0]), name)
            seen.append((inputs[0], leader))
            leaders[name], sizes[name] = leader, inputs[0].size(-1)

        return see

    with torch.no_grad(), _hooked(model.blocks, names, watch):
        model.hidden(torch.from_numpy(ids).to(model.token_embedding.device))
    return leaders, sizes


def _layers(
    model: Any, windows: np.ndarray, names: Mapping[int, str], leaders: set[str], head: str
) -> Iterator[HessianSums]:
    """The sums of each block, then of the head."""
    device = model.token_embedding.device
    parts = torch.from_numpy(windows).split(_BATCH)
    calls = model.layer_calls(windows.shape[1])
    with torch.no_grad(), bar(what="calibrate", total=windows.size * (len(calls) + 1), unit="tok") as shown:
        stream = [model.embedded(part.to(device)) for part in parts]
        for block, call in zip(model.blocks, calls, strict=True):
            sums = HessianSums()

            def watch(name: str, sums: HessianSums = sums) -> Any:
                def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                    sums.add(name, inputs[0].float().cpu().numpy())

                return see

            with _hooked(block, names, watch, only=leaders):
                for i, x in enumerate(stream):
                    stream[i] = call(x)
                    shown.update(parts[i].numel())
            yield sums
        sums = HessianSums()
        for x in stream:
            sums.add(head, model.final(x).float().cpu().numpy())
        yield sums


class _hooked:
    """Have ``watch(name)`` see the inputs of every matrix below ``module`` while the context is open."""

    def __init__(
        self, module: nn.Module, names: Mapping[int, str], watch: Callable[[str], Any], only: set[str] | None = None
    ) -> None:
        linear = [(names.get(id(m.weight)), m) for m in module.modules() if isinstance(m, nn.Linear)]
        self._hooks = [
            m.register_forward_pre_hook(watch(name))
            for name, m in linear
            if name is not None and (only is None or name in only)
        ]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
