"""Flat transformer: the challenge's naive baseline, nine layers with U-Net skips.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width. Source: openai/parameter-golf baseline (a modded-nanogpt form). The
first half of the layers keeps its outputs; the second half takes them back last-in first-out, times learned channel
weights. Squared-ReLU MLP, GQA with normed and gained queries, one mix with the embedding per block, tied head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.block import AttentionModel, ResidualBlock
from golf.models.configs.transformer import TransformerConfig
from golf.models.layers import Rope, activation_dtype, rms_norm
from golf.models.stream import StreamStep

__all__ = ["Transformer"]


class Transformer(AttentionModel):
    """Encoder half, decoder half with skips, tied head; depth is always 1."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__(config, softcap=config.softcap)
        self.config = config
        self.token_embedding = nn.Parameter(torch.randn(vocab_size, config.width) * 0.005)
        self.skip_scales = nn.Parameter(torch.ones(config.skips, config.width))
        self.blocks = nn.ModuleList(ResidualBlock(config) for _ in range(config.layers))

    def _run(self, ids: Tensor, rope: Rope, stream: StreamStep | None) -> Tensor:
        config, dtype = self.config, activation_dtype(self.token_embedding)
        x0 = rms_norm(F.embedding(ids, self.token_embedding).to(dtype), config.norm_eps)
        scales = self.skip_scales.to(dtype)
        layer_function = self.layer_function(effective_layer)
        x = x0
        kept: list[Tensor] = []  # a literal: dynamo cannot trace list[Tensor]()
        first_half = config.layers // 2
        for layer, block in enumerate(self.blocks):
            index = layer - first_half
            skip = (scales[index], kept.pop()) if 0 <= index < config.skips else None
            x = layer_function(block, x, x0, skip, rope, stream)
            if layer < first_half:
                kept.append(x)
        return rms_norm(x, config.norm_eps)


def effective_layer(
    block: nn.Module, x: Tensor, x0: Tensor, skip: tuple[Tensor, Tensor] | None, rope: Rope, stream: StreamStep | None
) -> Tensor:
    """The returning output of the first half times its weights (D,), then the block: ``x`` (B,T,D) -> (B,T,D)."""
    if skip is not None:
        x = x + skip[0] * skip[1]
    out: Tensor = block(x, x0, rope, stream=stream)
    return out
