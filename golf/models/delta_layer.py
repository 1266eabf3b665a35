"""A Gated DeltaNet layer: projections, short causal convolutions, gates, the delta rule, gated norm, output.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``H`` heads, ``K`` key width, ``V`` value width, ``S`` taps of the
convolutions. Source: arXiv 2412.06464 and the layer of flash-linear-attention 0.4.2. No rotary or other positions:
order comes from the convolutions and the recurrence. The layer comes in two halves around the delta rule, so that
each half compiles into one graph without the loop over chunks. Beside it: the memory of a model of such layers.

The smear gate of modded-nanogpt, by which a token knows of the one before it; the first token of a document takes
nothing from the document before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.attention_state import AttentionState
from golf.models.gated_delta import delta_rule
from golf.models.layers import Matrix
from golf.models.ngrams import NO_TOKEN

__all__ = ["ConvHistory", "DeltaInputs", "GatedDeltaNet", "HybridState", "SmearGate", "causal_conv"]


class SmearGate(nn.Module):
    """``(1 - s) x_t + s x_{t-1}``, with ``s = sigmoid(gate)`` per channel, 1/2 at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, before: Tensor, has_previous: Tensor) -> Tensor:
        """``x`` (B,T,D), ``before`` (B,1,D) the vector before the first, ``has_previous`` (B,T) bool -> (B,T,D)."""
        share = torch.sigmoid(self.gate).to(x.dtype) * has_previous.unsqueeze(-1).to(x.dtype)
        return x + share * (torch.cat((before, x[:, :-1]), dim=1) - x)


ConvHistory = tuple[Tensor, Tensor, Tensor]
"""The last S - 1 projected queries, keys and values before the first token: (B,S-1,H*K) twice and (B,S-1,H*V)."""


class DeltaInputs(NamedTuple):
    """What the first half hands to the delta rule and to the second half."""

    q: Tensor  # (B,H,T,K), unit length
    k: Tensor  # (B,H,T,K), unit length
    v: Tensor  # (B,H,T,V)
    g: Tensor  # (B,H,T) float32, log of the decay
    beta: Tensor  # (B,H,T) float32, write strength
    gate: Tensor  # (B,T,H*V)


