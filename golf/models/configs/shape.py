"""What the configurations of models made of attention and MLP have in common."""

from __future__ import annotations

from golf.base.errors import GolfError

__all__ = ["Shape", "check_table"]


class Shape:
    """Base of a configuration: its checks, and what a token costs in the blocks, for the plan of a training."""

    width: int
    heads: int
    kv_heads: int
    mlp_ratio: float

    def __post_init__(self) -> None:
        """Raise ``GolfError`` unless heads divide the width, kv_heads the heads, the head width is even and the MLP has
        channels."""
        width, heads, kv_heads = self.width, self.heads, self.kv_heads
        if width % heads:
            raise GolfError(f"heads: found {heads}, expected a divisor of width {width}")
        if heads % kv_heads:
            raise GolfError(f"kv_heads: found {kv_heads}, expected a divisor of heads {heads}")
        if (width // heads) % 2:
            raise GolfError(f"heads: found head width {width // heads} (width / heads), expected an even one for RoPE")
        if self.mlp_width < 1:
            raise GolfError(f"mlp_ratio: found {self.mlp_ratio}, expected at least 1 / width")

    @property
    def mlp_width(self) -> int:
        """Hidden channels of the MLP."""
        return round(self.width * self.mlp_ratio)

    @property
    def attention_weights(self) -> int:
        """Values of the matrices of one attention."""
        return 2 * self.width * (self.width + self.kv_heads * (self.width // self.heads))

    @property
    def mlp_weights(self) -> int:
        """Values of the matrices of one MLP."""
        return 2 * self.width * self.mlp_width

    def attention_layers(self, depth: int) -> int:
        """Attention calls of one pass over the whole text when what repeats does so ``depth`` times."""
        raise NotImplementedError

    def applied_weights(self, depth: int) -> int:
        """Values of matrices that one token is multiplied with in the blocks."""
        return self.attention_layers(depth) * (self.attention_weights + self.mlp_weights)


def check_table(hash_rows: int, hash_width: int) -> None:
    """Raise ``GolfError`` for parameters of a table of n-grams that cannot be; 0 rows are none."""
    if hash_rows == 1:
        raise GolfError(f"hash_rows: found {hash_rows}, expected 0 (no hash embedding) or at least 2")
    if hash_rows and hash_width < 1:
        raise GolfError(f"hash_width: found {hash_width}, expected at least 1")
