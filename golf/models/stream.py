"""Streaming attention: a ring of keys and values per layer, so that each token of a text is computed once.

Every new token attends to the last ``window`` keys including its own (band attention); rotary positions just continue.
The ring has room for ``window + chunk - 1`` keys, so a chunk is written before it is attended and nothing a query
still needs is overwritten. Slot order does not matter to attention, because keys are stored already rotated.

Shapes: ``L`` attention layers, ``B`` streams, ``K`` key/value heads, ``C`` slots, ``E`` head width, ``t`` new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["StreamState", "StreamStep"]


@dataclass
class StreamState:
    """What a model with attention remembers of the tokens before: plain tensors, changed in place by ``step``."""

    keys: Tensor  # (L,B,K,C,E), normalised and rotated
    values: Tensor  # (L,B,K,C,E)
    slots: Tensor  # (C,) int64, position of the token whose key is in each slot; -1 is empty
    first: Tensor  # (B,) int64, earliest position that each stream may attend to
    position: Tensor  # () int64, position of the next token
    window: int  # keys that a token attends to at most, its own included
    chunk: int  # tokens that one pass takes at most

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
                raise ValueError(f"streaming {name}: found {size}, wanted 1 or more")
        capacity = window + chunk - 1
        shape = (layers, batch, kv_heads, capacity, head_dim)
        return cls(
            keys=torch.zeros(shape, dtype=dtype, device=device),
            values=torch.zeros(shape, dtype=dtype, device=device),
            slots=torch.full((capacity,), -1, dtype=torch.int64, device=device),
            first=torch.zeros(batch, dtype=torch.int64, device=device),
            position=torch.zeros((), dtype=torch.int64, device=device),
            window=window,
            chunk=chunk,
        )

    def reset(self, streams: Tensor) -> None:
        """Start a new text in the streams where ``streams`` (B,) bool is true: they forget all tokens so far."""
        self.first = torch.where(streams, self.position, self.first)

    def num_bytes(self) -> int:
        """Bytes of the kept keys and values."""
        return 2 * self.keys.numel() * self.keys.element_size()


class StreamStep:
    """One pass of at most ``state.chunk`` tokens; hands each attention layer, in call order, its slice of the state."""

    def __init__(self, state: StreamState, tokens: int) -> None:
        assert tokens <= state.chunk
        self.state, self.layer = state, 0
        self.positions = state.position + torch.arange(tokens, device=state.slots.device)
        self.index = self.positions % state.slots.numel()
        state.slots[self.index] = self.positions
        queries = self.positions[:, None]
        band = (state.slots <= queries) & (state.slots > queries - state.window)
        self.mask = (band[None] & (state.slots >= state.first[:, None, None])).unsqueeze(1)  # (B,1,t,C)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store ``k``, ``v`` (B,K,t,E) and attend with ``q`` (B,H,t,E) over the band. Returns (B,H,t,E)."""
        state = self.state
        keys, values = state.keys[self.layer], state.values[self.layer]
        self.layer += 1
        keys[:, :, self.index] = k.to(keys.dtype)
        values[:, :, self.index] = v.to(values.dtype)
        gqa = keys.size(1) != q.size(1)
        return F.scaled_dot_product_attention(
            q, keys.to(q.dtype), values.to(q.dtype), attn_mask=self.mask, enable_gqa=gqa
        )

    def finish(self) -> None:
        """Advance the state behind the tokens of this pass."""
        assert self.layer == self.state.keys.size(0), "the model's depth changed after new_state"
        self.state.position = self.positions[-1] + 1
