"""rANS with one static table per call, through the ``constriction`` library.

``N`` symbols, ``A`` alphabet. Facts of constriction 0.5 that shape this file: symbols are 1-D int32; integer
frequencies as float32 are exact and ``perfect=False`` maps them to 24-bit fixed point the same way everywhere; an
alphabet of one symbol is refused by the library and needs no bits; a damaged stream is not noticed by it, and an empty
coder gives symbol 0 for ever. So one bit, 1, ends the code, and after it the coder must be empty.
Source: Duda, arXiv 1311.2540; PR #1510 (order-0 rANS per tensor).

Frequency tables of one tensor, integers that add up to 2^16: a table covers the integers ``offset .. offset + A - 1``;
values outside (rare, far outliers) are escapes, counted in one extra last entry. Source: PR #1510's per-tensor tables,
with the rounding remainder placed by cost (docs/format.md, "Frequency table").
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.artifact.bytes import ArtifactError, Reader, varint, zigzag

__all__ = [
    "MAX_ALPHABET", "TOTAL", "Table", "build_table", "decode", "encode", "normalize", "read_table", "write_table",
]  # fmt: skip

TOTAL = 1 << 16
MAX_ALPHABET = 1024
MAX_LINEAR = 2048  # columns under linear prediction: bounds its C x C working memory and the cost of a fit


@dataclass(frozen=True)
class Table:
    """Frequencies (A,) or (A + 1,) int64 summing to 65,536; entry ``i`` is the integer ``offset + i``."""

    offset: int
    frequencies: NDArray[np.int64]
    escape: bool

    @property
    def alphabet(self) -> int:
        """Number of plain integers covered, the escape entry not counted."""
        return len(self.frequencies) - int(self.escape)


def normalize(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scale counts (A,) to integers that sum to 65,536, at least 1 wherever a count is positive.

    The remainder of rounding goes, one unit at a time, where it saves most code length (or costs least).
    Raises ``ValueError`` for no positive or any negative count, or more than 65,536 present symbols.
    """
    counts = np.asarray(counts, np.int64)
    present = counts > 0
    if (counts < 0).any() or not present.any() or present.sum() > TOTAL:
        raise ValueError(f"counts need 1 to {TOTAL} positive entries and no negative one, found {present.sum()}")
    total = int(counts.sum())
    scaled = np.array([int(c) * TOTAL // total for c in counts], np.int64)  # Python ints: no overflow at any count
    frequencies = np.where(present, np.maximum(scaled, 1), 0)
    remainder = TOTAL - int(frequencies.sum())
    step = 1 if remainder > 0 else -1

    def cost(i: int) -> float:
        old, new = int(frequencies[i]), int(frequencies[i]) + step
        return math.inf if new < 1 else -float(counts[i]) * math.log2(new / old)

    heap = [(cost(int(i)), int(i)) for i in np.flatnonzero(present)]
    heapq.heapify(heap)
    for _ in range(abs(remainder)):
        i = heapq.heappop(heap)[1]
        frequencies[i] += step
        heapq.heappush(heap, (cost(i), i))
    assert frequencies.sum() == TOTAL and (frequencies[present] >= 1).all()
    return frequencies


def build_table(values: NDArray[np.integer]) -> Table:
    """The table of the integers in ``values`` (any shape, not empty).

    Ranges of up to 1,024 integers are covered whole; of wider ones the 1,024 around the median, the rest escapes.
    """
    flat = values.ravel().astype(np.int32)
    if flat.size == 0:
        raise ValueError("a frequency table of no values is undefined")
    low, high = int(flat.min()), int(flat.max())
    if high - low >= MAX_ALPHABET:
        middle = int(np.partition(flat, flat.size // 2)[flat.size // 2])
        start, stop = middle - MAX_ALPHABET // 2, middle + MAX_ALPHABET // 2
        inside = flat[(flat >= start) & (flat < stop)]  # never empty: it holds the median
        low, high = int(inside.min()), int(inside.max())
    else:
        inside = flat
    counts = np.bincount(inside - low, minlength=high - low + 1)
    escapes = flat.size - inside.size
    if escapes:
        counts = np.append(counts, escapes)
    return Table(low, normalize(counts), bool(escapes))


def write_table(table: Table) -> bytes:
    """``offset`` zigzag, ``A`` varint, escape u8, then the frequencies but the last as varints (their sum is known)."""
    head = zigzag(table.offset) + varint(table.alphabet) + bytes([table.escape])
    return head + b"".join(varint(int(f)) for f in table.frequencies[:-1])


def read_table(reader: Reader, what: str) -> Table:
    """Inverse of ``write_table``; raises ``ArtifactError`` for anything ``build_table`` could not have made."""
    offset = reader.signed(f"{what} table offset", most=TOTAL // 2)
    alphabet = reader.varint(f"{what} alphabet", most=MAX_ALPHABET)
    escape = reader.byte(f"{what} escape flag")
    if alphabet < 1 or escape > 1:
        raise ArtifactError("tensor", f"{what}: alphabet {alphabet} and escape flag {escape}, expected >= 1 and 0 or 1")
    entries = alphabet + escape
    known = [reader.varint(f"{what} frequency {i}", most=TOTAL) for i in range(entries - 1)]
    last = TOTAL - sum(known)
    if last < 1:
        raise ArtifactError("tensor", f"{what}: frequencies sum to {sum(known)} without the last, limit {TOTAL - 1}")
    return Table(offset, np.array([*known, last], np.int64), bool(escape))


def encode(symbols: NDArray[np.int32], frequencies: NDArray[np.int64]) -> bytes:
    """Code symbols (N,) in 0..A-1 by frequencies (A,); little-endian 32-bit words, none for A == 1 or N == 0."""
    if len(frequencies) == 1 or symbols.size == 0:
        return b""
    import constriction  # its submodules are attributes, not importable by name

    coder = constriction.stream.stack.AnsCoder()
    model = constriction.stream.model.Categorical(frequencies.astype(np.float32), perfect=False)
    coder.encode_reverse(np.ones(1, np.int32), _end_model())
    coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), model)
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


def decode(data: bytes, count: int, frequencies: NDArray[np.int64], *, what: str) -> NDArray[np.int32]:
    """Inverse of ``encode``: ``count`` symbols (N,) int32; ``what`` names the tensor in errors.

    Raises ``ArtifactError`` (``payload``) when the words are not exactly one code of that many symbols.
    """
    if len(data) % 4:
        raise ArtifactError("payload", f"{what}: payload has {len(data)} bytes, expected a multiple of 4")
    if len(frequencies) == 1 or count == 0:
        if data:
            raise ArtifactError("payload", f"{what}: payload has {len(data)} bytes, a constant tensor needs none")
        return np.zeros(count, np.int32)
    import constriction

    least = count * math.log2(float(frequencies.sum() / frequencies.max())) * 0.99  # bits, with room for rounding
    if least > 8 * len(data) + 64:  # a lie about the count could otherwise keep the library busy for long
        raise ArtifactError("payload", f"{what}: {len(data)} payload bytes for {count} symbols: too few")
    words = np.frombuffer(data, "<u4").astype(np.uint32)
    if words.size and words[-1] == 0:
        raise ArtifactError("payload", f"{what}: the last of {words.size} payload words is 0, which no coder writes")
    coder = constriction.stream.stack.AnsCoder(words)
    model = constriction.stream.model.Categorical(frequencies.astype(np.float32), perfect=False)
    symbols: NDArray[np.int32] = coder.decode(model, count)
    if coder.decode(_end_model(), 1)[0] != 1 or not coder.is_empty():
        raise ArtifactError("payload", f"{what}: the rANS code does not end after {count} symbols: damaged words")
    return symbols


def _end_model() -> Any:
    """One fair bit; its value 1 is never what an empty coder gives."""
    import constriction

    return constriction.stream.model.Categorical(np.ones(2, np.float32), perfect=False)
