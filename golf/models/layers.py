"""Building blocks of the language models: plain functions and small modules, no family-specific wiring.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``H`` query heads, ``K`` key/value heads, ``E`` head width (D / H),
``M`` MLP width. Sources: RMSNorm arXiv 1910.07467; RoPE arXiv 2104.09864 (half-split pairing); GQA arXiv 2305.13245;
exclusive self-attention arXiv 2603.09078 (grouped form of openai/parameter-golf PR #265); squared ReLU
arXiv 2109.08668, leaky form of openai/parameter-golf PR #895; logit softcap arXiv 2408.00118.

Softcapped cross-entropy over a tied head, in chunks of tokens, so that logits never exist whole in float32.

Shapes: ``N`` tokens, ``D`` width, ``V`` vocabulary. With ``z = h W^T`` and ``c`` the cap,
``loss = mean(logsumexp(c tanh(z/c)) - c tanh(z_y/c))`` in nats; its gradient to ``z`` is
``(softmax - onehot) * (1 - tanh(z/c)^2) / N``. The gradients to ``h`` and ``W`` are formed chunk by chunk during
the forward pass (the fused linear cross-entropy of arXiv 2410.10989), so nothing of size N x V is kept for backward.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.stream import StreamStep

__all__ = [
    "Attention", "DEFAULT_ROWS", "MLP", "Matrix", "Role", "Rope", "activation_dtype", "apply_rope", "causal_attention",
    "exclude_own_value", "leaky_relu_squared", "rms_norm", "rope_tables", "softcap", "softcapped_cross_entropy",
    "softcapped_logits",
]  # fmt: skip

DEFAULT_ROWS = 2048  # tokens per chunk: 8 MiB of float32 logits at 1,024 pieces


def softcapped_logits(hidden: Tensor, weight: Tensor, cap: float) -> Tensor:
    """Float32 logits (..., V) of ``hidden`` (..., D) against the embedding table ``weight`` (V, D)."""
    return cap * torch.tanh(F.linear(hidden, weight).float() / cap)


def softcapped_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, rows: int = DEFAULT_ROWS
) -> Tensor:
    """Mean nats per token, a float32 scalar, of ``targets`` (N,) int64 under ``hidden`` (N,D) and ``weight`` (V,D).

    ``rows`` tokens are turned into logits at a time. The mean is over all N tokens, whatever ``rows`` is.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _FusedHead.apply(hidden, weight, targets, cap, rows)
        return loss
    total = hidden.new_zeros((), dtype=torch.float32)
    for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
        total = total + F.cross_entropy(softcapped_logits(h, weight, cap), y, reduction="sum")
    return total / targets.numel()


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float, rows: int) -> Tensor:
        count = targets.numel()
        table = weight.to(hidden.dtype)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_weight = torch.zeros_like(weight)
        grad_hidden = []
        for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
            squashed = F.linear(h, table).float().div_(cap).tanh_()
            log_probs = F.log_softmax(squashed * cap, dim=-1)
            total = total - log_probs.gather(1, y[:, None]).sum()
            slope = _slope(log_probs, squashed, y, count).to(h.dtype)
            grad_hidden.append(slope @ table)
            grad_weight += (slope.t() @ h).to(weight.dtype)
        ctx.save_for_backward(torch.cat(grad_hidden), grad_weight)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (scale,) = grad_outputs
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * scale.to(grad_hidden.dtype), grad_weight * scale.to(grad_weight.dtype), None, None, None


def _slope(log_probs: Tensor, squashed: Tensor, y: Tensor, count: int) -> Tensor:
    """Gradient of the loss to the logits before the cap, ``(softmax - onehot) (1 - squashed^2) / count``.

    Both arguments are overwritten: passes over N x V numbers are what this head costs. A graph that is being compiled
    fuses them by itself, but not a scatter.
    """
    if torch.compiler.is_compiling():
        onehot = torch.arange(log_probs.size(1), device=y.device) == y[:, None]
        return (log_probs.exp() - onehot.float()) * (1 - squashed.square()) / count
    slope = log_probs.exp_()
    slope.scatter_(1, y[:, None], slope.gather(1, y[:, None]) - 1)
    return slope.mul_(squashed.square_().neg_().add_(1)).div_(count)


Rope = tuple[Tensor, Tensor]
Role = Literal["embedding", "attention", "mlp", "control"]


class Matrix(nn.Linear):
    """``x W^T`` without bias; ``role`` is what W (outputs, inputs) is to the optimizer and the quantizer."""

    def __init__(self, inputs: int, outputs: int, role: Role) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.role: Role = role

    def scaled(self, x: Tensor, scale: Tensor) -> Tensor:
        """``scale`` (outputs,) times ``x W^T``.

        Compiled, the rows of W are scaled instead: then no pass over all outputs scales their gradient, and the
        gradient to ``scale`` is a sum over W's.
        """
        if torch.compiler.is_compiling():
            return F.linear(x, scale[:, None] * self.weight)
        out: Tensor = scale.to(x.dtype) * self(x)
        return out


def activation_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of the residual stream: autocast's when autocast is on for this device, else the parameter's own."""
    kind = parameter.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parameter.dtype


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide the last axis by its root mean square, without gain: ``x / sqrt(mean(x^2) + eps)``, in ``x``'s dtype.

    ``eps`` is always given: the library default once depended on dtype and version, and so on train or eval.
    """
    return F.rms_norm(x, (x.size(-1),), eps=eps).to(x.dtype)


