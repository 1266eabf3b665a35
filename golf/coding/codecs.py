"""The coders below order-0 as numbered entries beside those of the registry, and the smallest of all for one matrix.

``R`` rows, ``C`` columns. Numbers are part of the file format and never change meaning:

| number | name | what |
|---|---|---|
| 0 | raw | fixed-width integers |
| 1 | rans | one static table, order-0 |
| 2 | columns | static tables by column and row codes (``golf.coding.columns``) |
| 3 | context | context mixing (``golf.coding.context``) |
| 4 | linear | context mixing with linear prediction from the left part of the row |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from golf.coding import columns, context
from golf.coding.blocks import ArtifactError, Reader, varint
from golf.coding.predict import MAX_COLUMNS
from golf.coding.registry import CODERS, Coder, SideInfo
from golf.coding.tables import MAX_ALPHABET

__all__ = ["ALL_CODERS", "COLUMNS", "CONTEXT", "LINEAR", "RAW", "STATIC", "decode", "encode_best"]

RAW, STATIC, COLUMNS, CONTEXT, LINEAR = range(5)
_NEVER = 1 << 62  # "cannot get below this": the coder is not tried
Integers = NDArray[np.int16]


def _as_int16(values: NDArray[np.int32], info: SideInfo) -> Integers:
    if values.size and not (values.min() >= -32768 and values.max() <= 32767):
        raise ArtifactError("tensor", f"{info.name}: integers {values.min()}..{values.max()} leave the int16 range")
    return values.astype(np.int16)


def _encode_columns(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    stream = columns.encode(values)
    if stream is None:
        raise ValueError(f"{info.name}: integers span more than {MAX_ALPHABET}, too wide for the column coder")
    return b"", stream


def _encode_context(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    return b"", context.encode(values)


def _encode_linear(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    return b"", context.encode(values, linear=True)


def _columns_least(values: Integers) -> int:
    wide = values.size and int(values.max()) - int(values.min()) >= MAX_ALPHABET
    return _NEVER if wide else 0


def _linear_least(values: Integers) -> int:
    return _NEVER if min(values.shape) > MAX_COLUMNS or max(values.shape) < 64 else 0


def _whole(side: bytes, payload: bytes, info: SideInfo) -> bytes:
    if side:
        raise ArtifactError("payload", f"{info.name}: {len(side)} side bytes, this coder keeps all in its payload")
    return payload


def _decode_columns(side: bytes, payload: bytes, info: SideInfo) -> Integers:
    return _as_int16(columns.decode(_whole(side, payload, info), info.rows, info.columns, what=info.name), info)


def _decode_context(side: bytes, payload: bytes, info: SideInfo) -> Integers:
    return _as_int16(context.decode(_whole(side, payload, info), info.rows, info.columns, what=info.name), info)


ALL_CODERS: dict[int, Coder] = {
    **{number: coder for number, coder in CODERS.items() if number in (RAW, STATIC)},
    COLUMNS: Coder(COLUMNS, "columns", _encode_columns, _decode_columns, _columns_least),
    CONTEXT: Coder(CONTEXT, "context", _encode_context, _decode_context),
    LINEAR: Coder(LINEAR, "linear", _encode_linear, _decode_context, _linear_least),
}


def encode_best(
    values: Integers, info: SideInfo, *, coders: Sequence[int] = (RAW, STATIC, COLUMNS, CONTEXT, LINEAR)
) -> tuple[int, bytes]:
    """Code ``values`` (R, C) int16 with each of the numbered coders: the number and bytes of the smallest.

    The first wins a tie, so name fast coders first. The bytes hold side data and payload, with their lengths.
    Raises ``ValueError`` for an unknown number, or when no named coder can take the matrix.
    """
    unknown = [number for number in coders if number not in ALL_CODERS]
    if unknown or not coders:
        raise ValueError(f"coders: found {list(coders)}, wanted at least one of {list(ALL_CODERS)}")
    best: tuple[int, bytes] | None = None
    for number in coders:
        least = ALL_CODERS[number].least(values)
        if least == _NEVER or (best is not None and least >= len(best[1])):
            continue
        side, payload = ALL_CODERS[number].encode(values, info)
        stream = varint(len(side)) + side + payload
        if best is None or len(stream) < len(best[1]):
            best = number, stream
    if best is None:
        raise ValueError(f"{info.name}: none of the coders {list(coders)} takes integers of shape {values.shape}")
    return best


def decode(number: int, data: bytes, info: SideInfo) -> Integers:
    """Inverse of ``encode_best``: integers (R, C) int16. Raises ``ArtifactError`` for damaged data."""
    if number not in ALL_CODERS:
        raise ArtifactError("tensor", f"{info.name}: coder {number} is unknown, wanted one of {list(ALL_CODERS)}")
    reader = Reader(data, f"{info.name} coded integers")
    side = reader.take(reader.varint("side bytes", most=1 << 28), "side")
    return ALL_CODERS[number].decode(side, reader.take(reader.left, "payload"), info)
