"""The `golf` artifact: one file that holds a quantized model, its config and its tokenizer.

Layout (docs/format.md has every field): a 64-byte prefix with lengths and SHA-256, six compressed blocks (index, low
and high byte planes of float arrays, scale codes, coder side data, tokenizer), then the coded integers.
Nothing is allocated on the word of a field that has not been checked; ``validate`` runs on writing and on reading.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.coding.blocks import ArtifactError, Reader, pack_block, unpack_block, varint
from golf.coding.pieces import join_pieces, split_pieces
from golf.coding.registry import CODERS, Encoded, SideInfo, encode_smallest
from golf.quantize.tensors import ROLES, QuantizedModel, QuantizedTensor

__all__ = ["MAGIC", "VERSION", "ArtifactError", "Record", "Unpacked", "pack", "unpack", "validate"]

MAGIC = b"GOLF"
VERSION = 1
_PREFIX = struct.Struct("<4sHHQQQ32s")  # magic, version, zero, file bytes, weights, payload bytes, SHA-256 of the rest
_HASH_AT = _PREFIX.size - 32
_PLAIN = (np.dtype("<f2"), np.dtype("<f4"))  # grids 0 and 1
_MAX_NAME, _MAX_CONFIG, _MAX_TENSORS, _MAX_RANK, _MAX_VOCAB = 255, 1 << 16, 1 << 14, 8, 1 << 16
_BLOCKS = ("low", "high", "codes", "side")


@dataclass(frozen=True)
class Record:
    """One entry of the index. ``grid``: 0 fp16, 1 fp32, else 2 + octave rows + 2 * column codes + 4 * trellis."""

    name: str
    role: str
    grid: int
    shape: tuple[int, ...]
    coder: int = 0
    side_bytes: int = 0
    payload_bytes: int = 0

    octave_rows = property(lambda self: self.grid >= 2 and bool((self.grid - 2) & 1))
    column_codes = property(lambda self: self.grid >= 2 and bool((self.grid - 2) & 2))
    trellis = property(lambda self: self.grid >= 2 and bool((self.grid - 2) & 4))

    @property
    def weights(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)

    @property
    def scale_bytes(self) -> int:
        """Bytes of steps, codes, or (plain tensors) of the numbers themselves, before compression."""
        if self.grid < 2:
            return self.weights * _PLAIN[self.grid].itemsize
        rows, columns = math.prod(self.shape[:-1]), self.shape[-1]
        return rows * (1 if self.octave_rows else 2) + (columns if self.column_codes else 0)


@dataclass(frozen=True)
class Unpacked:
    """A decoded artifact: the model as integers, the tokenizer, the index, and where the bytes went."""

    model: QuantizedModel
    tokenizer: bytes
    records: tuple[Record, ...]
    sections: dict[str, int]  # bytes in the file: prefix, index, low, high, codes, side, tokenizer, payload
    sha256: str
    num_bytes: int


def validate(model: QuantizedModel, tokenizer: bytes) -> None:
    """The rules of an artifact's content; ``ArtifactError`` (``index`` or ``tensor``) says which one is broken."""
    names = [*model.tensors, *model.plain, *model.aliases]
    if not 2 <= model.vocab_size <= _MAX_VOCAB:
        raise ArtifactError("index", f"vocabulary of {model.vocab_size} pieces, wanted 2 to {_MAX_VOCAB}")
    if not isinstance(model.config, dict) or not isinstance(model.config.get("family"), str):
        raise ArtifactError("index", "model config has no `family`")
    if len(_config_bytes(model.config)) > _MAX_CONFIG:
        raise ArtifactError("index", f"model config has more than {_MAX_CONFIG} bytes of JSON")
    if len(set(names)) != len(names) or len(names) > _MAX_TENSORS or not tokenizer:
        found = f"{len(names)} names, {len(set(names))} different, {len(tokenizer)} bytes of tokenizer"
        raise ArtifactError("index", f"{found}; wanted at most {_MAX_TENSORS} distinct names and a tokenizer")
    for name in names:
        if not 1 <= len(name.encode()) <= _MAX_NAME:
            raise ArtifactError("index", f"tensor name of {len(name.encode())} bytes, wanted 1 to {_MAX_NAME}")
    for alias, name in model.aliases.items():
        if name not in model.tensors and name not in model.plain:
            raise ArtifactError("index", f"{alias} is tied to {name}, which is not stored")
    for name, tensor in model.tensors.items():
        if tensor.name != name or len(tensor.shape) > _MAX_RANK:
            raise ArtifactError("tensor", f"{name}: named {tensor.name} inside, rank {len(tensor.shape)}")
    for name, array in model.plain.items():
        if array.dtype not in _PLAIN or array.ndim > _MAX_RANK:
            raise ArtifactError("tensor", f"{name}: {array.dtype} of rank {array.ndim}, wanted float16 or float32")
        if not np.isfinite(array).all():
            raise ArtifactError("tensor", f"{name}: holds NaN or infinity")


