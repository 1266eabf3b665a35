"""GDN-Hybrid: Gated DeltaNet blocks with a few sliding-window attention blocks between them.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``V`` vocabulary. Source: openai/parameter-golf PRs #1545 and #1681 and
their lineage, with every configured part in effect: the window bounds attention, rotary angles follow positions, the
hash embedding learns, the smear gate stops at document starts. Blocks that share weights hold none of their own: they
borrow them at every call, so each weight has one name and is stored once.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.base import LanguageModel
from golf.models.configs.gdn_hybrid import GdnHybridConfig, LayerPlan
from golf.models.delta_layer import ConvHistory, DeltaInputs, GatedDeltaNet, HybridState, SmearGate
from golf.models.gated_delta import checked_kernel, delta_rule
from golf.models.layers import MLP, Rope, activation_dtype, rms_norm, rope_tables
from golf.models.ngrams import NO_TOKEN, HashEmbedding, previous_tokens
from golf.models.sliding_attention import SlidingAttention
from golf.models.stream import StreamState, StreamStep

__all__ = ["GdnHybrid"]


class HybridBlock(nn.Module):
    """Mix with the embedding, then GDN or attention, then MLP, each added with learned per-channel scales.

    A block that shares another's attention has no ``attention`` of its own.
    """

    attention: nn.Module

    def __init__(self, config: GdnHybridConfig, index: int, plan: LayerPlan) -> None:
        super().__init__()
        width = config.width
        self.norm_eps = config.norm_eps
        if plan.kind == "gdn":
            self.attention = GatedDeltaNet(
                width,
                config.delta_heads,
                config.delta_key_dim,
                config.delta_value_dim,
                conv_size=config.conv_size,
                norm_eps=config.delta_norm_eps,
                chunk=config.delta_chunk,
                output_scale=(2 * len(config.layers)) ** -0.5,  # two additions to the stream per block
                owns_kv=plan.source == index,
            )
        elif plan.source == index:
            heads, gain = (config.heads, config.kv_heads), config.qk_gain
            self.attention = SlidingAttention(
                width, *heads, window=config.window, qk_gain=gain, norm_eps=config.norm_eps
            )
        self.mlp = MLP(width, config.mlp_width, negative_slope=config.negative_slope)
        self.attention_scale = nn.Parameter(torch.ones(width))
        self.mlp_scale = nn.Parameter(torch.ones(width))
        self.residual_mix = nn.Parameter(torch.stack((torch.ones(width), torch.zeros(width))))

    def mixed(self, x: Tensor, x0: Tensor) -> Tensor:
        """``m0 x + m1 x0``, (B,T,D)."""
        mix = self.residual_mix.to(x.dtype)
        return mix[0] * x + mix[1] * x0

    def finished(self, x: Tensor, attended: Tensor) -> Tensor:
        """``x`` (B,T,D) plus the scaled attention output, plus the scaled MLP of the norm of that."""
        x = x + self.attention_scale.to(x.dtype) * attended
        out: Tensor = x + self.mlp(rms_norm(x, self.norm_eps), self.mlp_scale)
        return out


class GdnHybrid(LanguageModel):
    """Layout-driven hybrid with float32 masters, tied head, depth always 1."""

    whole_graph = False  # the delta rule runs between the compiled parts: a loop over chunks, or foreign kernels

    def __init__(self, config: GdnHybridConfig, vocab_size: int) -> None:
        super().__init__(softcap=config.softcap)
        self.config, self.plans = config, config.layers
        self.token_embedding = nn.Parameter(torch.randn(vocab_size, config.width) * 0.005)
        self.hashes = HashEmbedding(config.hash_rows, config.hash_width, config.width) if config.hash_rows else None
        self.smear = SmearGate(config.width) if config.smear else None
        self.blocks = nn.ModuleList(HybridBlock(config, index, plan) for index, plan in enumerate(self.plans))

    def kernel(self, device: torch.device) -> tuple[bool, str]:
        rule, told = checked_kernel(device.index or 0, self.config.delta_key_dim, self.config.delta_value_dim)
        return rule is not None, told

    def hidden(self, ids: Tensor) -> Tensor:
        return self._run(ids, self._rope(torch.arange(ids.size(1), device=ids.device)), None, None)

    def new_state(self, batch: int, window: int, chunk: int = 256) -> HybridState:
        """As in the base class. The window is the model's own at most; the gdn blocks remember beyond any window."""
        config, table = self.config, self.token_embedding
        dtype, device = activation_dtype(table), table.device
        swa = sum(plan.kind == "swa" for plan in self.plans)
        gdn = len(self.plans) - swa
        head_dim = config.width // config.heads
        attention = StreamState.empty(
            swa, batch, config.kv_heads, head_dim, min(window, config.window), chunk, dtype, device
        )
        high = torch.promote_types(table.dtype, torch.float32)
        heads, keys, values = config.delta_heads, config.delta_key_dim, config.delta_value_dim

        def history(width: int) -> Tensor:
            return torch.zeros(batch, config.conv_size - 1, heads * width, dtype=dtype, device=device)

        return HybridState(
            attention,
            [torch.zeros(batch, heads, keys, values, dtype=high, device=device) for _ in range(gdn)],
            [(history(keys), history(keys), history(values)) for _ in range(gdn)],
            torch.full((batch, 2), NO_TOKEN, dtype=torch.int64, device=device),
            torch.zeros(batch, 1, config.width, dtype=dtype, device=device),
        )

    def _step(self, ids: Tensor, state: HybridState) -> Tensor:
        stream = StreamStep(state.attention, ids.size(1))
        out = self._run(ids, self._rope(stream.positions), stream, state)
        stream.finish()
        return out

    def _rope(self, positions: Tensor) -> Rope:
        config = self.config
        dtype = activation_dtype(self.token_embedding)
        return rope_tables(positions, config.width // config.heads, config.rope_base, dtype)

    def _embed(self, ids: Tensor, state: HybridState | None) -> Tensor:
        config, dtype = self.config, activation_dtype(self.token_embedding)
        before = ids.new_full((ids.size(0), 2), NO_TOKEN) if state is None else state.ids
        one, two = previous_tokens(ids, before, config.bos_id)
        x = F.embedding(ids, self.token_embedding).to(dtype)
        if self.hashes is not None:
            x = x + self.hashes(ids, one, two, dtype)
        x = rms_norm(x, config.norm_eps)
        last = torch.zeros_like(x[:, :1]) if state is None else state.embedded.to(dtype)
        if state is not None:
            state.ids, state.embedded = torch.cat((before, ids), dim=1)[:, -2:], x[:, -1:]
        return x if self.smear is None else self.smear(x, last, one != NO_TOKEN)

    def _run(self, ids: Tensor, rope: Rope, stream: StreamStep | None, state: HybridState | None) -> Tensor:
        """``ids`` (B,T) -> (B,T,D), from an empty memory or, with ``state``, from its."""
        x0 = x = self._embed(ids, state)
        attention = self.layer_function(attention_layer)
        first_half: Any = self.layer_function(cast(Any, delta_inputs))  # returns a tuple
        second_half = self.layer_function(delta_outputs)
        gdn = 0
        for block, plan in zip(self.blocks, self.plans, strict=True):
            source = cast(HybridBlock, self.blocks[plan.source]).attention
            if plan.kind == "swa":
                x = attention(block, source, x, x0, rope, stream)
                continue
            memory, history = (None, None) if state is None else (state.delta[gdn], state.convs[gdn])
            x, given, history = first_half(block, source, x, x0, history)
            q, k, v, g, beta, gate = given
            read, memory = delta_rule(q, k, v, g, beta, memory, chunk=self.config.delta_chunk)
            x = second_half(block, x, read, gate)
            if state is not None:
                state.delta[gdn], state.convs[gdn] = memory, history
            gdn += 1
        return rms_norm(x, self.config.norm_eps)


def attention_layer(
    block: HybridBlock, source: SlidingAttention, x: Tensor, x0: Tensor, rope: Rope, stream: StreamStep | None
) -> Tensor:
    """A sliding-window block with the attention weights of ``source``: ``x`` (B,T,D) -> (B,T,D)."""
    x = block.mixed(x, x0)
    return block.finished(x, source(rms_norm(x, block.norm_eps), rope, stream=stream))


def delta_inputs(
    block: HybridBlock, source: GatedDeltaNet, x: Tensor, x0: Tensor, history: ConvHistory | None
) -> tuple[Tensor, DeltaInputs, ConvHistory]:
    """A gdn block up to the delta rule: the mixed stream (B,T,D), what the rule needs, the new history."""
    x = block.mixed(x, x0)
    layer = cast(GatedDeltaNet, block.attention)
    return x, *layer.inputs(rms_norm(x, block.norm_eps), source, history)


def delta_outputs(block: HybridBlock, x: Tensor, read: Tensor, gate: Tensor) -> Tensor:
    """A gdn block from the delta rule's ``read`` (B,H,T,V) on: ``x`` (B,T,D) -> (B,T,D)."""
    return block.finished(x, cast(GatedDeltaNet, block.attention).outputs(read, gate))
