"""The part of a model's streaming state that is the keys and values of its attention: what readers ask of it."""

from __future__ import annotations

from dataclasses import dataclass

from golf.models.stream import StreamState

__all__ = ["AttentionState"]


@dataclass
class AttentionState:
    """State of a family that keeps more than the keys and values in ``attention``; it adds fields of its own."""

    attention: StreamState

    @property
    def chunk(self) -> int:
        """Tokens that one pass takes at most."""
        return self.attention.chunk

    @property
    def window(self) -> int:
        """Keys that a token attends to at most."""
        return self.attention.window

    @property
    def position(self) -> int:
        """Position of the next token."""
        return self.attention.position