def _config_bytes(config: dict[str, Any]) -> bytes:
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# --- writing ---------------------------------------------------------------------------------------------------------


def pack(
    model: QuantizedModel, tokenizer: bytes, *, coders: Sequence[str] = ("rans", "raw"), zstd_level: int = 22
) -> bytes:
    """The artifact as bytes: same input, same bytes. Every tensor takes the smallest of ``coders``, small data zstd.

    Raises ``ArtifactError`` when ``validate`` refuses the model, ``ValueError`` for unknown coders.
    """
    validate(model, tokenizer)
    records, payload = [], []
    streams: dict[str, list[bytes]] = {name: [] for name in _BLOCKS}
    for name in sorted([*model.tensors, *model.plain]):
        if name in model.tensors:
            tensor = model.tensors[name]
            coded = encode_smallest(tensor.values, _side_info(tensor), coders=coders)
            records.append(_record(tensor, coded))
            _write_scales(tensor, streams)
            streams["side"].append(coded.side)
            payload.append(coded.payload)
        else:
            array = model.plain[name]
            records.append(Record(name, "control", _PLAIN.index(array.dtype), array.shape))
            _write_planes(array, streams)
    index = _write_index(model, records)
    small = [pack_block(data, level=zstd_level) for data in (index, *(b"".join(streams[name]) for name in _BLOCKS))]
    small.append(pack_block(split_pieces(tokenizer), level=zstd_level, try_lzma=True))
    body = b"".join([*small, *payload])
    sizes = (_PREFIX.size + len(body), model.num_weights(), sum(map(len, payload)))
    head = _PREFIX.pack(MAGIC, VERSION, 0, *sizes, bytes(32))[:_HASH_AT]
    return head + hashlib.sha256(head + body).digest() + body


def _side_info(tensor: QuantizedTensor) -> SideInfo:
    rows, columns = tensor.values.shape
    return SideInfo(tensor.name, rows, columns, tensor.row_scale, tensor.column_codes)


def _record(tensor: QuantizedTensor, coded: Encoded) -> Record:
    grid = 2 + (tensor.row_scale.dtype == np.int8) + 2 * (tensor.column_codes is not None) + 4 * tensor.trellis
    return Record(tensor.name, tensor.role, int(grid), tensor.shape, coded.coder, len(coded.side), len(coded.payload))


def _write_planes(array: np.ndarray, streams: dict[str, list[bytes]]) -> None:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    planes = little.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize)
    streams["low"].append(planes[:, :-1].T.tobytes())
    streams["high"].append(planes[:, -1].tobytes())  # sign and exponent: the part that compresses


def _write_scales(tensor: QuantizedTensor, streams: dict[str, list[bytes]]) -> None:
    if tensor.row_scale.dtype == np.int8:
        streams["codes"].append(tensor.row_scale.tobytes())
    else:
        _write_planes(tensor.row_scale, streams)
    if tensor.column_codes is not None:
        streams["codes"].append(tensor.column_codes.tobytes())


