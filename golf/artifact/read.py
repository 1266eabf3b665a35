"""Reading the artifact: every field is checked before anything is allocated on its word."""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from golf.artifact.bytes import ArtifactError, Reader, join_pieces, unpack_block
from golf.artifact.coders import DECODERS, SideInfo
from golf.artifact.layout import (
    BLOCKS,
    FREE_WEIGHTS,
    HASH_AT,
    MAGIC,
    MAX_CONFIG,
    MAX_INDEX,
    MAX_NAME,
    MAX_RANK,
    MAX_TABLES,
    MAX_TENSORS,
    MAX_TOKENIZER,
    MAX_VOCAB,
    PLAIN,
    PREFIX,
    VERSION,
    WEIGHTS_PER_BYTE,
    CodeReader,
    Record,
    Unpacked,
    config_bytes,
    validate,
)
from golf.base.params import quoted
from golf.quantize.tensors import ROLES, QuantizedModel, QuantizedTensor

__all__ = ["read_index", "unpack"]


def unpack(data: bytes, *, where: str = "artifact", threads: int = 1) -> Unpacked:
    """Decode and check an artifact, ``threads`` tensors at a time; ``where`` (the file) begins every message.

    Raises ``ArtifactError`` for anything but a file that ``pack`` of this version could have written.
    """
    try:
        return _unpack(data, threads)
    except ArtifactError as error:
        raise ArtifactError(error.cause, f"{where}: {error}") from error


def read_index(data: bytes) -> tuple[dict[str, Any], tuple[Record, ...]]:
    """Model config and tensor records of an artifact, without decoding any; raises ``ArtifactError``."""
    num_weights, _ = _check_prefix(data)
    raw = unpack_block(Reader(data[PREFIX.size :], "artifact"), "index", most=MAX_INDEX)
    config, _, records, _ = _read_index(Reader(raw, "index"), num_weights)
    return config, records


def _unpack(data: bytes, threads: int) -> Unpacked:
    num_weights, payload_bytes = _check_prefix(data)
    reader = Reader(data[PREFIX.size :], "artifact")
    sections = {"prefix": PREFIX.size}

    def block(name: str, most: int) -> bytes:
        before = reader.left
        raw = unpack_block(reader, name, most=most)
        sections[name] = before - reader.left
        return raw

    config, vocab_size, records, aliases = _read_index(Reader(block("index", MAX_INDEX), "index"), num_weights)
    streams = {name: Reader(block(name, most), name) for name, most in _stream_bytes(records).items()}
    tokenizer = join_pieces(block("tokenizer", MAX_TOKENIZER))
    sections["payload"] = reader.left
    if reader.left != payload_bytes or payload_bytes != sum(record.payload_bytes for record in records):
        wanted = f"the prefix says {payload_bytes}, the index {sum(record.payload_bytes for record in records)}"
        raise ArtifactError("length", f"payload has {reader.left} bytes, {wanted}")
    plain, taken = {}, []
    codes = CodeReader(streams["codes"])
    for record in records:
        if record.grid < 2:
            plain[record.name] = _read_planes(streams, PLAIN[record.grid], record.shape)
        else:
            taken.append(_take_tensor(record, streams, codes, reader))
    largest_first = sorted(taken, key=lambda one: -one[0].payload_bytes)
    with ThreadPoolExecutor(threads) as pool:
        found = {tensor.name: tensor for tensor in pool.map(_decode_tensor, largest_first)}
    tensors = {record.name: found[record.name] for record, *_ in taken}
    for stream in streams.values():
        stream.end()
    model = QuantizedModel(config, vocab_size, tensors, plain, aliases)
    validate(model, tokenizer)
    return Unpacked(model, tokenizer, records, sections, hashlib.sha256(data).hexdigest(), len(data))


def _stream_bytes(records: tuple[Record, ...]) -> dict[str, int]:
    """What each stream must hold by the index, so that no block may claim more."""
    return {name: sum(record.raw_bytes[name] for record in records) for name in BLOCKS}


def _check_prefix(data: bytes) -> tuple[int, int]:
    """Magic, version, length and hash, in this order; returns the declared weights and payload bytes."""
    if data[:4] != MAGIC[: len(data[:4])] or not data:
        raise ArtifactError("magic", f"begins with {data[:4]!r}, expected {MAGIC!r}: not a golf artifact")
    if len(data) < PREFIX.size:
        raise ArtifactError("length", f"has {len(data)} bytes, the prefix alone has {PREFIX.size}: truncated")
    _, version, zero, file_bytes, num_weights, payload_bytes, digest = PREFIX.unpack_from(data)
    if version != VERSION or zero:
        raise ArtifactError("version", f"format version {version}.{zero}, this decoder reads {VERSION}.0")
    if file_bytes != len(data):
        state = "truncated" if file_bytes > len(data) else "extended"
        raise ArtifactError("length", f"has {len(data)} bytes, its prefix says {file_bytes}: {state}")
    body = memoryview(data)
    hashed = hashlib.sha256(body[:HASH_AT])
    hashed.update(body[PREFIX.size :])
    if hashed.digest() != digest:
        raise ArtifactError("checksum", f"SHA-256 is {hashed.hexdigest()[:16]}…, its prefix says {digest.hex()[:16]}…")
    most = WEIGHTS_PER_BYTE * len(data) + FREE_WEIGHTS
    if num_weights > most:
        raise ArtifactError("length", f"declares {num_weights} weights in {len(data)} bytes, at most {most} allowed")
    return num_weights, payload_bytes


