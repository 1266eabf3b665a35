"""Checks shared by the model configurations; each failure names the key, what was found and what was wanted."""

from __future__ import annotations

from typing import Any

from golf.errors import GolfError

__all__ = ["check_attention", "check_positive"]


def check_positive(config: Any, *names: str) -> None:
    """Raise ``ValueError`` for the first of the config's keys ``names`` that is not above zero."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise GolfError(f"{name}: found {value}, wanted more than 0")


def check_attention(width: int, heads: int, kv_heads: int) -> None:
    """Raise ``ValueError`` unless the heads divide the width, kv_heads divide the heads and the head width is even."""
    if heads < 1 or width % heads:
        raise GolfError(f"heads: found {heads}, wanted a divisor of width {width}")
    if kv_heads < 1 or heads % kv_heads:
        raise GolfError(f"kv_heads: found {kv_heads}, wanted a divisor of heads {heads}")
    if (width // heads) % 2:
        raise GolfError(f"heads: found head width {width // heads} (width / heads), wanted an even one for RoPE")
