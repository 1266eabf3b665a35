"""Context-mixing coder of an integer matrix, below its order-0 entropy; integer arithmetic only.

``R`` rows, ``C`` columns. Values are coded row by row as paths in an alphabetic tree; each decision is predicted by
``golf.artifact.context_model`` and coded by a binary arithmetic coder. With ``linear=True`` the expected value is a
linear prediction from the left part of the row (``golf.artifact.prediction``), which pays on embeddings and most
matrices.

Stream: flags u8 (1 linear, 2 transposed), shift u8, spread u8, center zigzag, below varint, above varint, code bytes.
Values outside ``center - below .. center + above`` escape, so any int32 can be coded. Source: docs/results/coding.md.

On a trellis an integer ``k`` read in an odd state means ``k + 1/2``: all running means are of that value, the counters
are kept apart by the parity of the state, and the state is followed along the rows as they were before transposing.
Column steps, where a tensor has them, set the deviation that a column starts with.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from golf.artifact import binary, context_model, grouped, prediction
from golf.artifact.binary import SPREADS, build_tree, code_bit, code_escape, finish, spreads, start
from golf.artifact.bytes import ArtifactError, Reader, varint, zigzag
from golf.artifact.context_model import (
    ERROR_INVERSE,
    ERROR_SPREAD,
    FAST,
    INVERSE,
    ROW_CELLS,
    SLOW,
    SPREAD,
    ZONES,
    Model,
    Tables,
    code_leaf,
    expectation,
    learn,
    new_state,
    new_weights,
    refresh,
    row_context,
)
from golf.artifact.grouped import next_state
from golf.artifact.prediction import TOGETHER
from golf.artifact.rans import MAX_LINEAR
from golf.base.jit import kernel, part, step
from golf.base.tensor_file import LARGE

__all__ = ["decode", "encode"]

_LINEAR, _TRANSPOSED = 1, 2
_MAX_HALF = 127  # integers on each side of the center that the tree covers at most
_MAX_VALUE_BYTES = 1024  # 254 decisions of 16 bits and an escape are fewer
_BY_ROWS, _BY_COLUMNS = 1, 2  # where the path along the trellis runs in the matrix that is coded; 0: no trellis
_MIN_ROWS_FOR_COLUMNS = 256  # below this, columns share one set of counters: they could not learn, only cost memory
_RIDGE, _FORGET_ROWS, _FIRST_FIT, _MAX_GAP = 128, 8192, 16, 1024


_Header = tuple[int, int, int, int, int]  # shift, spread code, center, below, above


class _Mode(NamedTuple):
    decoding: bool
    linear: bool
    trellis: int  # _BY_ROWS, _BY_COLUMNS or 0


class _Shape(NamedTuple):
    """Of the integers: low bits coded plainly, then what the tree covers; ``deviation`` Q8."""

    shift: int
    center: int
    below: int
    above: int
    deviation: int


class _Predictor(NamedTuple):
    """Working memory of the linear prediction, flat: two (C, C), the second int16, and of int32 (8, C) and two (C,)."""

    covariance: np.ndarray
    factor: np.ndarray
    deviations: np.ndarray
    innovations: np.ndarray
    predictions: np.ndarray


@lru_cache(maxsize=1)
def _reciprocals() -> NDArray[np.uint16]:
    return (131072 // (2 * np.arange(1024) + 3)).astype(np.uint16)


@part
def _code_rest(coder: Any, data: Any, decoding: bool, value: Any, inside: Any, shape: Any) -> Any:
    """Code what the tree left open, the distance of an escape and the low bits; returns the whole integer."""
    shift, center, below, above, _ = shape
    top = inside
    if inside == above:
        top += code_escape(coder, data, decoding, (value >> shift) - center - above)
    elif inside == -below:
        top -= code_escape(coder, data, decoding, -below - (value >> shift) + center)
    result = (top + center) << shift
    for i in range(shift - 1, -1, -1):
        result |= code_bit(coder, data, decoding, (value >> i) & 1, 32768) << i
    return result


@step
def _observe(predictor: Any, r: Any, c: Any, away: Any, miss: Any, to_units: Any, fitted: Any) -> None:
    """Store the deviation ``away`` (Q8) of value (r, c); let its innovation ``miss`` move those to the right."""
    at = (r % TOGETHER) * len(predictor.predictions) + c
    predictor.deviations[at] = min(max((away * to_units + (1 << 18)) >> 19, -127), 127)
    if fitted:
        predictor.innovations[c] = min(max((miss * to_units + 32768) >> 16, -1023), 1023)
        prediction.spread_near(predictor.factor, c, predictor.innovations, predictor.predictions)


@part
def _rows_end(predictor: Any, r: Any, summed: Any, now: Any) -> Any:
    """Let the predictor learn from rows up to ``r``, all that are left with ``now``; returns how many it holds."""
    summed += 1
    if now or summed == _FORGET_ROWS or (r + 1) % TOGETHER == 0:
        prediction.accumulate(predictor.covariance, predictor.deviations, len(predictor.predictions))
        predictor.deviations[:] = 0
    if summed == _FORGET_ROWS:
        prediction.halve(predictor.covariance)
        summed >>= 1
    return summed


@kernel(parts=(binary, context_model, grouped, prediction))
def _code_matrix(
    values: Any, data: Any, mode: Any, shape: Any, tables: Any, model: Any, predictor: Any, paths: Any
) -> Any:
    """Code all values (R, C) int32; returns the bytes, -1 for a damaged stream or a full buffer."""
    rows, columns = values.shape
    decoding, linear, trellis = mode
    shift, center, below, above, deviation = shape
    state, nodes = model.state, len(model.weights) // 8
    stride = nodes if rows >= _MIN_ROWS_FOR_COLUMNS else 0
    first_row_cell = columns * stride + (nodes if stride == 0 else 0)
    first_zone = first_row_cell + ROW_CELLS * nodes
    odd_half = first_zone + ZONES * nodes  # counters of weights that lie half a step higher
    coder, context = np.zeros(4, np.int64), np.zeros(3, np.int64)
    to_units, from_units = (np.int64(64) << 16) // deviation, (deviation << 12) >> 6
    start(coder, data, decoding)
    next_refresh, next_fit, summed, scale = 0, _FIRST_FIT, 0, deviation
    for r in range(rows):
        fast_rate, slow_rate = 65536 // min(r + 16, 48), 65536 // min(r + 16, 512)
        if r == next_refresh:
            scale = refresh(state)
            next_refresh = r + 1 + min(r >> 4, 15)
        if linear and r == next_fit:
            prediction.fit(predictor.covariance, summed, _RIDGE, predictor.factor)
            next_fit = r + min(max(r // 4, 1), _MAX_GAP)
        predictor.predictions[:] = 0
        paths[0] *= trellis == _BY_COLUMNS  # every row of the tensor starts in state 0
        row_sum, row_size = np.int64(0), np.int64(0)
        for first_column in range(0, columns, 16):
            for c in range(first_column, min(first_column + 16, columns)):
                if c & 7 == 0:
                    row_context(row_sum, row_size, c, scale, context)
                fast, slow = state[c, FAST] >> 8, state[c, SLOW] >> 8
                if linear:
                    expected = fast + ((np.int64(predictor.predictions[c]) * from_units) >> 24)
                    spread, inverse, zone_value = state[c, ERROR_SPREAD], state[c, ERROR_INVERSE], expected
                else:
                    expected = slow + context[0]
                    spread, inverse, zone_value = state[c, SPREAD], state[c, INVERSE], (fast + slow) >> 1
                path = c if trellis == _BY_COLUMNS else 0
                odd = paths[path] & 1
                half, first = (odd << 7) >> shift, odd * odd_half
                value = np.int64(values[r, c])
                place = min(max((value >> shift) - center, -below), above)
                zone = first_zone + expectation(scale, zone_value, spread) * nodes
                cells = (first + c * stride, first + first_row_cell + context[2] * nodes, first + zone)
                normals = (fast - half, state[c, INVERSE], expected - half, (inverse * context[1]) >> 16)
                inside = code_leaf(coder, data, decoding, place, tables, model, cells, normals) - below
                result = inside + center
                if shift or inside == above or inside == -below:
                    result = _code_rest(coder, data, decoding, value, inside, shape)
                    if result > 2147483647 or result < -2147483648:
                        return -1
                if decoding:
                    values[r, c] = result
                elif coder[3] > len(data) - _MAX_VALUE_BYTES:
                    return -1
                paths[path] = next_state(paths[path], result) if trellis else 0
                found = (inside << 8) + half
                row_sum, row_size = row_sum + found - slow, row_size + abs(found)
                if linear:
                    _observe(predictor, r, c, found - fast, found - expected, to_units, r >= _FIRST_FIT)
                learn(state, c, found, expected, fast_rate, slow_rate)
            if linear and r >= _FIRST_FIT and first_column + 16 < columns:
                prediction.spread_far(predictor.factor, first_column, predictor.innovations, predictor.predictions)
        if linear:
            summed = _rows_end(predictor, r, summed, r + 1 == next_fit)
        if decoding and coder[3] > len(data):
            return -1
    return coder[3] if decoding else finish(coder, data)


def _run(
    matrix: NDArray[np.int32], data: NDArray[np.uint8], decoding: bool, flags: int, header: _Header, trellis: bool,
    column_codes: NDArray[np.int8] | None,
) -> int:  # fmt: skip
    linear, transposed = bool(flags & _LINEAR), bool(flags & _TRANSPOSED)
    way = (_BY_COLUMNS if transposed else _BY_ROWS) if trellis else 0
    shift, spread, center, below, above = header
    tree, squash = build_tree(spread, below, above), binary.squash_table().astype(np.uint16)  # half of it in the cache
    rows, columns = matrix.shape
    cells = (columns if rows >= _MIN_ROWS_FOR_COLUMNS else 1) + ROW_CELLS + ZONES
    counters = np.zeros((2 if trellis else 1) * cells * len(tree), np.uint32)
    side = columns if linear else 1
    deviation = int(spreads()[spread])
    state = new_state(columns, deviation * deviation, None if transposed else column_codes)
    sizes = ((side * side, np.int32), (side * side, np.int16), (TOGETHER * side, np.int8), (columns, np.int32))
    predictor = _Predictor(*(np.zeros(size, kind) for size, kind in (*sizes, sizes[-1])))
    return int(_code_matrix(
        matrix, data, _Mode(decoding, linear, way), _Shape(shift, center, below, above, deviation),
        Tables(tree.reshape(-1), binary.stretch_table(), squash, binary.normal_cdf(), _reciprocals()),
        Model(state, new_weights(len(tree)), counters),
        predictor,
        np.zeros(columns if way == _BY_COLUMNS else 1, np.int64),
    ))  # fmt: skip


def _header(values: NDArray[np.int32]) -> _Header:
    """Shift, spread code, center, below, above: encoder's choice, any other would decode as well."""
    found, counts = _distinct(values)
    middle = found[np.searchsorted(np.cumsum(counts), [(values.size - 1) // 2, values.size // 2], side="right")]
    center = int(middle.sum() / 2)  # the median
    deviation = float((np.abs(found - center) * counts).sum() / values.size) * 1.25
    shift = 0
    while deviation / (1 << shift) > 24:
        shift += 1
    center >>= shift
    top = (found >> shift) - center
    squares = np.minimum(top * top, 64 * (deviation / (1 << shift) + 1) ** 2)
    deviation = max(float(np.sqrt((squares * counts).sum() / values.size)), 0.25)
    spread = int(np.clip(round(4 * np.log2(deviation)) + 8, 0, SPREADS - 1))
    reach = min(int(6 * deviation) + 2, _MAX_HALF)
    below, above = min(max(1 - int(top.min()), 1), reach), min(max(1 + int(top.max()), 1), reach)
    return shift, spread, center, below, above


def _distinct(values: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different integers of ``values`` in ascending order, and how often each is there."""
    low, span = int(values.min()), int(values.max()) - int(values.min()) + 1
    if span > 1 << 16:
        wide, counts = np.unique(values, return_counts=True)
        return wide.astype(np.int64), counts
    flat, every = values.reshape(-1), np.zeros(span, np.int64)
    for i in range(0, flat.size, LARGE):
        every += np.bincount(flat[i : i + LARGE] - low, minlength=span)
    found = np.flatnonzero(every)
    return found + low, every[found]


def encode(
    values: NDArray[np.integer], *, linear: bool = False, trellis: bool = False,
    column_codes: NDArray[np.int8] | None = None,
) -> bytes:  # fmt: skip
    """Code integers (R, C) of the int32 range; ``linear`` turns the linear prediction on (min(R, C) <= 1024).

    ``trellis``: they are indices along the 8-state trellis; ``column_codes`` (C,): the column steps, if there are any.
    Both must be given to ``decode`` again.

    Raises ``ValueError`` for a wrong shape, integers outside int32, or ``linear`` on a matrix too wide for it.
    """
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"context coder: found {values.dtype} {values.shape}, expected integers (R, C)")
    if values.size and not (values.min() >= -(2**31) and values.max() < 2**31):
        raise ValueError(f"context coder: integers {values.min()}..{values.max()} leave the int32 range")
    if linear and min(values.shape) > MAX_LINEAR:
        raise ValueError(f"linear prediction: found shape {values.shape}, expected a side <= {MAX_LINEAR}")
    if values.size == 0:
        return b""
    transposed = linear and values.shape[1] > values.shape[0]
    matrix = np.ascontiguousarray(values.T if transposed else values, np.int32)
    header, flags = _header(matrix), _LINEAR * linear | _TRANSPOSED * transposed
    capacity, size = matrix.size * 2 + 2 * _MAX_VALUE_BYTES, -1
    while size < 0:  # incompressible input only: code again with more room
        capacity *= 2
        data = np.zeros(capacity, np.uint8)
        size = _run(matrix, data, False, flags, header, trellis, column_codes)
    shift, spread, center, below, above = header
    return bytes([flags, shift, spread]) + zigzag(center) + varint(below) + varint(above) + data[:size].tobytes()


def decode(
    data: bytes, rows: int, columns: int, *, what: str, trellis: bool = False,
    column_codes: NDArray[np.int8] | None = None,
) -> NDArray[np.int32]:  # fmt: skip
    """Inverse of ``encode``: integers (R, C) int32; ``what`` names the tensor in errors.

    Raises ``ArtifactError`` for a header no encoder writes and for a stream that is too short or too long.
    """
    reader = Reader(data, f"{what} context stream")
    if rows * columns == 0:
        reader.end()
        return np.zeros((rows, columns), np.int32)
    flags, shift, spread = reader.byte("flags"), reader.byte("shift"), reader.byte("spread")
    center = reader.signed("center", most=1 << 31)
    below, above = reader.varint("below", most=_MAX_HALF), reader.varint("above", most=_MAX_HALF)
    linear, transposed = bool(flags & _LINEAR), bool(flags & _TRANSPOSED)
    if flags > 3 or shift > 31 or spread >= SPREADS or min(below, above) < 1:
        raise ArtifactError("tensor", f"{what}: context header {flags}, {shift}, {spread}, {below}, {above} unknown")
    if linear and ((columns > rows) != transposed or min(rows, columns) > MAX_LINEAR):
        raise ArtifactError("tensor", f"{what}: {rows} x {columns} does not fit linear prediction {transposed=}")
    values = np.zeros((columns, rows) if transposed else (rows, columns), np.int32)
    stream = np.frombuffer(reader.take(reader.left, "code"), np.uint8).copy()
    size = _run(values, stream, True, flags, (shift, spread, center, below, above), trellis, column_codes)
    if size != len(stream):
        raise ArtifactError("payload", f"{what}: {len(stream)} code bytes, the model read {size}: damaged stream")
    return np.ascontiguousarray(values.T) if transposed else values
