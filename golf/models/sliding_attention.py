"""Attention over the last ``window`` tokens only, in time linear in the text.

Shapes: ``B`` batch, ``H`` query heads, ``G`` key/value heads, ``T`` tokens, ``E`` head width, ``W`` window, ``N``
blocks. A token attends to itself and the ``W - 1`` tokens before it (the same band as ``golf.models.stream``). The
text is cut into blocks of W queries, each of which reads its own block and the one before. Source: arXiv 2004.05150.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.models.layers import Attention, causal_attention

__all__ = ["SlidingAttention", "window_attention"]


def window_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Softmax attention of ``q`` (B,H,T,E) over the last ``window`` of ``k``, ``v`` (B,G,T,E) -> (B,H,T,E)."""
    batch, heads, tokens, width = q.shape
    if tokens <= window:
        return causal_attention(q, k, v)
    padding = -tokens % window
    q, k, v = (F.pad(x, (0, 0, 0, padding)).unflatten(2, (-1, window)).transpose(1, 2) for x in (q, k, v))
    k, v = (torch.cat((F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], x), dim=3) for x in (k, v))  # (B,N,G,2W,E)
    rows = torch.arange(window, device=q.device)[:, None]
    columns = torch.arange(2 * window, device=q.device)[None, :]
    band = (columns > rows) & (columns <= rows + window)
    blocks = torch.arange(q.size(1), device=q.device)[:, None, None]
    mask = band & ((blocks > 0) | (columns >= window))  # no block before the first
    mask = mask[:, None].repeat(batch, 1, 1, 1)  # (B*N,1,W,2W)
    y = F.scaled_dot_product_attention(
        q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=mask, enable_gqa=k.size(2) != heads
    )
    return y.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)[:, :, :tokens]


class SlidingAttention(Attention):
    """``Attention`` whose tokens see the last ``window`` tokens. Input and output (B,T,D)."""

    def __init__(self, width: int, heads: int, kv_heads: int, *, window: int, qk_gain: float, norm_eps: float) -> None:
        super().__init__(width, heads, kv_heads, qk_gain=qk_gain, norm_eps=norm_eps)
        self.window = window

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Banded, over the pass itself; the window of a stream's kept keys must be ours or less."""
        return window_attention(q, k, v, self.window)
