"""The decoders that other people train: Llama, Qwen2 and Qwen3, GPT-2, GPT-NeoX by one configuration.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``H`` query heads, ``K`` key/value heads, ``E`` head width, ``M`` MLP
width, ``V`` vocabulary, ``P`` learned positions. A block is ``x <- x + attention(norm(x))``, ``x <- x + mlp(norm(x))``,
or with ``parallel`` ``x <- x + attention(norm(x)) + mlp(norm'(x))``. Weights come from ``golf.imports``; nothing is
trained here. Sources: Llama arXiv 2302.13971, Qwen3 arXiv 2505.09388, GPT-2 (Radford et al. 2019), GPT-NeoX arXiv
2204.06745, RoPE arXiv 2104.09864 with the scaling of Llama 3.1 (arXiv 2407.21783).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.base.errors import GolfError
from golf.base.params import Ge, Layers, Le, NonNegative, Positive, Size
from golf.models.base import LanguageModel
from golf.models.layers import Matrix, Role, Rope, activation_dtype, apply_rope, causal_attention
from golf.models.stream import StreamState, StreamStep

__all__ = ["Decoder", "DecoderConfig", "RopeScaling", "frequencies"]

_HEAD_ROWS = 256  # tokens turned into logits at a time: 200 MiB of float32 at 200,000 pieces


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretch of slow rotations: those of fewer turns than ``low`` in ``original`` tokens go ``factor`` times
    slower, those of more than ``high`` stay."""

    factor: Positive
    low: Positive
    high: Positive
    original: Size


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a ``Decoder``; ``golf.imports`` makes it from the origin's own configuration."""

    family: Literal["decoder"]
    width: Size
    layers: Layers
    heads: Size
    kv_heads: Size
    head_dim: Size
    mlp_width: Size
    norm: Literal["rms", "layer"]  # RMSNorm with a gain, or LayerNorm with gain and bias
    norm_eps: NonNegative
    mlp: Literal["swiglu", "gelu", "gelu_tanh"]
    positions: Annotated[int, Ge(0), Le(1 << 20)]  # P learned positions; 0: rotary
    rope_base: Positive
    rope_dims: Annotated[int, Ge(0), Le(1 << 16)]  # channels of a head that turn; 0: none
    rope_scaling: RopeScaling | None
    parallel: bool  # attention and MLP read the same stream
    qk_norm: bool  # RMSNorm of every head's queries and keys
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tied: bool  # the head is the token table

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: found {self.kv_heads}, expected a divisor of heads {self.heads}")
        if self.rope_dims % 2 or self.rope_dims > self.head_dim:
            raise ValueError(f"rope_dims: found {self.rope_dims}, expected an even number up to {self.head_dim}")

    def attention_layers(self, depth: int) -> int:
        """Attention calls of one pass."""
        return self.layers

    def applied_weights(self, depth: int) -> int:
        """Values of matrices that one token is multiplied with in the blocks."""
        heads, mlp = 2 * (self.heads + self.kv_heads) * self.head_dim, 3 if self.mlp == "swiglu" else 2
        return self.layers * self.width * (heads + mlp * self.mlp_width)


