"""Range coder for one symbol at a time, each with its own whole distribution: what text coding needs.

A distribution becomes integer frequencies ``floor(p_v (2^b - V)) + 1``, the remainder goes to the most likely symbol;
they sum to ``2^b`` exactly and none is 0. The coder keeps a 64-bit ``low`` and a 64-bit ``range`` that never falls
below 2^32, writes 32-bit words and carries into words already written. Interval bounds are ``floor(range * cum / 2^b)``
without rounding ``range / 2^b`` first; 64-bit integers are enough.

Shapes: V symbols. Source: Martin, "Range encoding" (1979); the carry is that of Subbotin's public domain coder.
"""

from __future__ import annotations

import numpy as np

from golf.base.errors import GolfError
from golf.base.jit import kernel

__all__ = ["DEFAULT_BITS", "RangeDecoder", "RangeEncoder", "RangeError", "frequencies"]

DEFAULT_BITS = 24
MAX_BITS = 30
SUM_TOLERANCE = 1e-5
STRIPPED_WORDS = 2  # zero words that a code may lack at its end
_WORD = np.uint64(32)
_BOTTOM = np.uint64(1 << 32)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)


class RangeError(GolfError):
    """A row is no distribution, or a code is damaged."""


def frequencies(probs: np.ndarray, *, bits: int = DEFAULT_BITS, out: np.ndarray | None = None) -> np.ndarray:
    """Integer frequencies (V,) uint64 of ``probs`` (V,) float64, each at least 1, together ``2^bits``.

    Only additions in index order: the same row gives the same integers everywhere. ``out`` is reused when given.
    Raises ``RangeError`` for NaN, a negative number, or a sum further than 1e-5 from 1; ``bits`` must be 1 to 30 and
    leave room for a count for each symbol.
    """
    if not (1 <= bits <= MAX_BITS and len(probs) <= 1 << (bits - 1)):
        raise RangeError(
            f"frequencies: {bits} bits for {len(probs)} symbols, expected at most {MAX_BITS} bits and "
            "at least one more than the symbols fill"
        )
    counts = np.empty(len(probs), np.uint64) if out is None else out
    if counts.shape != probs.shape:  # the kernel writes as many as it reads
        raise RangeError(f"frequencies: {counts.shape} counts for probabilities {probs.shape}, expected equal shapes")
    total = _quantize(np.ascontiguousarray(probs, dtype=np.float64), np.int64(bits), counts)
    if not abs(total - 1.0) <= SUM_TOLERANCE:
        raise RangeError(
            f"frequencies: the row of {len(probs)} probabilities sums to {total}, expected 1; "
            "a negative or undefined entry gives nan"
        )
    return counts


@kernel
def _quantize(probs, bits, counts):  # type: ignore[no-untyped-def]
    """Fill ``counts``; the sum of ``probs``, or NaN when an entry is no probability."""
    size = len(probs)
    free = float((np.int64(1) << bits) - size)
    total, used, best = 0.0, np.int64(0), 0
    for v in range(size):
        p = probs[v]
        if not (p >= 0.0 and p <= 1.001):
            return np.nan
        count = np.int64(p * free) + 1
        counts[v] = np.uint64(count)
        used += count
        total += p
        if p > probs[best]:
            best = v
    # A sum a little above 1 makes the remainder negative; the most likely symbol has far more than that.
    rest = np.int64(counts[best]) + (np.int64(1) << bits) - used
    if rest < 1:
        return np.nan
    counts[best] = np.uint64(rest)
    return total


@kernel
def _scaled(width, cumulative, bits):  # type: ignore[no-untyped-def]
    """floor(width * cumulative / 2^bits), exact in 64 bits because cumulative <= 2^bits <= 2^30."""
    low = width & ((np.uint64(1) << bits) - np.uint64(1))
    return (width >> bits) * cumulative + ((low * cumulative) >> bits)


@kernel
def _carry(words, count):  # type: ignore[no-untyped-def]
    i = count - 1
    while words[i] == np.uint32(0xFFFFFFFF):
        words[i] = np.uint32(0)
        i -= 1
    words[i] += np.uint32(1)


@kernel
def _encode(state, words, count, counts, symbol, bits):  # type: ignore[no-untyped-def]
    """Narrow the interval to ``symbol``; the new number of words."""
    below = np.uint64(0)
    for v in range(symbol):
        below += counts[v]
    start = _scaled(state[1], below, bits)
    width = _scaled(state[1], below + counts[symbol], bits) - start
    low = state[0] + start
    if low < start:
        _carry(words, count)
    while width < _BOTTOM:
        words[count] = np.uint32(low >> _WORD)
        count += 1
        low <<= _WORD
        width <<= _WORD
    state[0], state[1] = low, width
    return count


