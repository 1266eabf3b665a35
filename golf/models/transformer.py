"""Flat transformer: the challenge's naive baseline, nine layers with U-Net skips.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width. Source: openai/parameter-golf baseline (a modded-nanogpt form). The
first half of the layers keeps its outputs; the second half takes them back last-in first-out, times learned channel
weights. Squared-ReLU MLP, GQA with normed and gained queries, one mix with the embedding per block, tied head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.base.params import Gain, Gt, Layers, Le, Positive, Size
from golf.models.base import check_shape
from golf.models.block import AttentionModel, ResidualBlock
from golf.models.layers import Rope, activation_dtype, rms_norm
from golf.models.stream import StreamStep

__all__ = ["Transformer", "TransformerConfig"]


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a ``Transformer``; meaning and units of each key are in conf/model/transformer_512.yaml.

    The strict loader names a wrong key, what was found and what was expected.
    """

    family: Literal["transformer"]
    width: Size
    layers: Layers
    heads: Size
    kv_heads: Size
    mlp_ratio: Annotated[float, Gt(0), Le(64)]
    unet_skips: bool
    negative_slope: Gain
    softcap: Positive
    rope_base: Positive
    qk_gain: Gain
    norm_eps: Positive

    def __post_init__(self) -> None:
        check_shape(self)

    @property
    def mlp_width(self) -> int:
        """Hidden channels of the MLP."""
        return round(self.width * self.mlp_ratio)

    @property
    def skips(self) -> int:
        """Connections from the first half of the layers to the second."""
        return self.layers // 2 if self.unet_skips else 0


class Transformer(AttentionModel):
    """Encoder half, decoder half with skips, tied head; depth is always 1."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__(config, softcap=config.softcap)
        self.config = config
        self.token_embedding = nn.Parameter(torch.randn(vocab_size, config.width) * 0.005)
        self.skip_scales = nn.Parameter(torch.ones(config.skips, config.width))
        self.blocks = nn.ModuleList(ResidualBlock(config) for _ in range(config.layers))

    @property
    def attention_layers(self) -> int:
        return self.config.layers

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
