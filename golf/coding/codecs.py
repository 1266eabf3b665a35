"""The coders below order-0, numbers 2 to 4 of the registry: column tables, context mixing, linear prediction.

``R`` rows, ``C`` columns. They have no side data: all is in the payload. ``golf.coding.columns`` and
``golf.coding.context`` compile with numba and are imported only when such a stream is coded or decoded.
"""

from __future__ import annotations

from golf.coding.blocks import ArtifactError
from golf.coding.coder import NEVER, Coder, Integers, SideInfo, as_int16
from golf.coding.tables import MAX_ALPHABET
from golf.errors import GolfError

__all__ = ["BELOW_ORDER_0", "MAX_MODELLED_COLUMNS"]

MAX_MODELLED_COLUMNS = 1 << 18  # adaptive state per column: bounds the memory that a few bytes of file can ask for
_MAX_LINEAR = 1024  # golf.coding.predict.MAX_COLUMNS, which is not imported for it


def _encode_columns(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    from golf.coding import columns

    stream = columns.encode(values, trellis=info.trellis, column_codes=info.column_codes)
    if stream is None:
        raise GolfError(f"{info.name}: integers span more than {MAX_ALPHABET}, too wide for the column coder")
    return b"", stream


def _encode_context(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    from golf.coding import context

    return b"", context.encode(values, trellis=info.trellis, column_codes=info.column_codes)


def _encode_linear(values: Integers, info: SideInfo) -> tuple[bytes, bytes]:
    from golf.coding import context

    return b"", context.encode(values, linear=True, trellis=info.trellis, column_codes=info.column_codes)


def _columns_least(values: Integers) -> int:
    wide = values.size and int(values.max()) - int(values.min()) >= MAX_ALPHABET
    return NEVER if wide or max(values.shape) > MAX_MODELLED_COLUMNS else 0


def _context_least(values: Integers) -> int:
    return NEVER if values.shape[1] > MAX_MODELLED_COLUMNS else 0


def _linear_least(values: Integers) -> int:
    small, large = sorted(values.shape)
    return NEVER if small > _MAX_LINEAR or not 64 <= large <= MAX_MODELLED_COLUMNS else 0


def _checked(side: bytes, payload: bytes, info: SideInfo) -> bytes:
    if side:
        raise ArtifactError("payload", f"{info.name}: {len(side)} side bytes, this coder keeps all in its payload")
    return payload


def _decode_columns(side: bytes, payload: bytes, info: SideInfo) -> Integers:
    from golf.coding import columns

    if max(info.rows, info.columns) > MAX_MODELLED_COLUMNS:
        raise ArtifactError("tensor", f"{info.name}: {info.rows} x {info.columns} is too large for the column coder")
    stream, known = _checked(side, payload, info), info.column_codes
    values = columns.decode(stream, info.rows, info.columns, what=info.name, trellis=info.trellis, column_codes=known)
    return as_int16(values, info)


def _decode_context(side: bytes, payload: bytes, info: SideInfo) -> Integers:
    from golf.coding import context

    if info.columns > MAX_MODELLED_COLUMNS:
        raise ArtifactError("tensor", f"{info.name}: {info.columns} columns, at most {MAX_MODELLED_COLUMNS} allowed")
    stream, known = _checked(side, payload, info), info.column_codes
    values = context.decode(stream, info.rows, info.columns, what=info.name, trellis=info.trellis, column_codes=known)
    return as_int16(values, info)


BELOW_ORDER_0 = (
    Coder(2, "columns", _encode_columns, _decode_columns, _columns_least),
    Coder(3, "context", _encode_context, _decode_context, _context_least),
    Coder(4, "linear", _encode_linear, _decode_context, _linear_least),
)