@kernel
def _decode(state, words, position, counts, bits):  # type: ignore[no-untyped-def]
    """The symbol (-1: no valid code) and the new position in ``words``; behind their end there are zeros."""
    offset, width = state[0], state[1]
    below, start = np.uint64(0), np.uint64(0)
    for v in range(len(counts)):
        below += counts[v]
        end = _scaled(width, below, bits)
        if offset < end:
            offset -= start
            width = end - start
            while width < _BOTTOM:
                word = np.uint64(words[position]) if position < len(words) else np.uint64(0)
                position += 1
                offset = (offset << _WORD) | word
                width <<= _WORD
            state[0], state[1] = offset, width
            return v, position
        start = end
    return -1, position


class RangeEncoder:
    """Append symbols with ``encode``, take the bytes with ``finish``; memory is the code itself."""

    def __init__(self, *, bits: int = DEFAULT_BITS) -> None:
        self._bits = np.uint64(bits)
        self._state = np.array([0, _FULL], dtype=np.uint64)  # low, range
        self._words = np.zeros(1024, dtype=np.uint32)
        self._count = 0

    def encode(self, counts: np.ndarray, symbol: int) -> None:
        """Code ``symbol`` under ``counts`` (V,) uint64 from ``frequencies`` with the same ``bits``."""
        if not 0 <= symbol < len(counts):
            raise RangeError(f"range code: symbol {symbol}, expected 0 to {len(counts) - 1}")
        if self._count + 2 > len(self._words):
            self._words = np.concatenate([self._words, np.zeros_like(self._words)])
        self._count = _encode(self._state, self._words, self._count, counts, symbol, self._bits)

    def finish(self) -> bytes:
        """The shortest code of all symbols so far; the encoder is used up.

        Trailing zero bytes are left out, but no more than ``STRIPPED_WORDS`` words behind those that carry the symbols:
        a decoder that reads further behind the end knows that the code is damaged.
        """
        low, width = int(self._state[0]), int(self._state[1])
        for num_bytes in range(9):
            mask = (1 << (64 - 8 * num_bytes)) - 1
            value = (low + mask) & ~mask
            if value - low < width:
                break
        if value >> 64:
            _carry(self._words, self._count)
        tail = (value & int(_FULL)).to_bytes(8, "big")[:num_bytes]
        code = (self._words[: self._count].astype(">u4").tobytes() + tail).rstrip(b"\0")
        return code.ljust(4 * max(0, self._count - STRIPPED_WORDS), b"\0")


class RangeDecoder:
    """Read symbols with ``decode`` in the order they were coded, under the same frequencies; then ``finish``."""

    def __init__(self, code: bytes, *, bits: int = DEFAULT_BITS) -> None:
        self._bits = np.uint64(bits)
        self._num_bytes = len(code)
        padded = code + bytes(-len(code) % 4)
        self._words = np.frombuffer(padded, ">u4").astype(np.uint32)
        first = int.from_bytes(code[:8].ljust(8, b"\0"), "big")
        self._state = np.array([first, _FULL], dtype=np.uint64)  # code - low, range
        self._position = 2
        self._zero_ending = code.endswith(b"\0")

    def decode(self, counts: np.ndarray) -> int:
        """The next symbol under ``counts`` (V,) uint64. Raises ``RangeError`` when the code is impossible."""
        symbol, self._position = _decode(self._state, self._words, self._position, counts, self._bits)
        if symbol < 0:
            raise RangeError("range code: no symbol has this code: damaged")
        if self._position - 2 > len(self._words) + STRIPPED_WORDS:
            raise RangeError("range code: the symbols go on behind its end: damaged")
        return int(symbol)

    def finish(self) -> None:
        """Raises ``RangeError`` when bytes are left that no symbol has used, or zeros that no encoder writes."""
        if self._num_bytes > 4 * self._position:
            left = self._num_bytes - 4 * self._position
            raise RangeError(f"range code: {left} bytes are left behind the last symbol: damaged")
        if self._zero_ending and self._num_bytes > 4 * (self._position - 2 - STRIPPED_WORDS):
            raise RangeError("range code: ends with a zero byte, which no encoder writes: damaged")
