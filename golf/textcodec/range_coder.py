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
from golf.base.jit import kernel, part

__all__ = [
    "DEFAULT_BITS", "DAMAGED", "RangeDecoder", "RangeEncoder", "RangeError", "SUM_TOLERANCE", "decode_symbol",
    "encode_symbol", "frequencies", "quantize",
]  # fmt: skip

DEFAULT_BITS = 24
MAX_BITS = 30
SUM_TOLERANCE = 1e-5
DAMAGED = "range code: no symbol has this code, or the symbols go on behind its end: damaged"
_STRIDE = 32  # symbols passed at a time
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


@part(_nrt=False)
def quantize(probs, bits, counts):  # type: ignore[no-untyped-def]
    """Fill ``counts``; the sum of ``probs``, or NaN when an entry is no probability."""
    size = len(probs)
    free = float((np.int64(1) << bits) - size)
    total, used, top, wrong = 0.0, np.int64(0), probs[0], False
    for v in range(size):
        wrong = wrong | (not ((probs[v] >= 0.0) & (probs[v] <= 1.001)))
    if wrong:
        return np.nan
    for v in range(size):
        count = np.int64(np.int32(probs[v] * free)) + 1  # bits are few enough
        counts[v] = np.uint64(count)
        used += count
    for v in range(size):
        total += probs[v]
        top = probs[v] if probs[v] > top else top
    best = 0
    while probs[best] != top:
        best += 1
    # A sum a little above 1 makes the remainder negative; the most likely symbol has far more than that.
    rest = np.int64(counts[best]) + (np.int64(1) << bits) - used
    if rest < 1:
        return np.nan
    counts[best] = np.uint64(rest)
    return total


@part(_nrt=False)
def _scaled(width, cumulative, bits):  # type: ignore[no-untyped-def]
    """floor(width * cumulative / 2^bits), exact in 64 bits because cumulative <= 2^bits <= 2^30."""
    low = width & ((np.uint64(1) << bits) - np.uint64(1))
    return (width >> bits) * cumulative + ((low * cumulative) >> bits)


@part(_nrt=False)
def _carry(words, count):  # type: ignore[no-untyped-def]
    i = count - 1
    while words[i] == np.uint32(0xFFFFFFFF):
        words[i] = np.uint32(0)
        i -= 1
    words[i] += np.uint32(1)


@part(_nrt=False)
def encode_symbol(interval, words, place, counts, symbol, bits):  # type: ignore[no-untyped-def]
    """Narrow the interval to ``symbol``; ``place`` (1,) words are written so far."""
    below = np.uint64(0)
    for v in range(symbol):
        below += counts[v]
    start = _scaled(interval[1], below, bits)
    width = _scaled(interval[1], below + counts[symbol], bits) - start
    low, count = interval[0] + start, place[0]
    if low < start:
        _carry(words, count)
    while width < _BOTTOM:
        words[count] = np.uint32(low >> _WORD)
        count += 1
        low <<= _WORD
        width <<= _WORD
    interval[0], interval[1], place[0] = low, width, count


@part(_nrt=False)
def decode_symbol(interval, words, place, counts, bits):  # type: ignore[no-untyped-def]
    """The symbol, or -1 when there is none or it was read further behind the end of ``words`` than an encoder leaves
    out; behind their end there are zeros."""
    offset, width = interval[0], interval[1]
    below, first, size = np.uint64(0), 0, len(counts)
    while first + _STRIDE <= size:  # whole groups of symbols that end before it
        group = np.uint64(0)
        for v in range(first, first + _STRIDE):
            group += counts[v]
        if offset < _scaled(width, below + group, bits):
            break
        below += group
        first += _STRIDE
    start = _scaled(width, below, bits)
    for v in range(first, size):
        below += counts[v]
        end = _scaled(width, below, bits)
        if offset < end:
            offset -= start
            width, position = end - start, place[0]
            while width < _BOTTOM:
                word = np.uint64(words[position]) if position < len(words) else np.uint64(0)
                position += 1
                offset = (offset << _WORD) | word
                width <<= _WORD
            interval[0], interval[1], place[0] = offset, width, position
            return v if position - 2 <= len(words) + STRIPPED_WORDS else -1
        start = end
    return -1


_quantize, _carry_words, _encode_symbol, _decode_symbol = (  # for Python
    kernel(each, _nrt=False) for each in (quantize, _carry, encode_symbol, decode_symbol)
)


