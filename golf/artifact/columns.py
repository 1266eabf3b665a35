"""Column-aware static tables: values grouped by coded spread and mean of their column (and spread of their row).

``R`` rows, ``C`` columns, ``G`` groups, ``A`` alphabet. Columns of a weight matrix differ in deviation and mean; one
table per (deviation code, mean code) takes that in, at the speed of static rANS (``golf.artifact.grouped``). A group's
table is the discretized normal distribution of its codes, free to store, or its own frequencies where those pay for
themselves. Codes are coded by the context coder. Column steps, where a tensor has them, can stand in for deviation
codes: a step twice as wide makes integers half as wide. On a trellis every group is split by the parity of the state,
whose values lie half a step higher. Everything the decoder computes is integer.

Stream: docs/format.md, "Column stream". Deviation codes count 1/8 octaves of 2^(-2) .. 2^12; mean codes count eighths
of the tensor's deviation. Source: bucketed static tables of docs/results/coding.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from golf.artifact import context, grouped
from golf.artifact.binary import CDF_LIMIT, CDF_STEPS, EXACT, normal_cdf
from golf.artifact.bytes import ArtifactError, Reader, pack_block, unpack_block, varint, zigzag
from golf.artifact.rans import MAX_ALPHABET, TOTAL, normalize
from golf.base.tensor_file import LARGE

__all__ = ["decode", "encode", "normal_tables"]

_DEVIATIONS = 113  # deviation codes: 2^((code - 16) / 8)
_MEANS = 24  # mean codes reach this many eighths of a deviation on each side
_CHOICES = ((0, 0, 0), (0, 2, 0), (1, 0, 1), (2, 0, 2), (1, 2, 1), (2, 2, 2))
_TABLE_BYTES = 1.35  # estimated packed bytes per entry of an explicit table
_MIN_EXPLICIT = 1 << 13  # symbols in a group before an explicit table is thought of
_MAX_ENTRIES = 1 << 20  # entries of all tables together: bounds the memory that a few bytes of file can ask for


@lru_cache(maxsize=1)
def _deviations() -> NDArray[np.int64]:
    """Deviation of each code, Q8: int64 (_DEVIATIONS,)."""
    with localcontext(EXACT):
        octaves = [Decimal(2) ** (Decimal(code - 16) / 8) for code in range(_DEVIATIONS)]
        return np.array([int((256 * d).to_integral_value()) for d in octaves], np.int64)


def normal_tables(
    lowest: int, alphabet: int, deviations: NDArray[np.int64], means: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Frequencies (G, A) int64, rows summing to 65,536, each >= 1, of normals; ``deviations``, ``means`` (G,) Q8."""
    frequencies = np.empty((len(means), alphabet), np.int64)
    some = max(1, (1 << 16) // alphabet)
    for i in range(0, len(means), some):  # in parts: the steps between need several times the memory
        frequencies[i : i + some] = _normal_tables(lowest, alphabet, deviations[i : i + some], means[i : i + some])
    return frequencies


def _normal_tables(
    lowest: int, alphabet: int, deviations: NDArray[np.int64], means: NDArray[np.int64]
) -> NDArray[np.int64]:
    edges = (lowest + np.arange(alphabet + 1, dtype=np.int64)) * 256 - 128
    places = ((edges - means[:, None]) * CDF_STEPS * 16) // deviations[:, None] + CDF_LIMIT * CDF_STEPS * 16
    places = np.clip(places, 0, 2 * CDF_LIMIT * CDF_STEPS * 16)
    cdf = normal_cdf().astype(np.int64)
    slopes = np.append(np.diff(cdf), 0)
    smooth = cdf[places >> 4] * 16 + slopes[places >> 4] * (places & 15)  # linear between table steps
    weights = np.diff(smooth, axis=1) + (1 << 8)
    frequencies = 1 + weights * (TOTAL - alphabet) // weights.sum(axis=1, keepdims=True)
    rest = TOTAL - frequencies.sum(axis=1)
    frequencies[np.arange(len(means)), np.argmax(frequencies, axis=1)] += rest
    return frequencies.astype(np.int64)


_Places = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class _Plan:
    """Steps and codes of one way to group; codes are in units of their step."""

    base: int
    hint: bool  # column steps take part in the deviation code
    steps: tuple[int, int, int]  # column deviation, row deviation, mean; 0 = not coded
    columns: NDArray[np.int64]
    rows: NDArray[np.int64]
    means: NDArray[np.int64]

    def places(self, column_codes: NDArray[np.int8] | None) -> _Places:
        """Row parts (R,) and column parts (C,) of the deviation codes, and mean codes (C,) from 0."""
        columns = self.base + self.columns * self.steps[0]
        if self.hint and column_codes is not None:
            columns = columns - 2 * column_codes.astype(np.int64)  # a quarter octave of step is two eighths of spread
        means = np.clip(self.means * self.steps[2], -_MEANS, _MEANS) + _MEANS
        return np.clip(self.rows * self.steps[1], -1024, 1024), np.clip(columns, -1024, 1024), means

    def groups(self, rows: NDArray[np.int64], columns: NDArray[np.int64], means: NDArray[np.int64]) -> _Groups:
        """The groups of all values, numbered in ascending order of deviation code, then mean code."""
        used = np.zeros((_DEVIATIONS, 2 * _MEANS + 1), bool)
        pairs = np.unique(columns * (2 * _MEANS + 1) + means)
        for row in np.unique(rows):
            codes = np.clip(row + pairs // (2 * _MEANS + 1), 0, _DEVIATIONS - 1)
            used[codes, pairs % (2 * _MEANS + 1)] = True
        number = (np.cumsum(used) - 1).reshape(used.shape)
        deviation, mean = np.nonzero(used)
        table = _deviations()
        return _Groups(number, table[deviation], ((mean - _MEANS) * table[self.base]) >> 3)


@dataclass(frozen=True)
class _Groups:
    """Number of the group of each (deviation code, mean code); deviation and mean, Q8, of every group (G,)."""

    number: NDArray[np.int64]
    deviations: NDArray[np.int64]
    means: NDArray[np.int64]

    def split(self, trellis: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Deviations and means of the tables: with a trellis two for each group, the odd one half a step lower."""
        if not trellis:
            return self.deviations, self.means
        return np.repeat(self.deviations, 2), np.repeat(self.means, 2) - np.tile([0, 128], len(self.means))


def _log_code(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    return 4.0 * np.log2(np.maximum(variance - 1 / 12, 1 / 64))  # eighths of an octave; 1/12 is the rounding's share


def _mean_squares(values: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    """Mean of the squares (R, C) along ``axis``; of large matrices in parts."""
    some = max(1, LARGE // values.shape[1])
    sums = [np.square(values[i : i + some]).sum(axis=axis, dtype=np.float64) for i in range(0, len(values), some)]
    return (np.concatenate(sums) if axis else np.sum(sums, axis=0)) / values.shape[axis]


def _plans(work: NDArray[np.float32], column_codes: NDArray[np.int8] | None) -> Iterator[_Plan]:
    """Candidate groupings of values (R, C). Floats are free here: the codes they lead to are stored.

    ``work`` is used up.
    """
    mean = work.mean(axis=0, dtype=np.float64)
    work -= mean.astype(np.float32)
    variance = _mean_squares(work, 0)
    total = float(variance.mean()) + float(mean.var())
    base = int(np.clip(round(float(_log_code(np.array(total)))) + 16, 0, _DEVIATIONS - 1))
    column = _log_code(variance) - (base - 16)
    work /= np.sqrt(np.maximum(variance, 1 / 64)).astype(np.float32)
    row = 4.0 * np.log2(np.maximum(_mean_squares(work, 1), 1 / 64))
    eighths = mean / (float(_deviations()[base]) / 256) * 8
    hints = [(base, False, column)]
    if column_codes is not None:
        rest = column + 2.0 * column_codes
        middle = round(float(np.median(rest)))
        hints.append((int(np.clip(base + middle, 0, _DEVIATIONS - 1)), True, rest - middle))
    for start, hint, code in hints:
        for steps in _CHOICES:
            a, b, m = ((np.rint(x / s) if s else 0 * x) for x, s in zip((code, row, eighths), steps, strict=True))
            yield _Plan(start, hint, steps, a.astype(np.int64), b.astype(np.int64), m.astype(np.int64))


@dataclass(frozen=True)
class _Candidate:
    codes: grouped.Codes
    tables: NDArray[np.int64]
    explicit: NDArray[np.bool_]
    side: bytes
    num_bytes: float  # estimated, payload included


def _best(
    plans: list[_Plan], values: NDArray[np.int32], span: tuple[int, int], odd: NDArray[np.uint8], trellis: bool,
    column_codes: NDArray[np.int8] | None,
) -> _Candidate:  # fmt: skip
    """The plan of least cost among those that have not too many tables; the first wins a tie.

    Values are counted once for all of them, by column, code of the row (all plans that have any have the same) and
    parity: every group is a union of these.
    """
    lowest, alphabet = span
    parities = 1 + trellis
    kept = []
    for plan in plans:
        places = plan.places(column_codes)
        found = plan.groups(*places)
        shape = (len(found.means) * parities, alphabet)
        if shape[0] * alphabet <= _MAX_ENTRIES:
            kept.append((plan, found, grouped.Codes(found.number, *places), np.zeros(shape, np.int64)))
    by_row = max(plans, key=lambda plan: plan.steps[1]).rows
    _, first, classes = np.unique(by_row, return_index=True, return_inverse=True)
    some = max(1, (1 << 22) // (len(first) * parities * alphabet))
    for start in range(0, values.shape[1], some):
        part = slice(start, min(start + some, values.shape[1]))
        counts = np.zeros((len(first), part.stop - start, parities, alphabet), np.int64)
        grouped.tally(values, lowest, odd, start, classes, counts)
        for _, _, codes, histograms in kept:
            deviations = np.clip(codes.rows[first, None] + codes.columns[part], 0, len(codes.number) - 1)
            numbers = codes.number[deviations, codes.means[part]].reshape(-1)
            grouped.gather(counts.reshape(-1, parities, alphabet), numbers, histograms)
    best: _Candidate | None = None
    for plan, found, codes, histograms in kept:
        tables = normal_tables(lowest, alphabet, *found.split(trellis))
        tried = _costed(plan, codes, tables, histograms, most=best.num_bytes if best else np.inf)
        best = tried if tried is not None and (best is None or tried.num_bytes < best.num_bytes) else best
    assert best is not None  # the first plan has one group
    return best


def _costed(
    plan: _Plan, codes: grouped.Codes, tables: NDArray[np.int64], histograms: NDArray[np.int64], *, most: float
) -> _Candidate | None:
    """``None`` where it is clear before tables are made that it would take ``most`` bytes."""
    count, alphabet = histograms.shape
    bits = -(histograms * np.log2(tables / TOTAL)).sum(axis=1)
    sizes = histograms.sum(axis=1)
    shares = histograms / np.maximum(sizes, 1)[:, None]
    least = -(histograms * np.log2(np.maximum(shares, 1e-30))).sum(axis=1) * (1 - 1e-9) + 8 * _TABLE_BYTES * alphabet
    worth = (sizes >= _MIN_EXPLICIT) & (least < bits)  # no table of its own does better than the entropy
    if float(np.where(worth, least, bits).sum()) / 8 + count / 8 >= most:
        return None
    explicit = np.zeros(count, bool)
    for i in np.flatnonzero(worth):
        own = normalize(histograms[i])
        own_bits = float(-(histograms[i] * np.log2(np.maximum(own, 1) / TOTAL)).sum()) + 8 * _TABLE_BYTES * alphabet
        if own_bits < bits[i]:
            tables[i], bits[i], explicit[i] = own, own_bits, True
    side = _write_codes(plan)
    return _Candidate(codes, tables, explicit, side, float(bits.sum()) / 8 + len(side) + count / 8)


def _write_codes(plan: _Plan) -> bytes:
    out = bytes([plan.base, plan.hint, *plan.steps])
    for step, codes in zip(plan.steps, (plan.columns, plan.rows, plan.means), strict=True):
        if step:
            packed = context.encode(codes.reshape(1, -1))
            out += varint(len(packed)) + packed
    return out


def _read_codes(reader: Reader, rows: int, columns: int, may_hint: bool, what: str) -> _Plan:
    base, hint = reader.byte("deviation code"), reader.byte("column steps flag")
    steps = (reader.byte("column step"), reader.byte("row step"), reader.byte("mean step"))
    if base >= _DEVIATIONS or hint > may_hint or max(steps) > 8:
        raise ArtifactError("tensor", f"{what}: deviation code {base}, flag {hint} and steps {steps} are unknown")
    vectors = []
    for step, size in zip(steps, (columns, rows, columns), strict=True):
        if step:
            packed = reader.take(reader.varint("code bytes", most=1 << 28), "codes")
            codes = context.decode(packed, 1, size, what=f"{what} codes")[0].astype(np.int64)
            vectors.append(np.clip(codes, -1024, 1024))
        else:
            vectors.append(np.zeros(size, np.int64))
    return _Plan(base, bool(hint), steps, *vectors)


def encode(
    values: NDArray[np.integer], *, trellis: bool = False, column_codes: NDArray[np.int8] | None = None
) -> bytes | None:
    """Code integers (R, C); ``None`` when they span more than 1,024 integers, which these tables do not cover.

    ``trellis``: they are indices along the 8-state trellis; ``column_codes`` (C,): the column steps, if there are any.
    """
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"column coder: found {values.dtype} {values.shape}, expected integers (R, C)")
    if values.size == 0:
        return b""
    lowest = int(values.min())
    alphabet = int(values.max()) - lowest + 1
    if alphabet > MAX_ALPHABET:
        return None
    matrix = np.ascontiguousarray(values, np.int32)
    work = matrix.astype(np.float32)
    odd = grouped.parities(matrix) if trellis else np.zeros(matrix.shape, np.uint8)
    work += np.float32(0.5) * odd
    plans = list(_plans(work, column_codes))
    del work
    best = _best(plans, matrix, (lowest, alphabet), odd, trellis, column_codes)
    groups = np.empty(matrix.shape, np.uint16)
    grouped.place(matrix, trellis, best.codes, groups)
    own = [t for t, explicit in zip(best.tables, best.explicit, strict=True) if explicit]
    tables = b"".join(varint(int(f)) for table in own for f in table[:-1])
    head = zigzag(lowest) + varint(alphabet) + best.side
    block = pack_block(np.packbits(best.explicit).tobytes() + tables)
    return head + block + grouped.encode(matrix, lowest, groups, best.tables)


def _tables(data: bytes, tables: NDArray[np.int64], what: str) -> None:
    """Put the stored tables among the normal ones (G, A)."""
    reader = Reader(data, f"{what} tables")
    count, alphabet = tables.shape
    flags = np.frombuffer(reader.take((count + 7) // 8, "flags"), np.uint8)
    for i in np.flatnonzero(np.unpackbits(flags, count=count)):
        known = [reader.varint("frequency", most=TOTAL) for _ in range(alphabet - 1)]
        last = TOTAL - sum(known)
        if last < 0:
            raise ArtifactError("tensor", f"{what}: table {i} sums to {sum(known)} without its last entry")
        tables[i] = [*known, last]
    reader.end()


def decode(
    data: bytes, rows: int, columns: int, *, what: str, trellis: bool = False,
    column_codes: NDArray[np.int8] | None = None,
) -> NDArray[np.int32]:  # fmt: skip
    """Inverse of ``encode``: integers (R, C) int32. Raises ``ArtifactError`` for anything ``encode`` did not write."""
    reader = Reader(data, f"{what} column stream")
    if rows * columns == 0:
        reader.end()
        return np.zeros((rows, columns), np.int32)
    lowest = reader.signed("lowest integer", most=1 << 30)
    alphabet = reader.varint("alphabet", most=MAX_ALPHABET)
    if alphabet < 1:
        raise ArtifactError("tensor", f"{what}: alphabet 0, expected at least 1")
    plan = _read_codes(reader, rows, columns, column_codes is not None, what)
    places = plan.places(column_codes)
    found = plan.groups(*places)
    deviations, means = found.split(trellis)
    if len(means) * alphabet > _MAX_ENTRIES:
        raise ArtifactError("tensor", f"{what}: {len(means)} groups of {alphabet} integers, {_MAX_ENTRIES} allowed")
    packed = unpack_block(reader, "tables", most=(len(means) + 7) // 8 + 3 * alphabet * len(means))
    tables = normal_tables(lowest, alphabet, deviations, means)
    _tables(packed, tables, what)
    words = reader.take(reader.left, "words")
    values = np.empty((rows, columns), np.int32)
    codes = grouped.Codes(found.number, *places)
    if len(words) % 4 or not grouped.decode(words, values, lowest, trellis, codes, tables):
        message = f"{what}: the rANS code does not end after {rows} x {columns} values: {len(words)} damaged bytes"
        raise ArtifactError("payload", message)
    return values
