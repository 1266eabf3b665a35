"""Binary arithmetic coder and the alphabetic tree that turns integers into binary decisions.

``n`` leaves. The coder is carry-less with 32-bit bounds and 16-bit probabilities (Mahoney, PAQ1/lpaq); its state is
four int64: low, high, code (decoder only), position. The encoder writes four closing bytes, so the decoder reads
exactly all bytes, and no others, of an undamaged stream.

The tree asks ``value >= threshold?`` and halves the weight of a discretized normal distribution at each node: about
one bit of information per decision, 3.4 of them for a 3.3-bit source, where unary codes need far more.

Integer tables replace libm: decoding has to give the same integers on any machine, so no float may touch a probability.
The three curves a context mixer needs (logistic, its inverse, and the normal distribution) are computed once with
``decimal``, whose ``exp`` and ``ln`` are correctly rounded by specification, and rounded to integers.

Formats: ``Qk`` is a fixed-point number with ``k`` fractional bits. Logits are Q8 and clipped to [-2047, 2047];
probabilities are Q16 inside [1, 65535].
Source: stretch/squash mixing of PAQ (Mahoney 2005, "Adaptive weighing of context models"), wider tables.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.base.jit import part, step

__all__ = [
    "CDF_BITS", "CDF_LIMIT", "CDF_STEPS", "EXACT", "SPREADS", "build_tree", "code_bit", "code_escape", "finish",
    "narrow", "normal_cdf", "spreads", "squash_table", "start", "stretch_table",
]  # fmt: skip

CDF_BITS = 28  # Q28 probabilities in the normal table
CDF_STEPS = 128  # table steps per standard deviation
CDF_LIMIT = 8  # the table covers [-8, 8] standard deviations
EXACT = Context(prec=24, rounding=ROUND_HALF_EVEN)


@lru_cache(maxsize=1)
def stretch_table() -> np.ndarray:
    """Logit of the middle of each 12-bit probability cell: int16 (4096,), Q8, in [-2047, 2047]."""
    with localcontext(EXACT):
        half = [int((256 * (Decimal(2 * i + 1) / (8191 - 2 * i)).ln()).to_integral_value()) for i in range(2048)]
    low = np.clip(np.array(half), -2047, 2047)
    return np.concatenate([low, -low[::-1]]).astype(np.int16)


@lru_cache(maxsize=1)
def squash_table() -> np.ndarray:
    """Logistic of a Q8 logit, at index ``logit + 2048``: int32 (4096,), Q16."""
    with localcontext(EXACT):
        high = [int((65536 / (1 + (-Decimal(s) / 256).exp())).to_integral_value()) for s in range(2048)]
    upper = np.array(high)
    lower = 65536 - np.concatenate([upper[1:], upper[-1:]])[::-1]
    return np.concatenate([lower, upper]).astype(np.int32)


@lru_cache(maxsize=1)
def normal_cdf() -> np.ndarray:
    """Standard normal distribution function: int32 (2 * CDF_LIMIT * CDF_STEPS + 1,), Q28.

    Entry ``i`` is at ``z = i / CDF_STEPS - CDF_LIMIT``; Simpson's rule on correctly rounded densities.
    """
    steps = CDF_LIMIT * CDF_STEPS
    with localcontext(EXACT):
        density = [(-Decimal(i * i) / (8 * CDF_STEPS**2)).exp() for i in range(2 * steps + 1)]
        cells = [density[2 * i] + 4 * density[2 * i + 1] + density[2 * i + 2] for i in range(steps)]
        total, running, half = sum(cells), Decimal(0), [1 << (CDF_BITS - 1)]
        for cell in cells:
            running += cell
            half.append((1 << (CDF_BITS - 1)) + int((running / total * (1 << (CDF_BITS - 1))).to_integral_value()))
    upper = np.array(half)
    return np.concatenate([(1 << CDF_BITS) - upper[:0:-1], upper]).astype(np.int32)


SPREADS = 33  # codes of the tree's standard deviation: 2^((code - 8) / 4), 0.25 to 64


@lru_cache(maxsize=1)
def spreads() -> NDArray[np.int64]:
    """Standard deviation of each spread code, Q8: int64 (SPREADS,)."""
    with localcontext(EXACT):
        return np.array([int((256 * Decimal(2) ** (Decimal(c - 8) / 4)).to_integral_value()) for c in range(SPREADS)])


@lru_cache(maxsize=64)
def build_tree(spread: int, below: int, above: int) -> NDArray[np.int32]:
    """The weight-balanced alphabetic tree over the integers ``-below .. above`` for a normal of mean 0.

    Nodes (n - 1, 3) int32: threshold, left and right child; a child ``-1 - leaf`` is a leaf.
    """
    values = np.arange(-below, above + 1, dtype=np.int64)
    edges = ((2 * np.arange(-below, above + 2, dtype=np.int64) - 1) * (128 * CDF_STEPS)) // spreads()[spread]
    cdf = normal_cdf().astype(np.int64)
    weights = np.diff(cdf[np.clip(edges + CDF_LIMIT * CDF_STEPS, 0, len(cdf) - 1)])
    weights += (1 << 14) // (1 + np.abs(values)) + 1  # tails heavier than normal, and never zero
    sums = np.concatenate([[0], np.cumsum(weights)])
    nodes = len(values) - 1
    tree = np.zeros((nodes, 3), np.int32)
    spans = [(0, len(values))]
    for node in range(nodes):  # breadth first, so that nodes often visited share cache lines
        a, b = spans[node]
        split = a + 1 + int(np.argmin(np.abs(2 * sums[a + 1 : b] - sums[a] - sums[b])))
        tree[node, 0] = split - below
        for side, (x, y) in ((1, (a, split)), (2, (split, b))):
            if y - x == 1:
                tree[node, side] = -1 - x
            else:
                tree[node, side] = len(spans)
                spans.append((x, y))
    tree.flags.writeable = False
    return tree


@part
def start(coder: NDArray[np.int64], data: NDArray[np.uint8], decoding: bool) -> None:
    """Set the coder's state (4,); the decoder reads its first four bytes."""
    coder[0], coder[1], coder[2], coder[3] = 0, 0xFFFFFFFF, 0, 0
    if decoding:
        for i in range(4):
            coder[2] = (coder[2] << 8) | (np.int64(data[i]) if i < len(data) else 0)
        coder[3] = 4