class Norm(nn.Module):
    """``x / rms(x) * weight``, or LayerNorm where there is a ``bias``; in the dtype of ``x``."""

    def __init__(self, width: int, kind: str, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        wide, shape = x.float(), (x.size(-1),)
        if self.bias is None:
            return F.rms_norm(wide, shape, self.weight, self.eps).to(x.dtype)
        return F.layer_norm(wide, shape, self.weight, self.bias, self.eps).to(x.dtype)


class Biased(Matrix):
    """``x W^T + b``; ``b`` is a control tensor."""

    def __init__(self, inputs: int, outputs: int, role: Role, bias: bool) -> None:
        super().__init__(inputs, outputs, role)
        self.shift = Shift(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.shift is None else y + self.shift.bias.to(y.dtype)


class Shift(nn.Module):
    """A bias (outputs,), apart from its matrix so that the two have roles of their own."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))


class DecoderAttention(nn.Module):
    """Grouped-query attention over ``x`` (B,T,D), or over a stream's kept keys and ``x``'s own."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        inner, shared, width = config.heads * config.head_dim, config.kv_heads * config.head_dim, config.width
        self.query = Biased(width, inner, "attention", config.qkv_bias)
        self.key = Biased(width, shared, "attention", config.qkv_bias)
        self.value = Biased(width, shared, "attention", config.qkv_bias)
        self.output = Biased(inner, width, "attention", config.output_bias)
        self.query_norm = Norm(config.head_dim, "rms", config.norm_eps) if config.qk_norm else None
        self.key_norm = Norm(config.head_dim, "rms", config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, rope: Rope, stream: StreamStep | None) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            matrix(x).view(batch, tokens, -1, self.config.head_dim).transpose(1, 2)
            for matrix in (self.query, self.key, self.value)
        )
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k = self._turned(q, rope), self._turned(k, rope)
        y = causal_attention(q, k, v) if stream is None else stream.attend(q, k, v)
        out: Tensor = self.output(y.transpose(1, 2).reshape(batch, tokens, -1))
        return out

    def _turned(self, x: Tensor, rope: Rope) -> Tensor:
        dims = self.config.rope_dims
        if dims == x.size(-1):
            return apply_rope(x, rope)
        return torch.cat((apply_rope(x[..., :dims], rope), x[..., dims:]), -1) if dims else x


class DecoderMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))`` or ``down(gelu(up(x)))``; input and output (B,T,D)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.kind, inner, bias = config.mlp, config.mlp_width, config.mlp_bias
        self.gate = Biased(config.width, inner, "mlp", bias) if config.mlp == "swiglu" else None
        self.up = Biased(config.width, inner, "mlp", bias)
        self.down = Biased(inner, config.width, "mlp", bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            inner = F.silu(self.gate(x)) * self.up(x)
        else:
            inner = F.gelu(self.up(x), approximate="tanh" if self.kind == "gelu_tanh" else "none")
        out: Tensor = self.down(inner)
        return out


class DecoderBlock(nn.Module):
    """Attention and MLP, each behind its norm, added one after the other or both to the same stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.parallel = config.parallel
        self.attention_norm = Norm(config.width, config.norm, config.norm_eps)
        self.attention = DecoderAttention(config)
        self.mlp_norm = Norm(config.width, config.norm, config.norm_eps)
        self.mlp = DecoderMLP(config)

    def forward(self, x: Tensor, rope: Rope, stream: StreamStep | None = None) -> Tensor:
        attended = x + self.attention(self.attention_norm(x), rope, stream)
        out: Tensor = attended + self.mlp(self.mlp_norm(x if self.parallel else attended))
        return out


class Decoder(LanguageModel):
    """A causal decoder without softcap; depth is always 1."""

    tables = ("token_embedding", "position_embedding")

    def __init__(self, config: DecoderConfig, vocab_size: int) -> None:
        super().__init__(softcap=0.0)
        self.config = config
        self.token_embedding = _table(vocab_size, config.width)
        if config.positions:
            self.position_embedding = _table(config.positions, config.width)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = Norm(config.width, config.norm, config.norm_eps)
        self.head = None if config.tied else Matrix(config.width, vocab_size, "embedding")

    @property
    def head_table(self) -> Tensor:
        """The table (V, D) that makes logits of hidden states."""
        return self.token_embedding if self.head is None else self.head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.head_table.to(hidden.dtype)).float()

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        hidden, wanted = self.hidden(ids).flatten(0, -2), targets.flatten()
        total = hidden.new_zeros((), dtype=torch.float32)
        for h, y in zip(hidden.split(_HEAD_ROWS), wanted.split(_HEAD_ROWS), strict=True):
            total = total + F.cross_entropy(self.logits(h), y, reduction="sum")
        return total / wanted.numel()

    def hidden(self, ids: Tensor) -> Tensor:
        x = self.embedded(ids)
        for layer in self.layer_calls(ids.size(1)):
            x = layer(x)
        return self.final(x)

    def embedded(self, ids: Tensor) -> Tensor:
        """The stream (B,T,D) that enters the first block, of ``ids`` (B,T) from position 0 on."""
        return self._embedded(ids, torch.arange(ids.size(1), device=ids.device))

    def layer_calls(self, tokens: int) -> list[Callable[[Tensor], Tensor]]:
        """The blocks one by one, each from stream (B,T,D) to stream, for texts of ``tokens`` tokens from position 0."""
        rope = self._rope(torch.arange(tokens, device=self.token_embedding.device))
        return [lambda x, block=block: block(x, rope) for block in self.blocks]  # type: ignore[misc]

    def final(self, x: Tensor) -> Tensor:
        """Hidden states (B,T,D) of the stream behind the last block."""
        out: Tensor = self.norm(x)
        return out

    def new_state(self, batch: int, window: int, chunk: int = 256) -> StreamState:
        config, table = self.config, self.token_embedding
        shape = (config.layers, batch, config.kv_heads, config.head_dim, window, chunk)
        return StreamState.empty(*shape, activation_dtype(table), table.device)

    def _step(self, ids: Tensor, state: StreamState) -> Tensor:
        stream = StreamStep(state, ids.size(1))
        x, rope = self._embedded(ids, stream.positions), self._rope(stream.positions)
        for block in self.blocks:
            x = block(x, rope, stream)
        stream.finish()
        return self.final(x)

    def _embedded(self, ids: Tensor, positions: Tensor) -> Tensor:
        x = F.embedding(ids, self.token_embedding)
        if self.config.positions:
            if int(positions[-1]) >= self.config.positions:
                raise GolfError(f"window: found {int(positions[-1]) + 1} tokens, expected at most the "
                                f"{self.config.positions} positions that this model learned")  # fmt: skip
            x = x + self.position_embedding[positions]
        return x.to(activation_dtype(self.token_embedding))

    def _rope(self, positions: Tensor) -> Rope:
        """Cosine and sine (T, dims/2); the sine is negated, for these models turn the other way than ours."""
        dtype = activation_dtype(self.token_embedding)
        angles = positions.to(torch.float64)[:, None] * frequencies(self.config, positions.device)
        return angles.cos().to(dtype), -angles.sin().to(dtype)


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, width) * 0.02)


def frequencies(config: DecoderConfig, device: torch.device | None = None, *, scaled: bool = True) -> Tensor:
    """Radians per token, float64 (rope_dims/2,); with ``scaled`` after ``rope_scaling``, where there is one."""
    steps = torch.arange(0, config.rope_dims, 2, dtype=torch.float64, device=device) / max(config.rope_dims, 1)
    found = torch.pow(config.rope_base, -steps)
    scaling = config.rope_scaling
    if scaling is None or not scaled:
        return found
    turns = scaling.original * found / (2 * math.pi)
    share = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)  # 1: as it was
    return found * (share + (1 - share) / scaling.factor)