def _read_index(reader: Reader, num_weights: int) -> tuple[dict[str, Any], int, tuple[Record, ...], dict[str, str]]:
    vocab_size = reader.varint("vocabulary size", most=MAX_VOCAB)
    text = reader.take(reader.varint("config length", most=MAX_CONFIG), "config")
    try:
        config = json.loads(text)
        config_bytes(config)  # no NaN, no infinity, nothing nested without end
    except (ValueError, RecursionError) as error:
        raise ArtifactError("index", f"config {quoted(text)}: {quoted(str(error))[1:-1]}") from error
    count = reader.varint("number of tensors", most=MAX_TENSORS)
    records, left = [], num_weights
    for _ in range(count):
        records.append(_read_record(reader, left))
        left -= records[-1].weights
    names = [record.name for record in records]
    if left or names != sorted(set(names)):
        raise ArtifactError("index", f"{num_weights - left} weights under {count} names, the prefix says {num_weights}")
    aliases = {}
    for _ in range(reader.varint("number of aliases", most=MAX_TENSORS)):
        alias = _read_name(reader)
        place = reader.varint(f"{alias} target", most=max(count - 1, 0))
        if not records or alias in aliases:
            raise ArtifactError("index", f"{alias}: tied twice or to nothing")
        aliases[alias] = names[place]
    reader.end()
    return config, vocab_size, tuple(records), aliases


def _read_name(reader: Reader) -> str:
    raw = reader.take(reader.varint("name length", most=MAX_NAME), "name")
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise ArtifactError("index", f"tensor name {quoted(raw)} is not UTF-8") from error
    if not name.isprintable():  # it stands in messages and tables
        raise ArtifactError("index", f"tensor name {quoted(name)} has characters that cannot be printed")
    return name


def _read_record(reader: Reader, most: int) -> Record:
    name = _read_name(reader)
    role, grid, coder = reader.take(3, f"{name} role, grid and coder")
    if role >= len(ROLES) or grid > 9 or (coder not in DECODERS if grid >= 2 else coder):
        known = f"roles 0-{len(ROLES) - 1}, grids 0-9, coders {sorted(DECODERS)}"
        raise ArtifactError("index", f"{name}: role {role}, grid {grid}, coder {coder}; this decoder knows {known}")
    rank = reader.varint(f"{name} rank", most=MAX_RANK)
    shape = tuple(reader.varint(f"{name} dimension", most=max(most, 0)) for _ in range(rank))
    if math.prod(shape) > most or (grid >= 2 and (rank < 2 or 0 in shape)):  # rows without weights have steps
        raise ArtifactError("index", f"{name}: shape {shape} in grid {grid}, {most} weights are left")
    if grid < 2:
        return Record(name, ROLES[role], grid, shape)
    side_bytes = reader.varint(f"{name} side bytes", most=4 * math.prod(shape) + MAX_TABLES)
    payload_bytes = reader.varint(f"{name} payload bytes", most=1 << 40)
    return Record(name, ROLES[role], grid, shape, coder, side_bytes, payload_bytes)


def _read_planes(streams: dict[str, Reader], dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    count, width = math.prod(shape), dtype.itemsize
    planes = np.empty((count, width), np.uint8)
    low = streams["low"].take(count * (width - 1), f"low bytes of {count} floats")
    planes[:, :-1] = np.frombuffer(low, np.uint8).reshape(width - 1, count).T
    planes[:, -1] = np.frombuffer(streams["high"].take(count, f"high bytes of {count} floats"), np.uint8)
    return planes.reshape(-1).view(dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _take_tensor(
    record: Record, streams: dict[str, Reader], code_stream: CodeReader, payload: Reader
) -> tuple[Record, bytes, bytes, SideInfo]:
    rows, columns, field = record.rows, record.shape[-1], f"{record.name} scale codes"
    scale = code_stream.take(rows, field) if record.octave_rows else _read_planes(streams, PLAIN[0], (rows,))
    codes = code_stream.take(columns, field) if record.column_codes else None
    side = streams["side"].take(record.side_bytes, f"{record.name} side data")
    coded = payload.take(record.payload_bytes, f"{record.name} payload")
    return record, side, coded, SideInfo(record.name, rows, columns, scale, codes, record.trellis)


def _decode_tensor(taken: tuple[Record, bytes, bytes, SideInfo]) -> QuantizedTensor:
    record, side, coded, info = taken
    values = DECODERS[record.coder](side, coded, info)
    try:
        return QuantizedTensor(
            record.name, record.role, record.shape, values, info.row_scale, info.column_codes, record.trellis
        )
    except ValueError as error:
        raise ArtifactError("tensor", str(error)) from error