def _write_index(model: QuantizedModel, records: list[Record]) -> bytes:
    config = _config_bytes(model.config)
    out = [varint(model.vocab_size), varint(len(config)), config, varint(len(records))]
    places = {}
    for place, record in enumerate(records):
        places[record.name] = place
        name = record.name.encode()
        out += [varint(len(name)), name, bytes([ROLES.index(record.role), record.grid, record.coder])]
        out += [varint(len(record.shape)), *map(varint, record.shape)]
        if record.grid >= 2:
            out += [varint(record.side_bytes), varint(record.payload_bytes)]
    out.append(varint(len(model.aliases)))
    for alias in sorted(model.aliases):
        out += [varint(len(alias.encode())), alias.encode(), varint(places[model.aliases[alias]])]
    return b"".join(out)


# --- reading ---------------------------------------------------------------------------------------------------------


def unpack(data: bytes, *, where: str = "artifact") -> Unpacked:
    """Decode and check an artifact; ``where`` (the file) begins every message.

    Raises ``ArtifactError`` for anything but a file that ``pack`` of this version could have written.
    """
    try:
        return _unpack(data)
    except ArtifactError as error:
        raise ArtifactError(error.cause, f"{where}: {error}") from error


def _unpack(data: bytes) -> Unpacked:
    num_weights, payload_bytes = _check_prefix(data)
    reader = Reader(data[_PREFIX.size :], "artifact")
    sections = {"prefix": _PREFIX.size}

    def block(name: str) -> bytes:
        before = reader.left
        raw = unpack_block(reader, name)
        sections[name] = before - reader.left
        return raw

    config, vocab_size, records, aliases = _read_index(Reader(block("index"), "index"), num_weights)
    streams = {name: Reader(block(name), name) for name in _BLOCKS}
    tokenizer = join_pieces(block("tokenizer"))
    sections["payload"] = reader.left
    if reader.left != payload_bytes or payload_bytes != sum(record.payload_bytes for record in records):
        wanted = f"the prefix says {payload_bytes}, the index {sum(record.payload_bytes for record in records)}"
        raise ArtifactError("length", f"payload has {reader.left} bytes, {wanted}")
    tensors, plain = {}, {}
    for record in records:
        if record.grid < 2:
            plain[record.name] = _read_planes(streams, _PLAIN[record.grid], record.shape)
        else:
            tensors[record.name] = _read_tensor(record, streams, reader)
    for stream in streams.values():
        stream.end()
    model = QuantizedModel(config, vocab_size, tensors, plain, aliases)
    validate(model, tokenizer)
    return Unpacked(model, tokenizer, records, sections, hashlib.sha256(data).hexdigest(), len(data))


def _check_prefix(data: bytes) -> tuple[int, int]:
    """Magic, version, length and hash, in this order; returns the declared weights and payload bytes."""
    if data[:4] != MAGIC[: len(data[:4])] or not data:
        raise ArtifactError("magic", f"begins with {data[:4]!r}, wanted {MAGIC!r}: not a golf artifact")
    if len(data) < _PREFIX.size:
        raise ArtifactError("length", f"has {len(data)} bytes, the prefix alone has {_PREFIX.size}: truncated")
    _, version, zero, file_bytes, num_weights, payload_bytes, digest = _PREFIX.unpack_from(data)
    if version != VERSION or zero:
        raise ArtifactError("version", f"format version {version}.{zero}, this decoder reads {VERSION}.0")
    if file_bytes != len(data):
        state = "truncated" if file_bytes > len(data) else "extended"
        raise ArtifactError("length", f"has {len(data)} bytes, its prefix says {file_bytes}: {state}")
    body = memoryview(data)
    hashed = hashlib.sha256(body[:_HASH_AT])
    hashed.update(body[_PREFIX.size :])
    if hashed.digest() != digest:
        raise ArtifactError("checksum", f"SHA-256 is {hashed.hexdigest()[:16]}…, its prefix says {digest.hex()[:16]}…")
    most = 64 * len(data) + (1 << 24)  # less than 1/8 bit a weight on average is a lie, whatever the coder
    if num_weights > most:
        raise ArtifactError("length", f"declares {num_weights} weights in {len(data)} bytes, at most {most} allowed")
    return num_weights, payload_bytes


