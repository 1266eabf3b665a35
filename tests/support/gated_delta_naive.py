"""The gated delta rule token by token: the definition that the fast form is tested against. Far too slow to train with.

Shapes: ``B`` batch, ``H`` heads, ``T`` tokens, ``K`` key width, ``V`` value width. Source: arXiv 2412.06464.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["naive_delta_rule"]


def naive_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The arguments and results of ``chunked_delta_rule``: decay, predict, correct, read, one token at a time."""
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.size(-1), v.size(-1))
    outputs = []
    for t in range(q.size(2)):
        state = g[:, :, t, None, None].exp() * state
        predicted = (state * k[:, :, t, :, None]).sum(-2)
        correction = beta[:, :, t, None] * (v[:, :, t] - predicted)
        state = state + k[:, :, t, :, None] * correction[:, :, None, :]
        outputs.append((state * q[:, :, t, :, None]).sum(-2) * q.size(-1) ** -0.5)
    return torch.stack(outputs, 2), state
