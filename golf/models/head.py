"""Softcapped cross-entropy over a tied head, in chunks of tokens, so that logits never exist whole in float32.

Shapes: ``N`` tokens, ``D`` width, ``V`` vocabulary. With ``z = h W^T`` and ``c`` the cap,
``loss = mean(logsumexp(c tanh(z/c)) - c tanh(z_y/c))`` in nats; its gradient to ``z`` is
``(softmax - onehot) * (1 - tanh(z/c)^2) / N``. The gradients to ``h`` and ``W`` are formed chunk by chunk during
the forward pass (the fused linear cross-entropy of arXiv 2410.10989), so nothing of size N x V is kept for backward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DEFAULT_ROWS", "softcapped_cross_entropy", "softcapped_logits"]

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
