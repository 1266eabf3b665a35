"""The one definition of bits per byte in this repository."""

from __future__ import annotations

import math

from golf.base.errors import GolfError

__all__ = ["bits_per_byte"]


def bits_per_byte(total_nats: float, num_bytes: int) -> float:
    """Bits per byte of UTF-8 text: ``total_nats / ln 2 / num_bytes``.

    ``total_nats`` is the summed negative log-likelihood (nats) of every scored token, ``num_bytes`` the UTF-8 length
    of the very text those tokens decode to (never a table's guess: see the byte ledger in ``golf.data.byte_table``).
    Raises ``GolfError`` when there is no text or the code length is not a finite number >= 0.
    """
    if num_bytes <= 0:
        raise GolfError(f"bits per byte of {num_bytes} bytes of text is undefined; the text must not be empty")
    if not (math.isfinite(total_nats) and total_nats >= 0.0):
        raise GolfError(f"total_nats is {total_nats}; a code length is a finite number >= 0")
    return total_nats / math.log(2.0) / num_bytes