def rope_tables(positions: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> Rope:
    """Cosine and sine, each (T, E/2), for integer ``positions`` (T,).

    Angles are taken in float64, because a streamed text has positions beyond what float32 resolves. An operator of its
    own, because a compiler otherwise takes those sines again in every kernel that reads them.
    """
    cos, sin = _rope_tables(positions, head_dim, base, dtype)
    return cos, sin


@torch.library.custom_op(
    "golf::rope_tables",
    mutates_args=(),
    schema="(Tensor positions, int head_dim, float base, ScalarType dtype) -> (Tensor, Tensor)",
)
def _rope_tables(positions: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> Rope:
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    angles = positions.to(torch.float64)[:, None] * torch.pow(base, -exponent)[None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


@_rope_tables.register_fake
def _(positions: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> Rope:
    shape = len(positions), (head_dim + 1) // 2
    return positions.new_empty(shape, dtype=dtype), positions.new_empty(shape, dtype=dtype)


def apply_rope(x: Tensor, rope: Rope) -> Tensor:
    """Rotate ``x`` (..., T, E): channel i of the first half is paired with channel i of the second half."""
    cos, sin = rope
    other = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return x * torch.cat((cos, cos), dim=-1) + other * torch.cat((sin, -sin), dim=-1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention of ``q`` (B,H,T,E) over ``k``, ``v`` (B,K,T,E); head h reads group ``h // (H // K)``."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.size(1) != q.size(1))


def exclude_own_value(y: Tensor, v: Tensor) -> Tensor:
    """Exclusive self-attention: remove from ``y`` (B,H,T,E) its projection on the token's own value ``v`` (B,K,T,E)."""
    batch, heads, tokens, width = y.shape
    groups = v.size(1)
    if torch.compiler.is_compiling():  # all of it over tokens, heads, channels: one kernel where five would pass over y
        wide = y.transpose(1, 2).unflatten(2, (groups, heads // groups)).float()
        own = v.transpose(1, 2).unsqueeze(3).expand_as(wide).float()
        share = (wide * own).sum(-1, keepdim=True) / own.square().sum(-1, keepdim=True).clamp_min(1e-24)
        return (wide - share * own).flatten(2, 3).to(y.dtype).transpose(1, 2)
    unit = F.normalize(v.float(), dim=-1, eps=1e-12).to(y.dtype).unsqueeze(2)
    grouped = y.reshape(batch, groups, heads // groups, tokens, width)
    projection = (grouped * unit).sum(dim=-1, keepdim=True) * unit
    return (grouped - projection).reshape(batch, heads, tokens, width)


def leaky_relu_squared(x: Tensor, negative_slope: float) -> Tensor:
    """``leaky_relu(x)^2``; the square makes the negative side positive. Slope 0 is the plain squared ReLU."""
    return F.leaky_relu(x, negative_slope).square() if negative_slope else F.relu(x).square()


def softcap(z: Tensor, cap: float) -> Tensor:
    """Squash logits smoothly into (-cap, cap): ``cap * tanh(z / cap)``."""
    return cap * torch.tanh(z / cap)


class Attention(nn.Module):
    """Grouped-query attention with per-head RMS-normalized, rotated, gained queries and optional XSA.

    Input and output (B,T,D). The output projection starts at zero, so a new block is the identity.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, *, qk_gain: float, norm_eps: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.norm_eps = heads, kv_heads, width // heads, norm_eps
        self.query = Matrix(width, width, "attention")
        self.key = Matrix(width, kv_heads * self.head_dim, "attention")
        self.value = Matrix(width, kv_heads * self.head_dim, "attention")
        self.output = Matrix(width, width, "attention")
        self.query_gain = nn.Parameter(torch.full((heads,), qk_gain))
        nn.init.zeros_(self.output.weight)

    def forward(
        self,
        x: Tensor,
        rope: Rope,
        scale: Tensor | None = None,
        *,
        exclusive: bool = False,
        stream: StreamStep | None = None,
    ) -> Tensor:
        """Attend causally over ``x``, or, with ``stream``, over the stream's kept keys and ``x``'s own.

        ``scale`` (D,) multiplies the channels of the output.
        """
        batch, tokens, width = x.shape
        q = self.query(x).view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        k = self.key(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.value(x).view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        q = apply_rope(rms_norm(q, self.norm_eps), rope) * self.query_gain.to(q.dtype).view(1, -1, 1, 1)
        k = apply_rope(rms_norm(k, self.norm_eps), rope)
        y = self.attend(q, k, v) if stream is None else stream.attend(q, k, v)
        if exclusive:
            y = exclude_own_value(y, v)
        y = y.transpose(1, 2).reshape(batch, tokens, width)
        out: Tensor = self.output(y) if scale is None else self.output.scaled(y, scale)
        return out

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention (B,H,T,E) over the pass itself, which is a whole text."""
        return causal_attention(q, k, v)


class MLP(nn.Module):
    """``scale * output(leaky_relu(input(x))^2)``; the output projection starts at zero. Input and output (B,T,D)."""

    def __init__(self, width: int, hidden: int, *, negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.input = Matrix(width, hidden, "mlp")
        self.output = Matrix(hidden, width, "mlp")
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """``scale`` (D,) multiplies the channels."""
        return self.output.scaled(leaky_relu_squared(self.input(x), self.negative_slope), scale)