def _read_index(reader: Reader, num_weights: int) -> tuple[dict[str, Any], int, tuple[Record, ...], dict[str, str]]:
    vocab_size = reader.varint("vocabulary size", most=_MAX_VOCAB)
    try:
        config = json.loads(reader.take(reader.varint("config length", most=_MAX_CONFIG), "config"))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, ArtifactError) else ArtifactError("index", f"config: {error}") from error
    count = reader.varint("number of tensors", most=_MAX_TENSORS)
    records, left = [], num_weights
    for _ in range(count):
        records.append(_read_record(reader, left))
        left -= records[-1].weights
    names = [record.name for record in records]
    if left or names != sorted(set(names)):
        raise ArtifactError("index", f"{num_weights - left} weights under {count} names, the prefix says {num_weights}")
    aliases = {}
    for _ in range(reader.varint("number of aliases", most=_MAX_TENSORS)):
        alias = _read_name(reader)
        place = reader.varint(f"{alias} target", most=max(count - 1, 0))
        if not records or alias in aliases:
            raise ArtifactError("index", f"{alias}: tied twice or to nothing")
        aliases[alias] = names[place]
    reader.end()
    return config, vocab_size, tuple(records), aliases


def _read_name(reader: Reader) -> str:
    raw = reader.take(reader.varint("name length", most=_MAX_NAME), "name")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ArtifactError("index", f"tensor name {raw!r} is not UTF-8") from error


def _read_record(reader: Reader, most: int) -> Record:
    name = _read_name(reader)
    role, grid, coder = reader.take(3, f"{name} role, grid and coder")
    if role >= len(ROLES) or grid > 9 or coder not in CODERS or (grid < 2 and coder):
        known = f"roles 0-{len(ROLES) - 1}, grids 0-9, coders {sorted(CODERS)}"
        raise ArtifactError("index", f"{name}: role {role}, grid {grid}, coder {coder}; this decoder knows {known}")
    rank = reader.varint(f"{name} rank", most=_MAX_RANK)
    shape = tuple(reader.varint(f"{name} dimension", most=max(most, 0)) for _ in range(rank))
    if math.prod(shape) > most or (grid >= 2 and rank < 2):
        raise ArtifactError("index", f"{name}: shape {shape} in grid {grid}, {most} weights are left")
    lengths = [reader.varint(f"{name} {field}", most=1 << 40) for field in ("side", "payload")] if grid >= 2 else (0, 0)
    return Record(name, ROLES[role], grid, shape, coder, *lengths)


def _read_planes(streams: dict[str, Reader], dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    count, width = math.prod(shape), dtype.itemsize
    planes = np.empty((count, width), np.uint8)
    low = streams["low"].take(count * (width - 1), f"low bytes of {count} floats")
    planes[:, :-1] = np.frombuffer(low, np.uint8).reshape(width - 1, count).T
    planes[:, -1] = np.frombuffer(streams["high"].take(count, f"high bytes of {count} floats"), np.uint8)
    return planes.reshape(-1).view(dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_tensor(record: Record, streams: dict[str, Reader], payload: Reader) -> QuantizedTensor:
    rows, columns = math.prod(record.shape[:-1]), record.shape[-1]

    scale = _read_codes(record, streams, rows) if record.octave_rows else _read_planes(streams, _PLAIN[0], (rows,))
    codes = _read_codes(record, streams, columns) if record.column_codes else None
    side = streams["side"].take(record.side_bytes, f"{record.name} side data")
    coded = payload.take(record.payload_bytes, f"{record.name} payload")
    values = CODERS[record.coder].decode(side, coded, SideInfo(record.name, rows, columns, scale, codes))
    try:
        return QuantizedTensor(record.name, record.role, record.shape, values, scale, codes, record.trellis)
    except ValueError as error:
        raise ArtifactError("tensor", str(error)) from error


def _read_codes(record: Record, streams: dict[str, Reader], count: int) -> np.ndarray:
    return np.frombuffer(streams["codes"].take(count, f"{record.name} scale codes"), np.int8)