def causal_conv(x: Tensor, weight: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
    """SiLU of a depthwise convolution over ``x`` (B,T,C) and the S - 1 inputs before it; and the new history.

    ``weight`` (C,S), the last tap on the token itself; ``history`` (B,S-1,C), None for zeros.
    """
    taps, tokens = weight.size(1), x.size(1)
    padded = F.pad(x, (0, 0, taps - 1, 0)) if history is None else torch.cat((history.to(x.dtype), x), dim=1)
    weight = weight.to(x.dtype)
    out = weight[:, 0] * padded[:, :tokens]
    for tap in range(1, taps):
        out = out + weight[:, tap] * padded[:, tap : tap + tokens]
    return F.silu(out), padded[:, tokens:]


def _unit(x: Tensor) -> Tensor:
    """``x`` (..., K) divided by its length, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class GatedDeltaNet(nn.Module):
    """One layer; with ``owns_kv`` false its key and value weights are another layer's, given at every call."""

    def __init__(
        self,
        width: int,
        heads: int,
        key_dim: int,
        value_dim: int,
        *,
        conv_size: int,
        norm_eps: float,
        chunk: int,
        output_scale: float,
        owns_kv: bool = True,
    ) -> None:
        """``output_scale`` multiplies the default initialization of the output projection."""
        super().__init__()
        self.heads, self.key_dim, self.value_dim = heads, key_dim, value_dim
        self.norm_eps, self.chunk = norm_eps, chunk
        self.query = Matrix(width, heads * key_dim, "attention")
        self.gate = Matrix(width, heads * value_dim, "attention")
        self.output = Matrix(heads * value_dim, width, "attention")
        self.query_conv = _conv_weight(heads * key_dim, conv_size)
        if owns_kv:
            self.key = Matrix(width, heads * key_dim, "attention")
            self.value = Matrix(width, heads * value_dim, "attention")
            self.key_conv = _conv_weight(heads * key_dim, conv_size)
            self.value_conv = _conv_weight(heads * value_dim, conv_size)
        bound = width**-0.5
        # no Matrix, because these 2 x H rows are control tensors: a few values of high precision
        self.decay_weight = nn.Parameter(torch.empty(heads, width).uniform_(-bound, bound))
        self.write_weight = nn.Parameter(torch.empty(heads, width).uniform_(-bound, bound))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1.0, 16.0).log())
        step = torch.empty(heads).uniform_(math.log(0.001), math.log(0.1)).exp().clamp(min=1e-4)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus(dt_bias) = step
        self.norm_gain = nn.Parameter(torch.ones(value_dim))
        with torch.no_grad():
            self.output.weight.mul_(output_scale)

    def inputs(self, x: Tensor, source: GatedDeltaNet, history: ConvHistory | None) -> tuple[DeltaInputs, ConvHistory]:
        """The first half, ``x`` (B,T,D); ``source`` holds the key and value weights (``self`` when it owns them)."""
        before = (None, None, None) if history is None else history
        q, new_q = causal_conv(self.query(x), self.query_conv, before[0])
        k, new_k = causal_conv(source.key(x), source.key_conv, before[1])
        v, new_v = causal_conv(source.value(x), source.value_conv, before[2])
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        high = torch.promote_types(x.dtype, torch.float32)
        beta = torch.sigmoid(F.linear(x, self.write_weight).to(high))
        speed = F.softplus(F.linear(x, self.decay_weight).to(high) + self.dt_bias.to(high))
        g = -self.A_log.to(high).exp() * speed
        gates = (g.transpose(1, 2), beta.transpose(1, 2))
        return DeltaInputs(_unit(q), _unit(k), v, *gates, self.gate(x)), (new_q, new_k, new_v)

    def outputs(self, read: Tensor, gate: Tensor) -> Tensor:
        """The second half: what the delta rule ``read`` (B,H,T,V), normed per head, times SiLU(gate), projected."""
        normed = F.rms_norm(read, (self.value_dim,), self.norm_gain.to(read.dtype), self.norm_eps)
        gated = normed.transpose(1, 2).flatten(2).to(gate.dtype) * F.silu(gate)
        out: Tensor = self.output(gated)
        return out

    def forward(self, x: Tensor, source: GatedDeltaNet | None = None) -> Tensor:
        """Both halves over a whole text ``x`` (B,T,D) -> (B,T,D)."""
        given, _ = self.inputs(x, source or self, None)
        read, _ = delta_rule(given.q, given.k, given.v, given.g, given.beta, chunk=self.chunk)
        return self.outputs(read, given.gate)


def _conv_weight(channels: int, taps: int) -> nn.Parameter:
    bound = taps**-0.5  # the default of a depthwise nn.Conv1d
    return nn.Parameter(torch.empty(channels, taps).uniform_(-bound, bound))


@dataclass
class HybridState(AttentionState):
    """What a hybrid model remembers of the tokens before: of the same size however long the text is.

    ``attention`` and ``window`` are those of the swa blocks.
    """

    delta: list[Tensor]  # per gdn block (B,H,K,V), float32
    convs: list[ConvHistory]  # per gdn block
    ids: Tensor  # (B,2) int64, the last two tokens; -1 is none
    embedded: Tensor  # (B,1,D), the last token's embedding before the smear gate

    def reset(self, streams: Tensor) -> None:
        """Start a new text in the streams where ``streams`` (B,) bool is true: they forget all tokens so far."""
        self.attention.reset(streams)
        self.ids = self.ids.masked_fill(streams[:, None], NO_TOKEN)
        empty = streams[:, None, None]
        self.delta = [state.masked_fill(empty[..., None], 0.0) for state in self.delta]
        self.convs = [(q.masked_fill(empty, 0.0), k.masked_fill(empty, 0.0), v.masked_fill(empty, 0.0))
                      for q, k, v in self.convs]  # fmt: skip

    def num_bytes(self) -> int:
        """Bytes of all that is kept."""
        tensors = [*self.delta, *(x for history in self.convs for x in history), self.ids, self.embedded]
        return self.attention.num_bytes() + sum(x.numel() * x.element_size() for x in tensors)
