"""The residual block and the streaming wiring that the attention-only families share.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``H`` query heads, ``K`` key/value heads, ``E`` head width, ``t`` tokens
of one streaming pass.

Band attention over whole texts computes in one pass what a streaming pass does, without its ring of kept keys. Every
token attends to the last ``window`` keys, its own included. Queries go in blocks of half a window, each with the three
blocks of keys that hold all of theirs, under one mask: all blocks of a text are one batch of scaled-dot-product
attention over 1.5 times the keys that are needed, and no T x T mask exists. (Of blocks of 256, 128 and 64 at a window
of 256, 128 was the fastest on a CPU.)
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.base import LanguageModel
from golf.models.layers import MLP, Attention, Rope, activation_dtype, rms_norm, rope_tables
from golf.models.stream import StreamState, StreamStep

__all__ = ["AttentionModel", "BlockConfig", "ResidualBlock", "band_attention", "band_hidden"]


class BlockConfig(Protocol):
    """What blocks, their rotary tables and their memory need of a configuration."""

    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def mlp_width(self) -> int: ...
    @property
    def negative_slope(self) -> float: ...
    @property
    def qk_gain(self) -> float: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def rope_base(self) -> float: ...
    def attention_layers(self, depth: int) -> int: ...


class ResidualBlock(nn.Module):
    """Mix with the embedding, then attention, then MLP, each added with learned per-channel scales.

    ``x <- m0 x + m1 x0``, ``x <- x + s_a attention(norm(x))``, ``x <- x + s_m mlp(norm(x))``.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_eps = config.norm_eps
        self.attention = Attention(
            width, config.heads, config.kv_heads, qk_gain=config.qk_gain, norm_eps=config.norm_eps
        )
        self.mlp = MLP(width, config.mlp_width, negative_slope=config.negative_slope)
        self.attention_scale = nn.Parameter(torch.ones(width))
        self.mlp_scale = nn.Parameter(torch.ones(width))
        self.residual_mix = nn.Parameter(torch.stack((torch.ones(width), torch.zeros(width))))

    def forward(
        self, x: Tensor, x0: Tensor, rope: Rope, *, exclusive: bool = False, stream: StreamStep | None = None
    ) -> Tensor:
        """``x`` the residual stream and ``x0`` the normed embedding, both (B,T,D); returns the new residual stream."""
        mix = self.residual_mix.to(x.dtype)
        x = mix[0] * x + mix[1] * x0
        normed = rms_norm(x, self.norm_eps)
        x = x + self.attention(normed, rope, self.attention_scale, exclusive=exclusive, stream=stream)
        out: Tensor = x + self.mlp(rms_norm(x, self.norm_eps), self.mlp_scale)
        return out


class AttentionModel(LanguageModel):
    """A family whose only memory of earlier tokens is keys and values: it implements ``_run``."""

    def __init__(self, config: BlockConfig, *, softcap: float, max_depth: int = 1) -> None:
        super().__init__(softcap=softcap, max_depth=max_depth)
        self._shape = config

    @abstractmethod
    def _run(self, ids: Tensor, rope: Rope, stream: StreamStep | None) -> Tensor:
        """``ids`` (B,T) -> (B,T,D), every attention call over the pass itself or, with ``stream``, over its keys."""

    def hidden(self, ids: Tensor) -> Tensor:
        return self._run(ids, self._rope(torch.arange(ids.size(1), device=ids.device)), None)

    def new_state(self, batch: int, window: int, chunk: int = 256) -> StreamState:
        shape, table = self._shape, self.token_embedding
        head_dim, dtype = shape.width // shape.heads, activation_dtype(table)
        return StreamState.empty(
            shape.attention_layers(self.depth), batch, shape.kv_heads, head_dim, window, chunk, dtype, table.device
        )

    def _step(self, ids: Tensor, state: StreamState) -> Tensor:
        stream = StreamStep(state, ids.size(1))
        out = self._run(ids, self._rope(stream.positions), stream)
        stream.finish()
        return out

    def _rope(self, positions: Tensor) -> Rope:
        shape = self._shape
        return rope_tables(
            positions, shape.width // shape.heads, shape.rope_base, activation_dtype(self.token_embedding)
        )


def band_attention(q: Tensor, k: Tensor, v: Tensor, window: int, *, block: int = 0) -> Tensor:
    """Attention of ``q`` (B,H,T,E) over the last ``window`` keys of ``k``, ``v`` (B,K,T,E); returns (B,H,T,E).

    ``block`` queries share their keys (0: half a window); it changes speed and rounding only.
    """
    batch, heads, tokens, width = q.shape
    gqa, block = k.size(1) != heads, block or -(-window // 2)
    reach = -(-(window - 1) // block) * block  # earlier keys given to a block: whole blocks that hold the window
    start = min(tokens, max(reach, block))
    first = _masked(q[:, :, :start], k[:, :, :start], v[:, :, :start], 0, window, gqa)
    if start == tokens:
        return first
    missing = -(tokens - start) % block  # behind the text, where no query of it looks
    keys, values = (
        F.pad(x[:, :, start - reach :], (0, 0, 0, missing)).unfold(2, reach + block, block).mT for x in (k, v)
    )
    queries = F.pad(q[:, :, start:], (0, 0, 0, missing)).unflatten(2, (-1, block))
    queries, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (queries, keys, values))
    rest = _masked(queries, keys, values, reach, window, gqa)
    rest = rest.unflatten(0, (batch, -1)).transpose(1, 2).reshape(batch, heads, -1, width)
    return torch.cat([first, rest], dim=2)[:, :, :tokens]


def _masked(q: Tensor, k: Tensor, v: Tensor, before: int, window: int, gqa: bool) -> Tensor:
    """Attention under a band mask when the first query is ``before`` places behind the first key."""
    query = torch.arange(q.size(2), device=q.device)[:, None] + before
    key = torch.arange(k.size(2), device=q.device)
    mask = (key <= query) & (key > query - window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=gqa)


class _Band:
    """Stands where a ``StreamStep`` does, for texts that begin with this pass and end with it."""

    def __init__(self, window: int) -> None:
        self.window = window

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Band attention over the pass itself."""
        return band_attention(q, k, v, self.window)


def band_hidden(model: AttentionModel, ids: Tensor, window: int) -> Tensor:
    """Hidden states (B,T,D) of ``ids`` (B,T), each text from its first token on, as a streaming pass gives them."""
    rope = model._rope(torch.arange(ids.size(1), device=ids.device))
    return model._run(ids, rope, cast(StreamStep, _Band(window)))