class RangeEncoder:
    """Append symbols with ``encode``, take the bytes with ``finish``; memory is the code itself.

    ``interval``, ``words`` and ``place`` are for kernels that call ``encode_symbol``, after ``reserve``.
    """

    def __init__(self, *, bits: int = DEFAULT_BITS) -> None:
        self._bits = np.uint64(bits)
        self.interval = np.array([0, _FULL], dtype=np.uint64)  # low, range
        self.words = np.zeros(1024, dtype=np.uint32)
        self.place = np.zeros(1, np.int64)

    def reserve(self, symbols: int) -> None:
        """Make room for the next ``symbols``; this may replace ``words``."""
        while int(self.place[0]) + 2 * symbols > len(self.words):
            self.words = np.concatenate([self.words, np.zeros_like(self.words)])

    def encode(self, counts: np.ndarray, symbol: int) -> None:
        """Code ``symbol`` under ``counts`` (V,) uint64 from ``frequencies`` with the same ``bits``."""
        if not 0 <= symbol < len(counts):
            raise RangeError(f"range code: symbol {symbol}, expected 0 to {len(counts) - 1}")
        self.reserve(1)
        _encode_symbol(self.interval, self.words, self.place, counts, symbol, self._bits)

    def finish(self) -> bytes:
        """The shortest code of all symbols so far; the encoder is used up.

        Trailing zero bytes are left out, but no more than ``STRIPPED_WORDS`` words behind those that carry the symbols:
        a decoder that reads further behind the end knows that the code is damaged.
        """
        count = int(self.place[0])
        value, num_bytes = _shortest(int(self.interval[0]), int(self.interval[1]))
        if value >> 64:
            _carry_words(self.words, count)
        tail = (value & int(_FULL)).to_bytes(8, "big")[:num_bytes]
        return _stripped(self.words[:count].astype(">u4").tobytes() + tail, count)


def _shortest(low: int, width: int) -> tuple[int, int]:
    """The number of [``low``, ``low + width``) with the fewest of the last eight bytes, and how many those are."""
    for num_bytes in range(9):
        mask = (1 << (64 - 8 * num_bytes)) - 1
        value = (low + mask) & ~mask
        if value - low < width:
            break
    return value, num_bytes


def _stripped(code: bytes, words: int) -> bytes:
    """``code`` without zeros at its end, as far as ``STRIPPED_WORDS`` of its ``words``."""
    return code.rstrip(b"\0").ljust(4 * max(0, words - STRIPPED_WORDS), b"\0")


class RangeDecoder:
    """Read symbols with ``decode`` in the order they were coded, under the same frequencies; then ``finish``.

    ``interval``, ``words`` and ``place`` are for kernels that call ``decode_symbol``.
    """

    def __init__(self, code: bytes, *, bits: int = DEFAULT_BITS) -> None:
        self._bits = np.uint64(bits)
        self._num_bytes = len(code)
        padded = code + bytes(-len(code) % 4)
        self.words = np.frombuffer(padded, ">u4").astype(np.uint32)
        first = int.from_bytes(code[:8].ljust(8, b"\0"), "big")
        self.interval = np.array([first, _FULL], dtype=np.uint64)  # code - low, range
        self.place = np.array([2])
        self._code = code

    def decode(self, counts: np.ndarray) -> int:
        """The next symbol under ``counts`` (V,) uint64. Raises ``RangeError`` when the code is impossible."""
        symbol = _decode_symbol(self.interval, self.words, self.place, counts, self._bits)
        if symbol < 0:
            raise RangeError(DAMAGED)
        return int(symbol)

    def finish(self) -> None:
        """Raises ``RangeError`` when bytes are left that no symbol has used, or zeros that no encoder writes."""
        position = int(self.place[0])
        if self._num_bytes > 4 * position:
            left = self._num_bytes - 4 * position
            raise RangeError(f"range code: {left} bytes are left behind the last symbol: damaged")
        if self._code != self._canonical(position):
            raise RangeError("range code: does not end as an encoder ends it: damaged")

    def _canonical(self, position: int) -> bytes:
        """The code that an encoder makes of the symbols read."""
        whole = int.from_bytes(self._code[: 4 * position].ljust(4 * position, b"\0"), "big")
        tail, num_bytes = _shortest(whole - int(self.interval[0]), int(self.interval[1]))
        return _stripped(tail.to_bytes(4 * position, "big")[: 4 * (position - 2) + num_bytes], position - 2)
