"""Late quantization-aware training: the loss and its gradients are taken at the weights that the quantizer would make.

While it acts, every tensor that the `quantize` stage turns into integers is replaced by its SDClip reconstruction
(``golf.quantize.rounding``) for the forward and backward passes of one update; the gradient then moves the float32
masters (straight-through estimator, arXiv 1308.3432). The swap happens in the parameters' own memory, outside every
compiled graph, so ``torch.compile`` cannot fold it away: public runs whose flag was read inside the graph never
quantized anything (parameter-golf record of 03-21). It costs one pass over the weights per update, not per micro batch.

Shapes: ``R`` rows (all axes but the last), ``C`` columns of a weight matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from golf.models.base import LanguageModel
from golf.training.config import QatConfig

__all__ = ["LateQat", "fake_quantize"]

_HALF_MAX = torch.finfo(torch.float16).max
_SMALLEST_HALF = 2.0**-24
_MAX_VALUE = torch.iinfo(torch.int16).max


@torch.no_grad()
def fake_quantize(weights: Tensor, *, levels: int, clip: float) -> Tensor:
    """The float32 reconstruction of ``weights`` (..., C) by ``quantize_sdclip``, on their device.

    torch rounds float64 to fp16 through float32, numpy at once: in about one row of 16,000 the step is the fp16 number
    beside that of `quantize`.
    """
    matrix = weights.detach().reshape(-1, weights.size(-1))
    largest = matrix.abs().amax(dim=1).double()
    has_spread = matrix.amax(dim=1) > matrix.amin(dim=1)
    sigma = matrix.double().std(dim=1, correction=0)
    steps = _half(torch.where(has_spread, sigma * (clip / levels), largest / levels))
    next_wider = (_half(largest / _MAX_VALUE).view(torch.int16) + 1).view(torch.float16)
    steps = torch.where(largest > steps.double() * _MAX_VALUE, next_wider, steps).float()[:, None]
    return ((matrix / steps).round().clamp(-_MAX_VALUE, _MAX_VALUE) * steps).view_as(weights)


def _half(steps: Tensor) -> Tensor:
    """Positive float64 ``steps`` as fp16, never 0 and never infinite."""
    return steps.clamp(_SMALLEST_HALF, _HALF_MAX).half()


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
