"""rANS over groups of values with one static table each, all in one stream; integer arithmetic only.

``R`` rows, ``C`` columns, ``G`` groups, ``A`` alphabet. The group of a value follows from the code of its row, the code
of its column and, on a trellis, the parity of its state: with a trellis, group ``2 g + parity``. Values are decoded row
by row, so that the state is known; the state of the coder is below 2^63, its words have 32 bits, frequencies sum to
2^16. It begins and ends at 2^31, which a reader checks. Source: Duda, arXiv 1311.2540; streaming form of ryg_rans.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from golf.base.jit import kernel, part, step

__all__ = ["NEXT_STATES", "Codes", "decode", "encode", "gather", "next_state", "parities", "place", "tally"]

NEXT_STATES = 0  # next state of the 8-state trellis (docs/format.md, "Grids"), three bits at 6 * state + 3 * (k & 1)
for _place, _state in enumerate((0, 2, 5, 7, 1, 3, 4, 6, 2, 0, 7, 5, 3, 1, 6, 4)):
    NEXT_STATES |= _state << 3 * _place

_START = 1 << 31  # the coder's state holds at least this


@part
def next_state(state: Any, value: Any) -> Any:
    """The trellis state after integer ``value``."""
    return (NEXT_STATES >> (6 * state + 3 * (value & 1))) & 7


class Codes(NamedTuple):
    """What groups follow from: ``number`` (codes, means), the group of each pair; ``rows`` (R,), ``columns`` (C,) and
    ``means`` (C,), the codes."""

    number: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    means: NDArray[np.int64]


@step
def _group(codes: Any, trellis: bool, state: Any, r: Any, c: Any) -> Any:
    """Group of value (r, c): of the codes of its row and column and, on a trellis, of the parity of ``state``."""
    number, rows, columns, means = codes
    group = number[min(max(rows[r] + columns[c], 0), len(number) - 1), means[c]]
    return 2 * group + (state & 1) if trellis else group


@kernel
def parities(values: Any) -> Any:
    """Parity (R, C) uint8 of the trellis state that each of ``values`` (R, C) is read in: 1 is half a step higher."""
    odd = np.zeros(values.shape, np.uint8)
    for r in range(len(values)):
        state = 0
        for c in range(values.shape[1]):
            odd[r, c] = state & 1
            state = next_state(state, np.int64(values[r, c]))
    return odd


@kernel
def tally(values: Any, lowest: Any, odd: Any, start: Any, classes: Any, counts: Any) -> None:
    """Fill the histograms ``counts`` (K, N, P, A) of columns ``start`` to ``start + N`` of ``values`` (R, C) minus
    ``lowest``, by ``classes`` (R,) of rows below K, column, and parity ``odd`` (R, C) of the state below P."""
    for r in range(len(values)):
        for c in range(counts.shape[1]):
            counts[classes[r], c, odd[r, start + c], values[r, start + c] - lowest] += 1


@kernel
def gather(counts: Any, numbers: Any, histograms: Any) -> None:
    """Add ``counts`` (N, P, A) to the histograms (G P, A) of groups ``numbers`` (N,)."""
    for i in range(len(numbers)):
        for p in range(counts.shape[1]):
            for a in range(counts.shape[2]):
                histograms[numbers[i] * counts.shape[1] + p, a] += counts[i, p, a]


@kernel
def place(values: Any, trellis: Any, codes: Any, groups: Any) -> None:
    """Fill ``groups`` (R, C) of ``values`` (R, C)."""
    for r in range(len(values)):
        state = 0
        for c in range(values.shape[1]):
            groups[r, c] = _group(codes, trellis, state, r, c)
            state = next_state(state, np.int64(values[r, c]))


@kernel
def _push(values: Any, lowest: Any, groups: Any, sums: Any, words: Any) -> Any:
    """Code from the last value to the first; fills ``words`` from its end and returns the place of the first."""
    state, at = np.uint64(_START), len(words)
    for r in range(len(values) - 1, -1, -1):
        for c in range(values.shape[1] - 1, -1, -1):
            group, digit = groups[r, c], values[r, c] - lowest
            low = np.uint64(sums[group, digit])
            size = np.uint64(sums[group, digit + 1]) - low
            if size < np.uint64(65536):
                if state >= size << np.uint64(47):
                    at -= 1
                    words[at] = state & np.uint64(0xFFFFFFFF)
                    state >>= np.uint64(32)
                state = ((state // size) << np.uint64(16)) + state % size + low
    words[at - 1] = state & np.uint64(0xFFFFFFFF)
    words[at - 2] = state >> np.uint64(32)
    return at - 2


@kernel
def _pull(values: Any, lowest: Any, trellis: bool, codes: Any, sums: Any, quick: Any, words: Any) -> bool:
    """Decode into ``values`` (R, C); whether words and state end as an encoder left them."""
    if len(words) < 2:
        return False
    state, at = (np.uint64(words[0]) << np.uint64(32)) | np.uint64(words[1]), 2
    if state < np.uint64(_START) or state >= np.uint64(1 << 63):
        return False
    for r in range(len(values)):
        path = 0
        for c in range(values.shape[1]):
            group = _group(codes, trellis, path, r, c)
            slot = np.int64(state & np.uint64(65535))
            digit = np.int64(quick[group, slot >> 8])
            while sums[group, digit + 1] <= slot:
                digit += 1
            low = np.int64(sums[group, digit])
            size = np.int64(sums[group, digit + 1]) - low
            state = np.uint64(size) * (state >> np.uint64(16)) + np.uint64(slot - low)
            if state < np.uint64(_START):
                if at == len(words):
                    return False
                state = (state << np.uint64(32)) | np.uint64(words[at])
                at += 1
            value = lowest + digit
            values[r, c] = value
            path = next_state(path, value)
    return at == len(words) and state == np.uint64(_START)


def _sums(tables: NDArray[np.int64]) -> NDArray[np.int32]:
    sums = np.zeros((len(tables), tables.shape[1] + 1), np.int32)
    np.cumsum(tables, axis=1, out=sums[:, 1:])
    return sums


def encode(values: NDArray[np.integer], lowest: int, groups: NDArray[np.uint16], tables: NDArray[np.int64]) -> bytes:
    """Words of ``values`` (R, C) under ``tables`` (G, A), little-endian; ``groups`` (R, C) as ``place`` fills them."""
    words = np.zeros(values.size // 2 + 4, np.uint32)  # 16 bits a value at most
    first = _push(values, lowest, groups, _sums(tables), words)
    return words[first:].astype("<u4").tobytes()


def decode(
    words: bytes, values: NDArray[np.int32], lowest: int, trellis: bool, codes: Codes, tables: NDArray[np.int64]
) -> bool:
    """Fill ``values`` (R, C); False when ``words`` are not exactly one code of that many values."""
    sums = _sums(tables)
    quick = np.empty((len(sums), 256), np.uint16)  # the first digit that can hold each 1/256 of the slots
    for group, row in enumerate(sums):
        quick[group] = np.searchsorted(row[1:], np.arange(256) << 8, side="right")
    packed = np.frombuffer(words, "<u4").astype(np.uint32)
    return bool(_pull(values, lowest, trellis, codes, sums, quick, packed))
