"""Kept keys and values in a ring of slots: with exact sums their order does not matter, so nothing is ever moved.

The ring has room for ``window + chunk - 1`` keys, so a pass writes its keys before it attends and overwrites none that
one of its queries still needs.

Shapes: L attention layers, B streams, K key/value heads, C slots, E head width, t tokens of a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KeyRing", "RingPass"]


@dataclass
class KeyRing:
    """What the network remembers of the tokens before; changed in place. float32 holds snapped numbers exactly."""

    keys: Tensor  # (L,B,K,C,E) float32, normalized, rotated, snapped
    values: Tensor  # (L,B,K,C,E) float32, snapped
    slots: Tensor  # (C,) int64, position of the token whose key is in each slot; -1 is empty
    first: Tensor  # (B,) int64, earliest position that each stream may attend to
    window: int  # keys that a token attends to at most, its own included
    chunk: int  # tokens that one pass takes at most
    position: int = 0  # of the next token

    @classmethod
    def empty(
        cls, layers: int, batch: int, kv_heads: int, head_dim: int, *, window: int, chunk: int, device: torch.device
    ) -> KeyRing:
        """A state before the first token. Raises ``ValueError`` for sizes below 1."""
        for name, size in (("batch", batch), ("window", window), ("chunk", chunk)):
            if size < 1:
                raise ValueError(f"streaming {name}: found {size}, expected 1 or more")
        shape = (layers, batch, kv_heads, window + chunk - 1, head_dim)
        return cls(
            keys=torch.zeros(shape, device=device),
            values=torch.zeros(shape, device=device),
            slots=torch.full((shape[3],), -1, dtype=torch.int64, device=device),
            first=torch.zeros(batch, dtype=torch.int64, device=device),
            window=window,
            chunk=chunk,
        )

    def reset(self, streams: Tensor) -> None:
        """Start a new text in the streams where ``streams`` (B,) bool is true: they forget all tokens so far."""
        self.first = torch.where(streams, self.position, self.first)


class RingPass:
    """One pass of at most ``ring.chunk`` tokens: their ``positions`` (t,) and what each may see, ``seen`` (B,t,C)."""

    def __init__(self, ring: KeyRing, tokens: int) -> None:
        assert tokens <= ring.chunk
        self.ring, self.layer = ring, 0
        self.positions = torch.arange(ring.position, ring.position + tokens, device=ring.slots.device)
        self._index = self.positions % ring.slots.numel()
        ring.slots[self._index] = self.positions
        queries = self.positions[:, None]
        band = (ring.slots <= queries) & (ring.slots > queries - ring.window)
        self.seen = band[None] & (ring.slots >= ring.first[:, None, None])

    def store(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep ``k`` and ``v`` (B,K,t,E) of the next layer; all keys and values of that layer (B,K,C,E)."""
        keys, values = self.ring.keys[self.layer], self.ring.values[self.layer]
        self.layer += 1
        keys[:, :, self._index], values[:, :, self._index] = k.to(keys.dtype), v.to(values.dtype)
        return keys, values

    def finish(self) -> None:
        """Advance the ring behind the tokens of this pass."""
        assert self.layer == self.ring.keys.size(0), "every layer has stored its keys"
        self.ring.position += len(self.positions)
