"""Streaming attention: the keys and values of the last tokens are kept per layer, so each token is computed once.

Every new token attends to the last ``window`` keys including its own (band attention); rotary positions just continue.
Keys lie in the order of the text, new ones behind the old; where room ends the last ones move to the front. Queries go
in blocks of ``BLOCK``: each reads the one slice of ``window + BLOCK`` keys that holds all of theirs. So a chunk of any
length costs ``(window + BLOCK) / window`` of the attention that is needed, where one mask over window and chunk costs
``(window + chunk) / window``.

Shapes: ``L`` attention layers, ``B`` streams, ``K`` key/value heads, ``C`` slots, ``E`` head width, ``t`` new tokens,
``b`` queries of a block, ``n`` keys that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BLOCK", "StreamState", "StreamStep"]

BLOCK = 128
_ALIGN = 16  # slots; so the keys of every stream begin at whole cache lines, whatever the chunk


@dataclass
class StreamState:
    """What a model with attention remembers of the tokens before; changed in place by ``step``.

    Slot ``i`` below ``filled`` holds the key of token ``position - filled + i``.
    """

    keys: Tensor  # (L,B,K,C,E), normalized and rotated
    values: Tensor  # (L,B,K,C,E)
    band: Tensor  # (BLOCK or less, window + as many): 0 where a query of a block sees a key, -inf elsewhere
    first: Tensor  # (B,) int64, earliest position that each stream may attend to
    window: int  # keys that a token attends to at most, its own included
    chunk: int  # tokens that one pass takes at most
    position: int = 0  # of the next token
    filled: int = 0  # slots in use
    resets: bool = False  # whether ``first`` says anything

    @classmethod
    def empty(
        cls,
        layers: int,
        batch: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        chunk: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> StreamState:
        """A state before the first token. Raises ``ValueError`` for sizes below 1."""
        for name, size in (("batch", batch), ("window", window), ("chunk", chunk)):
            if size < 1:
                raise ValueError(f"streaming {name}: found {size}, expected 1 or more")
        capacity = window + max(chunk, window // 2)  # half a window of room: moves cost at most two copies of a key
        shape = (layers, batch, kv_heads, -(-capacity // _ALIGN) * _ALIGN, head_dim)
        queries = torch.arange(min(BLOCK, chunk), device=device)[:, None]
        keys = torch.arange(window + queries.numel(), device=device)
        hidden = (keys <= queries) | (keys > queries + window)
        return cls(
            keys=torch.zeros(shape, dtype=dtype, device=device),
            values=torch.zeros(shape, dtype=dtype, device=device),
            band=torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill(hidden, -torch.inf),
            first=torch.zeros(batch, dtype=torch.int64, device=device),
            window=window,
            chunk=chunk,
        )

    def reset(self, streams: Tensor) -> None:
        """Start a new text in the streams where ``streams`` (B,) bool is true: they forget all tokens so far."""
        self.first = torch.where(streams, self.position, self.first)
        self.resets = True

    def num_bytes(self) -> int:
        """Bytes of the kept keys and values."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def make_room(self, tokens: int) -> None:
        """Move the last ``window`` keys to the front unless ``tokens`` slots are free behind the last."""
        if self.filled + tokens <= self.keys.size(3):
            return
        kept = self.window
        for kind in (self.keys, self.values):
            kind[:, :, :, :kept] = kind[:, :, :, self.filled - kept : self.filled].clone()
        self.filled = kept


class StreamStep:
    """One pass of at most ``state.chunk`` tokens; hands each attention layer, in call order, its slice of the state."""

    def __init__(self, state: StreamState, tokens: int) -> None:
        assert tokens <= state.chunk
        state.make_room(tokens)
        self.state, self.tokens, self.layer = state, tokens, 0
        self.positions = torch.arange(state.position, state.position + tokens, device=state.keys.device)
        rows = state.band.size(0)
        self.blocks = [self._block(begin, min(begin + rows, tokens)) for begin in range(0, tokens, rows)]

    def _block(self, begin: int, end: int) -> tuple[slice, slice, Tensor | None]:
        """Queries ``begin`` to ``end - 1`` of the pass: which they are, the slots of their keys, and their mask."""
        state = self.state
        lone = end - begin == 1
        before = min(state.filled + begin, state.window - lone)  # keys ahead; one too many, for kernels like even sizes
        slots = slice(state.filled + begin - before, state.filled + end)
        mask = None  # a lone query sees all of its keys
        if not lone:
            mask = state.band[: end - begin, state.window - before :][:, : before + end - begin]
        if state.resets:
            seen = torch.arange(slots.start, slots.stop, device=state.first.device) + (state.position - state.filled)
            forgotten = (seen < state.first[:, None])[:, None, None]  # (B,1,1,n)
            mask = (state.band.new_zeros(()) if mask is None else mask).masked_fill(forgotten, -torch.inf)
        return slice(begin, end), slots, mask

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store ``k``, ``v`` (B,K,t,E) and attend with ``q`` (B,H,t,E) over the band. Returns (B,H,t,E)."""
        state = self.state
        keys, values = state.keys[self.layer], state.values[self.layer]
        self.layer += 1
        new = slice(state.filled, state.filled + self.tokens)
        keys[:, :, new], values[:, :, new] = k, v
        pieces = [
            _attend(q[:, :, block], keys[:, :, slots], values[:, :, slots], mask) for block, slots, mask in self.blocks
        ]
        if len(pieces) == 1:
            return pieces[0]
        out = q.new_empty(q.size(0), q.size(2), q.size(1), q.size(3)).transpose(1, 2)  # in the order of the tokens
        for (block, _, _), piece in zip(self.blocks, pieces, strict=True):
            out[:, :, block] = piece
        return out

    def finish(self) -> None:
        """Advance the state behind the tokens of this pass."""
        state = self.state
        assert self.layer == state.keys.size(0), "the model's depth changed after new_state"
        state.position, state.filled = state.position + self.tokens, state.filled + self.tokens


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    mask = mask if mask is None else mask.to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask, enable_gqa=k.size(1) != q.size(1)
    )
