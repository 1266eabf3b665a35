"""Column-aware static tables: values grouped by coded spread and mean of their column (and spread of their row).

``R`` rows, ``C`` columns, ``G`` groups, ``A`` alphabet. Columns of a weight matrix differ in deviation and mean; one
table per (deviation code, mean code) takes that in, at the speed of static rANS: one constriction call per group. A
group's table is the discretised normal distribution of its codes, free to store, or its own frequencies where those
pay for themselves. Codes are coded by the context coder. Everything the decoder computes is integer.

Stream: lowest integer zigzag, alphabet varint, deviation steps of columns and rows and mean steps (u8
each, 0 = one group), length varint + bytes of each present code vector, explicit-table block, rANS words.
Deviation codes count 1/8 octaves of 2^(-2) .. 2^12; mean codes count eighths of the tensor's deviation.
Source: bucketed static tables of docs/results/coding.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from golf.coding import context
from golf.coding.blocks import ArtifactError, Reader, pack_block, unpack_block, varint, zigzag
from golf.coding.fixed import CDF_LIMIT, CDF_STEPS, EXACT, normal_cdf
from golf.coding.tables import MAX_ALPHABET, TOTAL, normalise

__all__ = ["decode", "encode", "normal_tables"]

_DEVIATIONS = 113  # deviation codes: 2^((code - 16) / 8)
_MEANS = 24  # mean codes reach this many eighths of a deviation on each side
_CHOICES = ((0, 0, 0), (0, 2, 0), (1, 0, 1), (2, 0, 2), (1, 2, 1), (2, 2, 2))
_TABLE_BYTES = 1.35  # estimated packed bytes per entry of an explicit table
_MIN_EXPLICIT = 1 << 13  # symbols in a group before an explicit table is thought of


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


@dataclass(frozen=True)
class _Plan:
    """Steps and codes of one way to group; codes are in units of their step."""

    base: int
    steps: tuple[int, int, int]  # column deviation, row deviation, mean; 0 = not coded
    columns: NDArray[np.int64]
    rows: NDArray[np.int64]
    means: NDArray[np.int64]

    def groups(self) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64]]:
        """Group of every value (R, C) uint16, and the deviation and mean, Q8, of every group (G,)."""
        column, row = self.columns * self.steps[0], self.rows * self.steps[1]
        codes = np.clip(self.base + column[None, :] + row[:, None], 0, _DEVIATIONS - 1)
        wide = 2 * _MEANS + 1
        keys = codes * wide + (np.clip(self.means * self.steps[2], -_MEANS, _MEANS) + _MEANS)[None, :]
        used = np.zeros(_DEVIATIONS * wide, bool)
        used[keys] = True
        number = np.cumsum(used) - 1
        names = np.flatnonzero(used)
        deviations = _deviations()
        means = ((names % wide - _MEANS) * deviations[self.base]) >> 3
        return number.astype(np.uint16)[keys], deviations[names // wide], means


def _log_code(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    return 4.0 * np.log2(np.maximum(variance - 1 / 12, 1 / 64))  # eighths of an octave; 1/12 is the rounding's share


def _plans(values: NDArray[np.integer]) -> Iterator[_Plan]:
    """Candidate groupings. Floats are free here: the codes they lead to are stored."""
    rows, columns = values.shape
    work = values.astype(np.float32)
    mean = work.mean(axis=0, dtype=np.float64)
    away = work - mean.astype(np.float32)
    variance = np.square(away).mean(axis=0, dtype=np.float64)
    total = float(variance.mean()) + float(mean.var())
    base = int(np.clip(round(float(_log_code(np.array(total)))) + 16, 0, _DEVIATIONS - 1))
    column = _log_code(variance) - (base - 16)
    away /= np.sqrt(np.maximum(variance, 1 / 64)).astype(np.float32)
    row = 4.0 * np.log2(np.maximum(np.square(away).mean(axis=1, dtype=np.float64), 1 / 64))
    eighths = mean / (float(_deviations()[base]) / 256) * 8
    for steps in _CHOICES:
        a, b, m = ((np.rint(x / s) if s else 0 * x) for x, s in zip((column, row, eighths), steps, strict=True))
        yield _Plan(base, steps, a.astype(np.int64), b.astype(np.int64), m.astype(np.int64))


@dataclass(frozen=True)
class _Candidate:
    plan: _Plan
    groups: NDArray[np.uint16]
    tables: NDArray[np.int64]
    explicit: NDArray[np.bool_]
    side: bytes
    num_bytes: float  # estimated, payload included


def _candidate(plan: _Plan, digits: NDArray[np.int64], lowest: int, alphabet: int) -> _Candidate:
    groups, deviations, means = plan.groups()
    counts = np.bincount((groups.astype(np.int64) * alphabet + digits).ravel(), minlength=len(means) * alphabet)
    histograms = counts.reshape(-1, alphabet)
    tables = normal_tables(lowest, alphabet, deviations, means)
    bits = -(histograms * np.log2(tables / TOTAL)).sum(axis=1)
    explicit = np.zeros(len(means), bool)
    for i in np.flatnonzero(histograms.sum(axis=1) >= _MIN_EXPLICIT):
        own = normalise(histograms[i])
        own_bits = float(-(histograms[i] * np.log2(np.maximum(own, 1) / TOTAL)).sum()) + 8 * _TABLE_BYTES * alphabet
        if own_bits < bits[i]:
            tables[i], bits[i], explicit[i] = own, own_bits, True
    side = _write_codes(plan)
    return _Candidate(plan, groups, tables, explicit, side, float(bits.sum()) / 8 + len(side) + len(explicit) / 8)


def _write_codes(plan: _Plan) -> bytes:
    out = bytes([plan.base, *plan.steps])
    for step, codes in zip(plan.steps, (plan.columns, plan.rows, plan.means), strict=True):
        if step:
            packed = context.encode(codes.reshape(1, -1))
            out += varint(len(packed)) + packed
    return out


def _read_codes(reader: Reader, rows: int, columns: int, what: str) -> _Plan:
    base = reader.byte("deviation code")
    steps = (reader.byte("column step"), reader.byte("row step"), reader.byte("mean step"))
    if base >= _DEVIATIONS or max(steps) > 8:
        raise ArtifactError("tensor", f"{what}: deviation code {base} and steps {steps} are unknown")
    vectors = []
    for step, size in zip(steps, (columns, rows, columns), strict=True):
        if step:
            packed = reader.take(reader.varint("code bytes", most=1 << 28), "codes")
            codes = context.decode(packed, 1, size, what=f"{what} codes")[0].astype(np.int64)
            vectors.append(np.clip(codes, -1024, 1024))
        else:
            vectors.append(np.zeros(size, np.int64))
    return _Plan(base, steps, *vectors)


def encode(values: NDArray[np.integer]) -> bytes | None:
    """Code integers (R, C); ``None`` when they span more than 1,024 integers, which these tables do not cover."""
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"column coder: found {values.dtype} {values.shape}, wanted integers (R, C)")
    if values.size == 0:
        return b""
    lowest = int(values.min())
    alphabet = int(values.max()) - lowest + 1
    if alphabet > MAX_ALPHABET:
        return None
    digits = values.astype(np.int64) - lowest
    best = min((_candidate(p, digits, lowest, alphabet) for p in _plans(values)), key=lambda c: c.num_bytes)
    own = [t for t, explicit in zip(best.tables, best.explicit, strict=True) if explicit]
    tables = b"".join(varint(int(f)) for table in own for f in table[:-1])
    head = zigzag(lowest) + varint(alphabet) + best.side
    block = pack_block(np.packbits(best.explicit).tobytes() + tables, level=22)
    return head + block + _encode_groups(digits, best)


def _encode_groups(digits: NDArray[np.int64], best: _Candidate) -> bytes:
    import constriction

    order = np.argsort(best.groups.ravel(), kind="stable")
    symbols = digits.ravel()[order].astype(np.int32)
    ends = np.cumsum(np.bincount(best.groups.ravel(), minlength=len(best.tables)))
    coder = constriction.stream.stack.AnsCoder()
    for i in range(len(ends) - 1, -1, -1):  # a stack: the last group coded is the first decoded
        if len(best.tables[i]) > 1:
            part = symbols[ends[i - 1] if i else 0 : ends[i]]
            coder.encode_reverse(np.ascontiguousarray(part), _model(best.tables[i]))
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


def _model(table: NDArray[np.int64]) -> object:
    import constriction

    return constriction.stream.model.Categorical(table.astype(np.float32), perfect=False)


def _tables(
    data: bytes, deviations: NDArray[np.int64], means: NDArray[np.int64], lowest: int, alphabet: int, what: str
) -> Iterator[NDArray[np.int64]]:
    """The groups' tables (A,), one at a time: thousands of wide ones are never held together."""
    reader = Reader(data, f"{what} tables")
    flags = np.frombuffer(reader.take((len(means) + 7) // 8, "flags"), np.uint8)
    for i, explicit in enumerate(np.unpackbits(flags, count=len(means))):
        if not explicit:
            yield normal_tables(lowest, alphabet, deviations[i : i + 1], means[i : i + 1])[0]
            continue
        known = [reader.varint("frequency", most=TOTAL) for _ in range(alphabet - 1)]
        last = TOTAL - sum(known)
        if last < 0:
            raise ArtifactError("tensor", f"{what}: table {i} sums to {sum(known)} without its last entry")
        yield np.array([*known, last], np.int64)
    reader.end()


def decode(data: bytes, rows: int, columns: int, *, what: str) -> NDArray[np.int32]:
    """Inverse of ``encode``: integers (R, C) int32. Raises ``ArtifactError`` for anything ``encode`` did not write."""
    reader = Reader(data, f"{what} column stream")
    if rows * columns == 0:
        reader.end()
        return np.zeros((rows, columns), np.int32)
    lowest = reader.signed("lowest integer", most=1 << 31)
    alphabet = reader.varint("alphabet", most=MAX_ALPHABET)
    if alphabet < 1:
        raise ArtifactError("tensor", f"{what}: alphabet 0, wanted at least 1")
    groups, deviations, means = _read_codes(reader, rows, columns, what).groups()
    packed = unpack_block(reader, "tables", most=(len(means) + 7) // 8 + 3 * alphabet * len(means))
    payload = reader.take(reader.left, "words")
    if len(payload) % 4:
        raise ArtifactError("payload", f"{what}: {len(payload)} payload bytes, wanted a multiple of 4")
    words = np.frombuffer(payload, "<u4").astype(np.uint32)
    if words.size and words[-1] == 0:
        raise ArtifactError("payload", f"{what}: the last of {words.size} payload words is 0, which no coder writes")
    import constriction

    coder = constriction.stream.stack.AnsCoder(words)
    sizes = np.bincount(groups.ravel(), minlength=len(means))
    symbols = np.zeros(rows * columns, np.int32)
    start = 0
    for size, table in zip(sizes, _tables(packed, deviations, means, lowest, alphabet, what), strict=True):
        if len(table) > 1:
            symbols[start : start + size] = coder.decode(_model(table), int(size))
        start += int(size)
    if not coder.is_empty():
        raise ArtifactError("payload", f"{what}: symbols decoded, yet the rANS state is not empty: damaged words")
    values = np.zeros(rows * columns, np.int32)
    values[np.argsort(groups.ravel(), kind="stable")] = symbols + np.int32(lowest)
    return values.reshape(rows, columns)
