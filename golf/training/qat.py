"""Late quantization-aware training: the loss and its gradients are taken at the weights that the quantizer would make.

While it acts, every tensor that the `quantize` stage turns into integers is replaced by its SDClip reconstruction
(``golf.quantize.sdclip``, the same to the last bit) for the forward and backward passes of one update; the gradient
then moves the float32 masters (straight-through estimator, arXiv 1308.3432). The swap happens in the parameters' own
memory, outside every compiled graph, so ``torch.compile`` cannot fold it away: public runs whose flag was read inside
the graph never quantized anything (parameter-golf record of 03-21). It costs one pass over the weights per update, not
per micro batch.

Shapes: ``R`` rows (all axes but the last), ``C`` columns of a weight matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from golf.models.base import LanguageModel
from golf.quantize.grid import FLOOR, MAX_VALUE, SMALLEST_HALF
from golf.training.config import QatConfig

__all__ = ["LateQat", "fake_quantize"]

_HALF_MAX = 65504.0


def _half_quantum(values: Tensor) -> Tensor:
    """Distance between fp16 numbers around positive float64 ``values``."""
    exponent = torch.frexp(values).exponent
    return torch.ldexp(torch.ones_like(values), (exponent - 1).clamp_min(-14) - 10)


def _to_half(values: Tensor) -> Tensor:
    """Positive float64 ``values`` at fp16 resolution, ties to even, still float64.

    torch converts float64 to fp16 through float32 and so rounds twice, numpy once: one row in 16,000 would differ.
    """
    quantum = _half_quantum(values)
    return ((values / quantum).round() * quantum).clamp(SMALLEST_HALF, _HALF_MAX)


@torch.no_grad()
def fake_quantize(weights: Tensor, *, levels: int, clip: float) -> Tensor:
    """The float32 reconstruction of ``weights`` (..., C) by ``quantize_sdclip``, on their device."""
    matrix = weights.detach().reshape(-1, weights.size(-1))
    largest = matrix.abs().amax(dim=1).double()
    spread = matrix.amax(dim=1) > matrix.amin(dim=1)
    sigma = matrix.double().std(dim=1, correction=0)
    steps = _to_half(torch.where(spread, clip * sigma / levels, largest / levels).clamp_min(FLOOR))
    least = _to_half((largest / MAX_VALUE).clamp_min(FLOOR))
    steps = torch.where(largest > steps * MAX_VALUE, least + _half_quantum(least), steps).float()[:, None]
    return ((matrix / steps).round().clamp(-MAX_VALUE, MAX_VALUE) * steps).view_as(weights)


class LateQat:
    """Swaps the quantizable tensors of ``model`` for their reconstructions during one update."""

    def __init__(self, model: LanguageModel, config: QatConfig) -> None:
        self.config = config
        parameters = model.unique_parameters()
        self.tensors = {name: (parameters[name], config.levels[model.role(name)]) for name in model.quantizable_names()}

    @contextmanager
    def quantized(self, counts: dict[str, int]) -> Iterator[None]:
        """The model holds quantized weights inside, its masters again after; ``counts`` grows by 1 per tensor."""
        masters = {name: parameter.detach().clone() for name, (parameter, _) in self.tensors.items()}
        try:
            for name, (parameter, levels) in self.tensors.items():
                parameter.data.copy_(fake_quantize(masters[name], levels=levels, clip=self.config.clip))
                counts[name] = counts.get(name, 0) + 1
            yield
        finally:
            for name, (parameter, _) in self.tensors.items():
                parameter.data.copy_(masters[name])