@step
def narrow(
    low: Any, middle: Any, high: Any, code: Any, position: Any, data: Any, decoding: bool, bit: Any
) -> tuple[Any, Any, Any, Any]:
    """Bounds, code and position after ``bit`` (1 takes low .. middle); bytes settled are written or read.

    A decoder past the end of ``data`` reads zeros: its caller checks the position.
    """
    low += (middle + 1 - low) * (1 - bit)
    high = high + (middle - high) * bit
    while (low ^ high) >> 24 == 0:
        if decoding:
            byte = np.int64(data[position]) if position < len(data) else np.int64(0)
            code = ((code << 8) & 0xFFFFFFFF) | byte
        else:
            data[position] = high >> 24
        position += 1
        low = (low << 8) & 0xFFFFFFFF
        high = ((high << 8) & 0xFFFFFFFF) | 255
    return low, high, code, position


@part
def code_bit(coder: NDArray[np.int64], data: NDArray[np.uint8], decoding: bool, bit: Any, p16: Any) -> Any:
    """Code one decision with probability ``p16`` (Q16, of a one); returns the bit, which the decoder finds out."""
    low, high, code, position = coder[0], coder[1], coder[2], coder[3]
    middle = low + (((high - low) * p16) >> 16)
    if decoding:
        bit = 1 if code <= middle else 0
    coder[0], coder[1], coder[2], coder[3] = narrow(low, middle, high, code, position, data, decoding, bit)
    return bit


@part
def finish(coder: NDArray[np.int64], data: NDArray[np.uint8]) -> Any:
    """Write the closing bytes of an encoder; returns the number of bytes written in all."""
    value, position = coder[0], coder[3]
    for i in range(4):
        data[position + i] = (value >> (24 - 8 * i)) & 255
    return position + 4


@part
def code_escape(coder: NDArray[np.int64], data: NDArray[np.uint8], decoding: bool, value: Any) -> Any:
    """Code ``value`` >= 0 (the distance beyond the tree) as an Elias gamma code of ``value + 1``, plain bits."""
    value += 1
    length = 0
    while length < 32 and code_bit(coder, data, decoding, 1 if value >> (length + 1) else 0, 32768):
        length += 1
    result = np.int64(1)
    for i in range(length - 1, -1, -1):
        result = (result << 1) | code_bit(coder, data, decoding, (value >> i) & 1, 32768)
    return result - 1
