"""Band attention over whole texts in one pass: what a streaming pass computes, without its ring of kept keys.

Every token attends to the last ``window`` keys, its own included. Queries go in blocks of ``window``: block i sees keys
of blocks i - 1 and i under one mask, so all blocks of a text are one batch of scaled-dot-product attention with twice
the keys that are needed, and no T x T mask exists. For devices that want few large operations.

Shapes: ``B`` texts, ``T`` tokens, ``D`` width, ``H`` query heads, ``K`` key/value heads, ``E`` head width.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.models.block import AttentionModel
from golf.models.stream import StreamStep

__all__ = ["band_attention", "band_hidden"]


def band_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention of ``q`` (B,H,T,E) over the last ``window`` keys of ``k``, ``v`` (B,K,T,E); returns (B,H,T,E)."""
    batch, heads, tokens, width = q.shape
    gqa = k.size(1) != heads
    if tokens <= window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    first = F.scaled_dot_product_attention(
        q[:, :, :window], k[:, :, :window], v[:, :, :window], is_causal=True, enable_gqa=gqa
    )
    missing = -tokens % window  # behind the text, where no query of it looks
    q, k, v = (F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, window)) for x in (q, k, v))
    keys, values = (torch.cat([x[:, :, :-1], x[:, :, 1:]], dim=3) for x in (k, v))
    query = torch.arange(window, device=q.device)[:, None] + window
    key = torch.arange(2 * window, device=q.device)
    mask = (key <= query) & (key > query - window)
    q, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (q[:, :, 1:], keys, values))
    rest = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=gqa)
    rest = rest.unflatten(0, (batch, -1)).transpose(1, 2).reshape(batch, heads, -1, width)
    return torch.cat([first, rest], dim=2)[:, :, :tokens]


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
