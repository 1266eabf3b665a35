"""Band attention over whole texts in one pass: what a streaming pass computes, without its ring of kept keys.

Every token attends to the last ``window`` keys, its own included. Queries go in blocks of half a window, each with the
three blocks of keys that hold all of theirs, under one mask: all blocks of a text are one batch of scaled-dot-product
attention over 1.5 times the keys that are needed, and no T x T mask exists. (Of blocks of 256, 128 and 64 at a window
of 256, 128 was the fastest on a CPU.)

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
