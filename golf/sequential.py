"""GPTQ in the order of the layers: the Hessian of a matrix is taken after all matrices before it are quantized.

The `calibrate` stage runs the float model once, so a matrix is fitted to inputs that the shipped model never sees. Here
the model is run again for every group of matrices with one input (query, key, value and gate of a layer; then its
output; then each matrix of its MLP), on the same text, with everything before the group quantized and everything
behind it still float. Lookup tables come first, since all else reads what they give; the tied token table is therefore
fitted by the float model's Hessian of the output head. A matrix that is used several times takes its place by its first
use and its Hessian from all of them. Source: arXiv 2210.17323, section 4 ("quantized inputs"), applied to every matrix.

What it costs: as many partial forward passes over the text as there are groups, and again whenever the bits change,
because these Hessians belong to one set of parameters; those of `calibrate` serve all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from golf.calibrate import second_moments
from golf.quantize.hessian import HessianError

if TYPE_CHECKING:
    from golf.models.base import LanguageModel
    from golf.quantize.pipeline import Quantizer

__all__ = ["Group", "layer_order", "sequential_hessians"]


@dataclass(frozen=True)
class Group:
    """Matrices that first meet the same input, and how often a forward pass uses each."""

    uses: dict[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the order of use."""
        return tuple(self.uses)


def layer_order(model: LanguageModel, ids: np.ndarray) -> tuple[Group, ...]:
    """All matrices of ``model`` in the order in which a pass of ``ids`` (B, T) at full depth first uses them."""
    import torch

    names = {id(parameter): name for name, parameter in model.unique_parameters().items()}
    groups: list[list[str]] = []
    uses: dict[str, int] = {}
    last: list[torch.Tensor | None] = [None]  # kept alive: an address may serve twice, an object not

    def watch(name: str) -> Any:
        def see(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if name not in uses:
                if inputs[0] is not last[0]:
                    groups.append([])
                groups[-1].append(name)
                last[0] = inputs[0]
            uses[name] = uses.get(name, 0) + 1

        return see

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [m.register_forward_pre_hook(watch(names[id(m.weight)])) for m in linear if id(m.weight) in names]
    model.set_depth(model.max_depth)
    try:
        with torch.no_grad():
            model.hidden(torch.from_numpy(ids).to(model.token_embedding.device))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(Group({name: uses[name] for name in group}) for group in groups)


def sequential_hessians(
    model: LanguageModel, quantizer: Quantizer, windows: np.ndarray, *, batch: int = 8
) -> dict[str, np.ndarray | None]:
    """Hessians for ``quantizer``, layer by layer; they also replace those it had.

    ``model`` holds the float weights that ``quantizer`` was made of, and quantized ones afterwards; ``windows`` (B, T)
    int64 is the text of `calibrate`. Raises ``HessianError`` for a rotated quantizer, whose tensors are not the
    model's, and for a matrix that no layer uses.
    """
    if quantizer.config.rotate:
        raise HessianError(
            "quantize.gptq.sequential and quantize.rotate: wanted one at most, since rotated weights do not fit "
            "the model that is run; turn one off"
        )
    groups = layer_order(model, windows[:1])
    used = {name for group in groups for name in group.names}
    wanted = set(quantizer.quantized_names())
    tables = sorted(name for name in wanted - used if quantizer.roles[name] == "embedding")
    missing = sorted(wanted - used - set(tables))
    if missing:
        raise HessianError(f"{missing[0]}: no linear layer ever used it, so it has no Hessian and no reason for none")
    _replace(model, quantizer, tables)
    for group in groups:
        uses = {name: count for name, count in group.uses.items() if name in wanted}
        if uses:
            quantizer.set_hessians(second_moments(model, windows, batch=batch, uses=uses).means())
            _replace(model, quantizer, list(uses))
    return dict(quantizer.hessians)


def _replace(model: LanguageModel, quantizer: Quantizer, names: list[str]) -> None:
    """Put the quantized ``names`` into the model."""
    import torch

    for name in names:
        parameter = model.get_parameter_or_raise(name)
        parameter.data.copy_(torch.from_numpy(quantizer.quantize(name).dequantize()))
