"""One layer of the record stack, in the two halves around its attention, so that each half compiles into one graph.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``H`` query heads, ``K`` key/value heads, ``E`` head width, ``W``
channels that a gate reads. Source: openai/parameter-golf PR #1855. Rotary embedding turns the first channels of a head
only; the norms' outputs shrink with the layer's number; every head's output has a gate; matrices that write to the
stream start at zero, the others orthogonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.layers import MLP, Matrix, Rope, apply_rope, exclude_own_value, rms_norm

__all__ = [
    "Heads", "RecordBlock", "SmearGate", "attention_inputs", "lanes_layer", "mixed_skip", "partly_rotated",
    "sequential_layer",
]  # fmt: skip

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""The mixed stream (B,T,D), queries (B,H,T,E), keys and values (B,K,T,E), gates of the heads (B,H,T,1)."""


class SmearGate(nn.Module):
    """``e_t + scale * sigmoid(gate . e_t[:W]) * e_{t-1}``; the scale starts at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1, channels))
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, e: Tensor, earlier: Tensor, has_earlier: Tensor) -> Tensor:
        """``e`` and the embeddings one token ``earlier`` (B,T,D), and whether there is one (B,T) bool -> (B,T,D)."""
        gate = torch.sigmoid(F.linear(e[..., : self.gate.size(1)], self.gate.to(e.dtype)))
        return e + self.scale.to(e.dtype) * gate * has_earlier.unsqueeze(-1).to(e.dtype) * earlier


@dataclass(frozen=True)
class Heads:
    """Shape of an attention layer."""

    width: int
    count: int
    kv_count: int
    qk_gain: float
    gate_width: int  # channels that the gate of a head reads; 0: no gate
    exclusive: bool  # whether a head's output loses its projection on the token's own value


class RecordAttention(nn.Module):
    """The weights of an attention layer; ``attention_inputs`` and ``attended`` compute with them."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        width, self.head_dim = heads.width, heads.width // heads.count
        self.exclusive = heads.exclusive
        self.query = Matrix(width, width, "attention")
        self.key = Matrix(width, heads.kv_count * self.head_dim, "attention")
        self.value = Matrix(width, heads.kv_count * self.head_dim, "attention")
        self.output = Matrix(width, width, "attention")
        self.query_gain = nn.Parameter(torch.full((heads.count,), heads.qk_gain))
        # no Matrix, because these H rows are a control tensor: a few values of high precision
        self.gate = nn.Parameter(torch.zeros(heads.count, heads.gate_width)) if heads.gate_width else None
        for matrix in (self.query, self.key, self.value):
            nn.init.orthogonal_(matrix.weight)
        nn.init.zeros_(self.output.weight)

    def attended(self, y: Tensor, v: Tensor, gate: Tensor | None, scale: Tensor) -> Tensor:
        """What heads read, ``y`` (B,H,T,E), without the own value (B,K,T,E), gated, projected, scaled: (B,T,D)."""
        if self.exclusive:
            y = exclude_own_value(y, v)
        y = y.transpose(1, 2)
        if gate is not None:
            y = y * gate.transpose(1, 2)
        return self.output.scaled(y.flatten(2), scale)


class RecordBlock(nn.Module):
    """Weights of one layer: mixes with the embedding, attention, MLP, and learned scales per channel of both."""

    def __init__(self, heads: Heads, mlp_width: int, negative_slope: float, norm_eps: float) -> None:
        super().__init__()
        width, self.norm_eps = heads.width, norm_eps
        self.attention = RecordAttention(heads)
        self.mlp = MLP(width, mlp_width, negative_slope=negative_slope)
        nn.init.orthogonal_(self.mlp.input.weight)
        self.attention_scale = nn.Parameter(torch.ones(width))
        self.mlp_scale = nn.Parameter(torch.ones(width))
        self.residual_mix = nn.Parameter(torch.stack((torch.ones(width), torch.zeros(width))))

    def scaled_mlp(self, x: Tensor, scale: Tensor) -> Tensor:
        """MLP of the norm of ``x`` (B,T,D) times the layer's ``scale`` (), times the scales per channel."""
        out: Tensor = self.mlp(rms_norm(x, self.norm_eps) * scale, self.mlp_scale)
        return out


def partly_rotated(x: Tensor, rope: Rope) -> Tensor:
    """``x`` (B,T,heads,E) with its first channels rotated, two for each column of ``rope``; the others as they are."""
    turned = 2 * rope[0].size(-1)
    cos, sin = (table.unsqueeze(1) for table in rope)
    return torch.cat((apply_rope(x[..., :turned], (cos, sin)), x[..., turned:]), dim=-1)


def mixed_skip(x: Tensor, kept: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    """``x`` (B,T,D) mixed with an output of the first half, ``kept``, by ``scale`` and ``gate`` (D,)."""
    gate = torch.sigmoid(gate).to(x.dtype)
    return gate * x + (1 - gate) * scale.to(x.dtype) * kept


def attention_inputs(block: RecordBlock, x: Tensor, x0: Tensor, scale: Tensor, rope: Rope) -> Inputs:
    """The first half: ``x`` (B,T,D) mixed with the embedding ``x0``, and what attention needs of its scaled norm.

    The heads of a token lie side by side in memory, as segments of unequal length want them.
    """
    attention, eps, mix = block.attention, block.norm_eps, block.residual_mix.to(x.dtype)
    mixed = mix[0] * x + mix[1] * x0
    n = rms_norm(mixed, eps) * scale
    shape = (*n.shape[:2], -1, attention.head_dim)
    q, k, v = (f(n).view(shape) for f in (attention.query, attention.key, attention.value))
    q = partly_rotated(rms_norm(q, eps), rope) * attention.query_gain.to(q.dtype).view(-1, 1)
    k = partly_rotated(rms_norm(k, eps), rope)
    gate = None
    if attention.gate is not None:
        reads = F.linear(n[..., : attention.gate.size(1)], attention.gate.to(n.dtype))
        gate = torch.sigmoid(0.5 * reads).transpose(1, 2).unsqueeze(-1)
    return mixed, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), gate


def sequential_layer(
    block: RecordBlock, mixed: Tensor, y: Tensor, v: Tensor, gate: Tensor | None, scale: Tensor
) -> Tensor:
    """The second half in one lane: attention is added to ``mixed`` (B,T,D), and then the MLP of the sum."""
    x = mixed + block.attention.attended(y, v, gate, block.attention_scale)
    return x + block.scaled_mlp(x, scale)


def lanes_layer(
    block: RecordBlock,
    attention_lane: Tensor,
    mlp_lane: Tensor,
    y: Tensor,
    v: Tensor,
    gate: Tensor | None,
    scale: Tensor,
    carry: Tensor,
    shares: Tensor,
) -> tuple[Tensor, Tensor]:
    """The second half in two lanes (B,T,D): both new lanes, from both old ones.

    ``carry`` (2,) multiplies the lanes; ``shares`` (2,2) is how much of attention (row 0) and of the MLP (row 1) each
    lane gets.
    """
    attended = block.attention.attended(y, v, gate, block.attention_scale)
    thought = block.scaled_mlp(mlp_lane, scale)
    carry, shares = carry.to(attended.dtype), shares.to(attended.dtype)
    first = carry[0] * attention_lane + shares[0, 0] * attended + shares[1, 0] * thought
    second = carry[1] * mlp_lane + shares[0, 1] * attended + shares[1, 1] * thought
    return first, second
