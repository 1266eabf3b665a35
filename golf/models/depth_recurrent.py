"""Depth-recurrent model: a few physical blocks applied R times, told apart by small per-depth tables.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``V`` vocabulary, ``P`` physical blocks, ``R`` repeats; effective layer
``l = P * r + b``. Source: openai/parameter-golf PR #895 and its lineage. Each effective layer adds its loop embedding,
then learned mixes of token-indexed value tables, then a scaled copy of what the same block left in the residual stream
one repeat before, and only then runs the block. All tables are allocated for the full R; a shallower phase uses the
first P * r rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.block import AttentionModel, ResidualBlock
from golf.models.configs.depth_recurrent import DepthRecurrentConfig
from golf.models.layers import Rope, activation_dtype, rms_norm
from golf.models.stream import StreamStep

__all__ = ["DepthRecurrent"]


class DepthRecurrent(AttentionModel):
    """The model of PR #895 with float32 masters for every tensor and one explicit RMSNorm eps everywhere."""

    tables = ("token_embedding", "value_embeddings")

    def __init__(self, config: DepthRecurrentConfig, vocab_size: int) -> None:
        super().__init__(config, softcap=config.softcap, max_depth=config.repeats)
        self.config = config
        width, blocks, repeats = config.width, config.blocks, config.repeats
        layers = blocks * repeats
        self.token_embedding = nn.Parameter(torch.randn(vocab_size, width) * 0.005)
        self.value_embeddings = nn.ParameterList(
            nn.Parameter(torch.randn(vocab_size, width)) for _ in range(config.value_tables)
        )
        self.loop_vectors = nn.Parameter(torch.zeros(layers, width))
        tables, skips = config.value_tables, repeats - 1 if config.cross_repeat_skip else 0
        self.value_scales = nn.Parameter(torch.zeros(layers, tables, width)) if tables else None
        self.cross_repeat_scales = nn.Parameter(torch.zeros(blocks, skips, width)) if skips else None
        self.blocks = nn.ModuleList(ResidualBlock(config) for _ in range(blocks))

    def exclusive_layers(self, depth: int) -> range:
        """Effective layers that run exclusive self-attention when ``depth`` repeats are in use: the last ones."""
        layers = self.config.blocks * depth
        return range(max(0, layers - self.config.xsa_last), layers)

    def _run(self, ids: Tensor, rope: Rope, stream: StreamStep | None) -> Tensor:
        config, dtype = self.config, activation_dtype(self.token_embedding)
        x0 = rms_norm(F.embedding(ids, self.token_embedding).to(dtype), config.norm_eps)
        tables = [F.embedding(ids, table).to(dtype) for table in self.value_embeddings]
        loop = self.loop_vectors.to(dtype)
        mixes = None if self.value_scales is None else self.value_scales.to(dtype)
        skips = None if self.cross_repeat_scales is None else self.cross_repeat_scales.to(dtype)
        exclusive = self.exclusive_layers(self.depth)
        layer_function = self.layer_function(effective_layer)
        x = x0
        before: list[Tensor] = []  # the residual stream after the last layers, of one repeat at most
        for layer in range(config.blocks * self.depth):
            repeat, b = divmod(layer, config.blocks)
            mix = None if mixes is None else mixes[layer]
            skip = None if skips is None or repeat == 0 else (skips[b, repeat - 1], before[0])
            x = layer_function(self.blocks[b], x, x0, loop[layer], mix, tables, skip, rope, layer in exclusive, stream)
            before = [*before, x][-config.blocks :]
        return rms_norm(x, config.norm_eps)


def effective_layer(
    block: nn.Module,
    x: Tensor,
    x0: Tensor,
    loop: Tensor,
    mix: Tensor | None,
    tables: list[Tensor],
    skip: tuple[Tensor, Tensor] | None,
    rope: Rope,
    exclusive: bool,
    stream: StreamStep | None,
) -> Tensor:
    """Depth-specific additions, then the shared block: ``x`` (B,T,D) -> (B,T,D).

    ``loop`` (D,) is added; ``mix`` (tables, D) scales the looked-up ``tables``; ``skip`` is a scale (D,) and what the
    same block returned one repeat before (B,T,D).
    """
    x = x + loop
    if mix is not None:
        for scale, table in zip(mix, tables, strict=True):
            x = x + scale * table
    if skip is not None:
        x = x + skip[0] * skip[1]
    out: Tensor = block(x, x0, rope, exclusive=exclusive, stream=stream)
    return out
