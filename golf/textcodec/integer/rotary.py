"""Rotary tables from a fixed construction: the same bits for a position whatever positions are asked for with it.

Cosine and sine of ``2^b theta_i`` come from decimal arithmetic of 50 digits; a position's rotation is the product of
those of its binary digits, lowest first, by elementwise float64 multiplications and additions.

Shapes: T positions, E head width. Source: RoPE, arXiv 2104.09864 (``theta_i = base^(-2i/E)``).
"""

from __future__ import annotations

import decimal
from functools import lru_cache

import numpy as np

__all__ = ["rotations"]

_PI = decimal.Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628621")
_DIGITS = 31  # binary digits of a position


def rotations(positions: np.ndarray, head_dim: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine (T, E/2) float64 of the angles of ``positions`` (T,) int64, 0 to 2^31 - 1."""
    highest = int(positions.max(initial=0))
    assert int(positions.min(initial=0)) >= 0 and highest < 1 << _DIGITS, "positions are those of one text"
    cos, sin = np.ones((len(positions), head_dim // 2)), np.zeros((len(positions), head_dim // 2))
    for digit in range(highest.bit_length()):
        c, s = _digit_rotation(head_dim, base, digit)
        turned = cos * c - sin * s, sin * c + cos * s
        has = ((positions >> digit) & 1).astype(bool)[:, None]
        cos, sin = np.where(has, turned[0], cos), np.where(has, turned[1], sin)
    return cos, sin


@lru_cache(maxsize=8 * _DIGITS)
def _digit_rotation(head_dim: int, base: float, digit: int) -> np.ndarray:
    """(2, E/2): cosine and sine of 2^digit theta_i."""
    with decimal.localcontext(prec=60):
        log_base = decimal.Decimal(base).ln()
        thetas = [(-log_base * (2 * i) / head_dim).exp() for i in range(head_dim // 2)]
        return np.array([_cos_sin(theta * (1 << digit)) for theta in thetas]).T.copy()


def _cos_sin(angle: decimal.Decimal) -> tuple[float, float]:
    """Cosine and sine to the nearest float64, by their power series at the angle brought within a half turn."""
    angle = angle.remainder_near(2 * _PI)
    sums, term, n = [decimal.Decimal(0), decimal.Decimal(0)], decimal.Decimal(1), 0
    while abs(term) > decimal.Decimal("1e-40") or n < 4:
        sums[n % 2] += -term if n % 4 > 1 else term
        n += 1
        term = term * angle / n
    return float(sums[0]), float(sums[1])
