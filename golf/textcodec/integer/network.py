"""A trained model as an integer-exact network: a batched pass over a text and one-token steps give the same bits.

Everything that is summed is snapped to integers of 20 bits times a power of two first (``exact``):
the rows that enter a matrix product, the weights, queries and keys, values and softmax weights. The scale of a row of
activations comes from its own largest element, those of keys and values from bounds that the weights give, so nothing
is calibrated and nothing is clipped. Between the sums the residual stream is float64, touched only element by element.

Shapes: B streams, t tokens of a pass, D width, H query heads, K key/value heads, G = H / K, E head width, C kept keys,
V vocabulary. The models are those of ``golf.models``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.base import LanguageModel
from golf.models.block import ResidualBlock
from golf.models.depth_recurrent import DepthRecurrent
from golf.models.transformer import Transformer
from golf.textcodec.integer.exact import (
    BITS,
    LOGIT_STEPS,
    IntegerError,
    capped_logits,
    check_exact,
    normed,
    snap,
    snap_to,
    softmax_weights,
    squared,
)
from golf.textcodec.integer.kernels import attend_one
from golf.textcodec.integer.ring import KeyRing, RingPass
from golf.textcodec.integer.rotary import rotations

__all__ = ["IntegerNetwork"]

Rope = tuple[Tensor, Tensor]  # cosine and sine, each (t, 1, E/2)


class IntegerNetwork(nn.Module):
    """The streaming interface of ``golf.models.base``: ``new_state``, ``step`` and ``logits``, exact.

    Raises ``IntegerError`` for a family without an exact form, or sizes whose sums could pass 2^53.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        family = getattr(getattr(model, "config", None), "family", type(model).__name__)
        if family not in ("depth_recurrent", "transformer"):
            raise IntegerError(
                f"model.family {family} has no integer-exact network, expected depth_recurrent or transformer (its "
                "recurrent state is rounded at every step); code with arithmetic: portable"
            )
        model = cast("DepthRecurrent | Transformer", model)
        config = model.config
        self.cap = float(config.softcap)
        self._kv_heads, self._head_dim, self._base = config.kv_heads, config.width // config.heads, config.rope_base
        with torch.no_grad():
            self.head = nn.Parameter(_matrix(model.token_embedding, "token_embedding"), requires_grad=False)
            self._eps = float(config.norm_eps)
            self._embedding = _rms_norm(model.token_embedding.detach().double(), self._eps)
            self._tables = [table.detach().double() for table in getattr(model, "value_embeddings", [])]
            blocks = [_Block(cast(ResidualBlock, block), f"blocks.{i}") for i, block in enumerate(model.blocks)]
            if family == "depth_recurrent":
                self._layers = _recurrent_layers(cast("DepthRecurrent", model), blocks)
            else:
                self._layers = _flat_layers(cast("Transformer", model), blocks)

    def new_state(self, batch: int, window: int, chunk: int = 256) -> KeyRing:
        """An empty streaming state, as of ``LanguageModel.new_state``."""
        check_exact(window, BITS, BITS, what=f"window {window}")
        return KeyRing.empty(
            len(self._layers), batch, self._kv_heads, self._head_dim, window=window, chunk=chunk,
            device=self.head.device,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, ids: Tensor, state: KeyRing) -> Tensor:
        """Feed ``ids`` (B,t) int64; returns (B,t,D) float64. However the text is cut into calls: the same bits."""
        pieces = [self._pass(piece, state) for piece in ids.split(state.chunk, dim=1)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    @torch.no_grad()
    def integer_logits(self, hidden: Tensor) -> Tensor:
        """Softcapped logits (..., V) of ``hidden`` (..., D) in steps of 1 / 1024 nat, whole numbers as float64."""
        z = F.linear(snap(hidden).flatten(0, -2), self.head)
        return capped_logits(z, self.cap).view(*hidden.shape[:-1], -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """The same in nats, float32, which holds them exactly."""
        return self.integer_logits(hidden).div_(LOGIT_STEPS).float()

    def _pass(self, ids: Tensor, state: KeyRing) -> Tensor:
        stream = RingPass(state, ids.size(1))
        turns = rotations(stream.positions.cpu().numpy(), self._head_dim, self._base)
        cos, sin = (torch.from_numpy(turn).to(ids.device).unsqueeze(1) for turn in turns)
        x = x0 = F.embedding(ids, self._embedding)
        tables = [F.embedding(ids, table) for table in self._tables]
        outputs: list[Tensor] = []
        for layer in self._layers:
            if layer.loop is not None:
                x = x + layer.loop
            for scale, table in zip(layer.mixes, tables, strict=True):
                x = x + scale * table
            if layer.skip is not None:
                x = x + layer.skip[0] * outputs[layer.skip[1]]
            x = layer.block(x, x0, (cos, sin), layer.exclusive, stream)
            outputs.append(x)
        stream.finish()
        return _rms_norm(x, self._eps)


class _Block:
    """Snapped weights of one ``ResidualBlock`` and its pass."""

    def __init__(self, block: ResidualBlock, name: str) -> None:
        attention, mlp = block.attention, block.mlp
        self.heads, self.kv_heads, self.head_dim = attention.heads, attention.kv_heads, attention.head_dim
        self.norm_eps, self.slope = float(block.norm_eps), float(mlp.negative_slope)
        parts = (attention.query.weight, attention.key.weight, attention.value.weight)
        self.qkv = _matrix(torch.cat([part.detach() for part in parts]), f"{name}.attention")
        self.output = _matrix(attention.output.weight, f"{name}.attention.output")
        self.mlp_input = _matrix(mlp.input.weight, f"{name}.mlp.input")
        self.mlp_output = _matrix(mlp.output.weight, f"{name}.mlp.output")
        self.attention_scale, self.mlp_scale = (s.detach().double() for s in (block.attention_scale, block.mlp_scale))
        self.mix = block.residual_mix.detach().double()
        gain = attention.query_gain.detach().double() * (1.0 / math.sqrt(self.head_dim))
        self.gain = gain.detach().view(self.kv_heads, self.heads // self.kv_heads)
        check_exact(self.head_dim, BITS, BITS, what=f"{name}: head width {self.head_dim}")
        # a normalized head has length sqrt(E), a normalized row sqrt(D): bounds of keys and of values
        self.unit_exponent = math.ceil(math.log2(self.head_dim) / 2)
        values = self.qkv[-self.kv_heads * self.head_dim :]
        longest = float((values * values).sum(-1).max()) * values.size(1)
        self.value_exponent = math.frexp(math.sqrt(longest))[1]

    def __call__(self, x: Tensor, x0: Tensor, rope: Rope, exclusive: bool, stream: RingPass) -> Tensor:
        x = self.mix[0] * x + self.mix[1] * x0
        x = x + self.attention_scale * self._attention(x, rope, exclusive, stream)
        rows, inverse = normed(x, self.norm_eps)
        h = squared(F.linear(rows, self.mlp_input), inverse, self.slope)
        return x + self.mlp_scale * F.linear(h, self.mlp_output)

    def _attention(self, x: Tensor, rope: Rope, exclusive: bool, stream: RingPass) -> Tensor:
        batch, tokens, _ = x.shape
        rows, inverse = normed(x, self.norm_eps)
        qkv = F.linear(rows, self.qkv).mul_(inverse).view(batch, tokens, -1, self.head_dim)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        qk = snap_to(_rotate(_rms_norm(qk, self.norm_eps), rope), self.unit_exponent)
        v = snap_to(v, self.value_exponent)
        q, k, v = (part.transpose(1, 2) for part in (*qk.split((self.heads, self.kv_heads), dim=2), v))
        y = self._attend(q.unflatten(1, (self.kv_heads, -1)), k, v, stream)  # (B,K,G,t,E)
        if exclusive:
            y = _exclude(y, v.unsqueeze(2), self.value_exponent)
        y = y.flatten(1, 2).transpose(1, 2).flatten(2)
        return F.linear(snap(y), self.output)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, stream: RingPass) -> Tensor:
        """Softmax attention of ``q`` (B,K,G,t,E) over the kept keys, ``k`` and ``v`` (B,K,t,E) joining them."""
        keys, values = stream.store(k, v)
        if q.size(3) == 1 and q.device.type == "cpu":
            one, y = q[:, :, :, 0].contiguous(), torch.empty(q.shape, dtype=q.dtype)
            attend_one(
                one.numpy(), keys.numpy(), values.numpy(), self.gain.numpy(), stream.seen[:, 0].numpy(), 2.0**BITS,
                y[:, :, :, 0].numpy(),
            )  # fmt: skip
            return y
        products = torch.matmul(q.flatten(2, 3), keys.to(q.dtype).mT).unflatten(2, q.shape[2:4])
        weights, total = softmax_weights(products, self.gain, stream.seen)
        return torch.matmul(weights.flatten(2, 3), values.to(q.dtype)).unflatten(2, q.shape[2:4]).div_(total)


@dataclass(frozen=True)
class _Layer:
    """What an effective layer adds before its block: ``loop`` (D,), ``mixes`` (D,) of the value tables, and ``skip``,
    a scale (D,) with the number of the layer whose output it scales."""

    block: _Block
    exclusive: bool = False
    loop: Tensor | None = None
    mixes: tuple[Tensor, ...] = ()
    skip: tuple[Tensor, int] | None = None


def _recurrent_layers(model: DepthRecurrent, blocks: list[_Block]) -> list[_Layer]:
    exclusive, count = model.exclusive_layers(model.depth), len(blocks)
    loop, mixes, skips = (
        None if value is None else value.detach().double()
        for value in (model.loop_vectors, model.value_scales, model.cross_repeat_scales)
    )
    assert loop is not None
    layers = []
    for index in range(count * model.depth):
        repeat, b = divmod(index, count)
        skip = None if skips is None or repeat == 0 else (skips[b, repeat - 1], index - count)
        mix = () if mixes is None else tuple(mixes[index])
        layers.append(_Layer(blocks[b], index in exclusive, loop[index], mix, skip))
    return layers


def _flat_layers(model: Transformer, blocks: list[_Block]) -> list[_Layer]:
    scales, half = model.skip_scales.detach().double(), len(blocks) // 2
    layers = []
    for index, block in enumerate(blocks):
        back = index - half  # the first layer of the second half takes the last output of the first
        skip = (scales[back], half - 1 - back) if 0 <= back < model.config.skips else None
        layers.append(_Layer(block, skip=skip))
    return layers


def _matrix(weight: Tensor, name: str) -> Tensor:
    """``weight`` (O, I) with each row snapped."""
    check_exact(weight.size(1), BITS, BITS, what=f"{name} with {weight.size(1)} inputs")
    return snap(weight.detach().double())


def _rms_norm(x: Tensor, eps: float) -> Tensor:
    rows, inverse = normed(x, eps)
    return rows.mul_(inverse)


def _rotate(x: Tensor, rope: Rope) -> Tensor:
    """As ``golf.models.layers.apply_rope``, for ``x`` (B,t,heads,E)."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def _exclude(y: Tensor, v: Tensor, exponent: int) -> Tensor:
    """``y`` without its projection on the own value: ``y - (y . v / v . v) v``, both sums over grid numbers."""
    share = (snap_to(y, exponent) * v).sum(-1, keepdim=True) / (v * v).sum(-1, keepdim=True).clamp_min(1e-24)
    return y - share * v
