"""The coders that an artifact's per-tensor record can name, by number, and the choice of the smallest.

``R`` rows, ``C`` columns. A coder turns integers (R, C) int16 into ``side`` bytes (tables; packed together with the
other small data of the artifact) and ``payload`` bytes (already dense). Numbers are part of the file format
(docs/format.md) and never change meaning: 0 raw (fixed width), 1 rans (one static table, order-0), 2 columns (static
tables by column and row codes), 3 context (context mixing), 4 linear (context mixing with linear prediction from the
left part of the row). Numbers 2 to 4 have no side data; ``golf.artifact.columns`` and ``golf.artifact.context`` compile
with numba and are imported only when such a stream is coded or decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from golf.artifact.bytes import ArtifactError, Reader, varint, zigzag
from golf.artifact.rans import MAX_ALPHABET, MAX_LINEAR, TOTAL, build_table, decode, encode, read_table, write_table
from golf.base.errors import GolfError
from golf.base.tensor_file import LARGE

__all__ = ["CODERS", "NEVER", "Coder", "Encoded", "Integers", "SideInfo", "as_int16", "encode_smallest"]

NEVER = 1 << 62  # a coder that "cannot get below this" is not tried
_SAMPLED = 4096  # rows on which coders of a very large matrix are compared
MAX_MODELED_COLUMNS = 1 << 18  # adaptive state per column: bounds the memory that a few bytes of file can ask for
Integers = NDArray[np.int16]


@dataclass(frozen=True)
class SideInfo:
    """What both sides know of a tensor before its integers: name for errors, R, C, scales, trellis or not."""

    name: str
    rows: int
    columns: int
    row_scale: NDArray[np.float16] | NDArray[np.int8]  # (R,) fp16 steps or int8 codes of 1/8 octave
    column_codes: NDArray[np.int8] | None  # (C,) codes of 1/4 octave
    trellis: bool = False  # integers are indices along the 8-state trellis


@dataclass(frozen=True)
class Coder:
    """One entry of the registry: ``number`` is what the artifact stores."""

    number: int
    name: str
    encode: Callable[[Integers, SideInfo], tuple[bytes, bytes]]
    decode: Callable[[bytes, bytes, SideInfo], Integers]
    least: Callable[[Integers], int] = lambda values: 0  # bytes it cannot get below: saves trying it in vain


def as_int16(values: NDArray[np.int32], info: SideInfo) -> Integers:
    """``values`` as int16 (R, C); ``ArtifactError`` naming the tensor when one leaves the range."""
    if values.size and (values.min() < -32768 or values.max() > 32767):
        raise ArtifactError("tensor", f"{info.name}: integers {values.min()}..{values.max()} leave the int16 range")
    return values.astype(np.int16).reshape(info.rows, info.columns)


@dataclass(frozen=True)
class Encoded:
    """One tensor's integers, coded: ``coder`` number, ``side`` and ``payload`` bytes."""

    coder: int
    side: bytes
    payload: bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of both, before the side bytes are compressed."""
        return len(self.side) + len(self.payload)


def _encode_static(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    if values.size == 0:
        return b"", b""
    table = build_table(values)
    symbols = values.ravel().astype(np.int32)
    symbols -= table.offset
    outliers = np.zeros(0, np.int16)
    if table.escape:
        far = (symbols < 0) | (symbols >= table.alphabet)
        outliers = values.ravel()[far]
        symbols[far] = table.alphabet
    side = write_table(table) + outliers.astype("<i2").tobytes()
    return side, encode(symbols, table.frequencies)


def _decode_static(side: bytes, payload: bytes, info: SideInfo) -> Integers:
    reader = Reader(side, f"{info.name} side data")
    if info.rows * info.columns == 0:
        reader.end()
        if payload:
            raise ArtifactError("payload", f"{info.name}: {len(payload)} payload bytes for no values")
        return np.zeros((info.rows, info.columns), np.int16)
    table = read_table(reader, info.name)
    symbols = decode(payload, info.rows * info.columns, table.frequencies, what=info.name)
    places = np.flatnonzero(symbols == table.alphabet) if table.escape else np.zeros(0, np.int64)
    symbols += np.int32(table.offset)
    symbols[places] = np.frombuffer(reader.take(2 * len(places), "outliers"), "<i2")
    reader.end()
    return as_int16(symbols, info)


def _encode_raw(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    if values.size == 0:
        return b"", b""
    low, width = int(values.min()), _raw_width(values)
    digits = values.ravel().astype(np.int32) - low
    pieces = [  # a multiple of 8 values fills whole bytes, so pieces can be joined
        np.packbits((digits[i : i + (1 << 16), None] >> np.arange(width - 1, -1, -1)) & 1) for i in _pieces(digits.size)
    ]
    return zigzag(low) + varint(width), np.concatenate(pieces).astype(np.uint8).tobytes()


def _raw_width(values: Integers) -> int:
    return (int(values.max()) - int(values.min())).bit_length() if values.size else 0


def _raw_least(values: Integers) -> int:
    return (values.size * _raw_width(values) + 7) // 8


def _pieces(count: int) -> range:
    return range(0, count, 1 << 16)


def _decode_raw(side: bytes, payload: bytes, info: SideInfo) -> Integers:
    reader = Reader(side, f"{info.name} side data")
    count = info.rows * info.columns
    low = reader.signed("lowest integer", most=TOTAL // 2) if count else 0
    width = reader.varint("bits per integer", most=16) if count else 0
    reader.end()
    if len(payload) != (count * width + 7) // 8:
        wanted = f"{(count * width + 7) // 8} for {count} integers of {width} bits"
        raise ArtifactError("payload", f"{info.name}: payload has {len(payload)} bytes, expected {wanted}")
    values = np.full(count, low, np.int32)
    weights = 1 << np.arange(width - 1, -1, -1, dtype=np.int32)
    packed = np.frombuffer(payload, np.uint8)
    for i in _pieces(count) if width else ():
        size = min(1 << 16, count - i)
        bits = np.unpackbits(packed[i * width // 8 :][: (size * width + 7) // 8], count=size * width)
        values[i : i + size] += bits.reshape(size, width) @ weights
    return as_int16(values, info)


def _encode_columns(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    from golf.artifact import columns

    stream = columns.encode(values, trellis=info.trellis, column_codes=info.column_codes)
    if stream is None:
        raise GolfError(f"{info.name}: integers span more than {MAX_ALPHABET}, too wide for the column coder")
    return b"", stream


def _encode_context(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    from golf.artifact import context

    return b"", context.encode(values, trellis=info.trellis, column_codes=info.column_codes)


def _encode_linear(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    from golf.artifact import context

    return b"", context.encode(values, linear=True, trellis=info.trellis, column_codes=info.column_codes)


def _columns_least(values: Integers) -> int:
    wide = values.size and int(values.max()) - int(values.min()) >= MAX_ALPHABET
    return NEVER if wide or max(values.shape) > MAX_MODELED_COLUMNS else 0


def _context_least(values: Integers) -> int:
    return NEVER if values.shape[1] > MAX_MODELED_COLUMNS else 0


def _linear_least(values: Integers) -> int:
    small, large = sorted(values.shape)
    return NEVER if small > MAX_LINEAR or not 64 <= large <= MAX_MODELED_COLUMNS else 0


def _checked(side: bytes, payload: bytes, info: SideInfo) -> bytes:
    if side:
        raise ArtifactError("payload", f"{info.name}: {len(side)} side bytes, this coder keeps all in its payload")
    return payload


def _decode_columns(side: bytes, payload: bytes, info: SideInfo) -> Integers:
    from golf.artifact import columns

    if max(info.rows, info.columns) > MAX_MODELED_COLUMNS:
        raise ArtifactError("tensor", f"{info.name}: {info.rows} x {info.columns} is too large for the column coder")
    stream, known = _checked(side, payload, info), info.column_codes
    values = columns.decode(stream, info.rows, info.columns, what=info.name, trellis=info.trellis, column_codes=known)
    return as_int16(values, info)


def _decode_context(side: bytes, payload: bytes, info: SideInfo) -> Integers:
    from golf.artifact import context

    if info.columns > MAX_MODELED_COLUMNS:
        raise ArtifactError("tensor", f"{info.name}: {info.columns} columns, at most {MAX_MODELED_COLUMNS} allowed")
    stream, known = _checked(side, payload, info), info.column_codes
    values = context.decode(stream, info.rows, info.columns, what=info.name, trellis=info.trellis, column_codes=known)
    return as_int16(values, info)


DECODERS: dict[int, Callable[[bytes, bytes, SideInfo], Integers]] = {
    0: _decode_raw,
    1: _decode_static,
    2: _decode_columns,
    3: _decode_context,
    4: _decode_context,
}
CODERS: dict[int, Coder] = {
    number: Coder(number, name, encode, DECODERS[number], least)
    for number, name, encode, least in (
        (0, "raw", _encode_raw, _raw_least),
        (1, "rans", _encode_static, lambda values: 0),
        (2, "columns", _encode_columns, _columns_least),
        (3, "context", _encode_context, _context_least),
        (4, "linear", _encode_linear, _linear_least),
    )
}


def encode_smallest(values: Integers, info: SideInfo, *, coders: Sequence[str]) -> Encoded:
    """Code ``values`` (R, C) with each of the named coders and keep the smallest; the first wins a tie.

    A coder that cannot take the matrix (too wide a range, too many columns) is passed over; so is one that takes 5 %
    more than another on rows spread over a very large one. Raises ``GolfError`` for a name that is not registered, or
    when none of the named coders takes the matrix.
    """
    known = {coder.name: coder for coder in CODERS.values()}
    unknown = [name for name in coders if name not in known]
    if unknown or not coders:
        raise GolfError(f"coders: found {list(coders)}, expected at least one of {', '.join(known)}")
    named = [known[name] for name in coders]
    if values.size > LARGE and len(values) > 2 * _SAMPLED:
        named = _hopeful(values[:: len(values) // _SAMPLED], info, named)
    best: Encoded | None = None
    for coder in named:
        least = coder.least(values)
        if least == NEVER or (best is not None and least >= best.num_bytes):
            continue
        tried = Encoded(coder.number, *coder.encode(values, info))
        best = tried if best is None or tried.num_bytes < best.num_bytes else best
    if best is None:
        raise GolfError(f"{info.name}: none of the coders {list(coders)} takes integers of shape {values.shape}")
    return best


def _hopeful(some: Integers, info: SideInfo, coders: list[Coder]) -> list[Coder]:
    """The coders that take at most 5 % more bytes than the best on ``some`` of the rows."""
    part = replace(info, rows=len(some))
    sizes = [(coder, sum(map(len, coder.encode(some, part)))) for coder in coders if coder.least(some) < NEVER]
    least = min((size for _, size in sizes), default=0)
    return [coder for coder, size in sizes if size <= 1.05 * least] or coders
