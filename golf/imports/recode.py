"""A GGUF whose weights are quantized already, made smaller without loss: the same file comes back, byte for byte.

A second quantizer on the grid of a first one loses twice; entropy coding of the blocks that are there loses nothing.
Blocks of Q4_0, Q4_1 and Q8_0 (32 numbers of a row each, behind one or two float16) are taken apart: integers go to the
coders of the artifact as a matrix, the float16 to byte planes. All other bytes are packed as they are.

File: ``GOLFGGUF``, version u8, SHA-256 of the GGUF, blocks of ``golf.artifact.bytes``: index (JSON: size of the GGUF,
tensors), other bytes, planes; then the payloads. Layout of blocks: ggml-common.h of ggml-org/llama.cpp.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.artifact.bytes import ArtifactError, Reader, pack_block, unpack_block
from golf.artifact.coders import DECODERS, Encoded, SideInfo, encode_smallest
from golf.base.params import Count, Natural, from_dict
from golf.imports.gguf_file import gguf_reader
from golf.imports.tables import OriginError

__all__ = ["MAGIC", "recode", "restore"]

MAGIC = b"GOLFGGUF\1"
_HALVES = {"Q4_0": 1, "Q4_1": 2, "Q8_0": 1}  # float16 in front of the 32 numbers of a block
_CODERS = ("rans", "columns", "context", "raw")


@dataclass(frozen=True)
class _Tensor:
    """One coded tensor: where it lies in the GGUF, rows and columns, type, and how its integers are coded."""

    name: str
    start: Natural
    rows: Count
    columns: Count
    kind: str
    coder: Natural
    side: Natural
    payload: Natural

    @property
    def num_bytes(self) -> int:
        return self.rows * (self.columns // 32) * _block_bytes(self.kind)


@dataclass(frozen=True)
class _Index:
    size: Natural
    tensors: tuple[_Tensor, ...]


def _block_bytes(kind: str) -> int:
    return 2 * _HALVES[kind] + (32 if kind == "Q8_0" else 16)


def recode(path: Path, *, threads: int = 1) -> bytes:
    """The GGUF at ``path`` coded; raises ``OriginError`` when it is none or has no block that is taken apart here."""
    reader = gguf_reader(path)
    data = np.memmap(path, np.uint8, "r")
    chosen = [t for t in reader.tensors if t.tensor_type.name in _HALVES and int(t.shape[0]) % 32 == 0]
    if not chosen:
        raise OriginError(f"{path}: has no blocks of {', '.join(_HALVES)}; only those are recoded here")

    def code(tensor: Any) -> tuple[_Tensor, Encoded, NDArray[np.uint8]]:
        columns, kind, start = int(tensor.shape[0]), tensor.tensor_type.name, int(tensor.data_offset)
        rows = int(tensor.n_elements) // columns
        raw = np.asarray(data[start : start + int(tensor.n_bytes)])
        values, halves = _apart(raw, rows, columns, kind)
        coded = encode_smallest(values, _info(tensor.name, rows, columns), coders=(*_CODERS, *_linear(tensor.name)))
        sizes = coded.coder, len(coded.side), len(coded.payload)
        return _Tensor(tensor.name, start, rows, columns, kind, *sizes), coded, halves

    with ThreadPoolExecutor(threads) as pool:
        found = sorted(pool.map(code, chosen), key=lambda item: item[0].start)
    index = _Index(len(data), tuple(item[0] for item in found))
    rest = b"".join(data[start:end].tobytes() for start, end in _between(index))
    planes = [np.concatenate([halves[i::2] for _, _, halves in found]).tobytes() for i in range(2)]
    described = {"size": index.size, "tensors": [vars(tensor) for tensor in index.tensors]}
    parts = [json.dumps(described).encode(), rest, *planes]
    blocks = [pack_block(part, try_lzma=True) for part in parts]
    payload = [piece for _, coded, _ in found for piece in (coded.side, coded.payload)]
    return b"".join([MAGIC, hashlib.sha256(data.tobytes()).digest(), *blocks, *payload])


def restore(data: bytes, *, where: str, threads: int = 1) -> bytes:
    """The GGUF that ``recode`` read; raises ``ArtifactError`` for anything but its output."""
    if not data.startswith(MAGIC):
        raise ArtifactError("magic", f"{where}: begins with {data[:9]!r}, expected {MAGIC!r}: no recoded GGUF")
    reader = Reader(data[len(MAGIC) :], where)
    digest = reader.take(32, "SHA-256")
    try:
        described = json.loads(unpack_block(reader, "index"))
        index = from_dict(_Index, described, where=f"{where}: index")
    except (ValueError, RecursionError) as error:
        raise ArtifactError("index", f"{where}: {error}") from error
    rest = unpack_block(reader, "other bytes")
    planes = [unpack_block(reader, "planes") for _ in range(2)]
    _check(index, len(rest), [len(plane) for plane in planes], where)
    jobs = [(t, reader.take(t.side, t.name), reader.take(t.payload, t.name)) for t in index.tensors]
    reader.end()
    out = np.zeros(index.size, np.uint8)
    at = 0
    for start, end in _between(index):
        out[start:end] = np.frombuffer(rest[at : at + end - start], np.uint8)
        at += end - start
    low, high = (np.frombuffer(plane, np.uint8) for plane in planes)
    counts = [tensor.rows * (tensor.columns // 32) * _HALVES[tensor.kind] for tensor in index.tensors]
    starts = np.cumsum([0, *counts])

    def decode(job: tuple[int, tuple[_Tensor, bytes, bytes]]) -> None:
        i, (tensor, side, payload) = job
        info = _info(tensor.name, tensor.rows, tensor.columns)
        values = DECODERS[tensor.coder](side, payload, info)
        halves = np.stack([low[starts[i] : starts[i + 1]], high[starts[i] : starts[i + 1]]], 1).reshape(-1)
        out[tensor.start : tensor.start + tensor.num_bytes] = _together(values, halves, tensor.kind)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, enumerate(jobs)))
    if hashlib.sha256(out.tobytes()).digest() != digest:
        raise ArtifactError("checksum", f"{where}: decodes to another file than was coded: damaged")
    return out.tobytes()


def _check(index: _Index, rest: int, halves: list[int], where: str) -> None:
    """Every size that the index declares against what is there, before memory is taken on its word."""
    end = 0
    for tensor in index.tensors:
        if tensor.kind not in _HALVES or tensor.coder not in DECODERS or tensor.columns % 32 or tensor.start < end:
            raise ArtifactError("index", f"{where}: {tensor.name}: {tensor.kind} at {tensor.start} is not possible")
        end = tensor.start + tensor.num_bytes
    coded = sum(tensor.num_bytes for tensor in index.tensors)
    wanted = sum(t.rows * (t.columns // 32) * _HALVES[t.kind] for t in index.tensors)
    if end > index.size or coded + rest != index.size or [wanted] * 2 != halves:
        raise ArtifactError("index", f"{where}: {coded} coded and {rest} other bytes do not make {index.size}")


def _between(index: _Index) -> Iterator[tuple[int, int]]:
    """The parts of the GGUF that no coded tensor covers."""
    at = 0
    for tensor in index.tensors:
        yield at, tensor.start
        at = tensor.start + tensor.num_bytes
    yield at, index.size


def _linear(name: str) -> tuple[str, ...]:
    return ("linear",) if "embd" in name else ()


def _info(name: str, rows: int, columns: int) -> SideInfo:
    return SideInfo(name, rows, columns, np.zeros(rows, np.int8), None)


def _apart(raw: NDArray[np.uint8], rows: int, columns: int, kind: str) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Integers (R, C) and the bytes of the float16 of all blocks in order."""
    blocks, head = raw.reshape(-1, _block_bytes(kind)), 2 * _HALVES[kind]
    body = np.ascontiguousarray(blocks[:, head:])
    if kind == "Q8_0":
        values = body.view(np.int8).astype(np.int16)
    else:
        values = np.concatenate([body & 15, body >> 4], axis=1).astype(np.int16) - 8
    return values.reshape(rows, columns), np.ascontiguousarray(blocks[:, :head]).reshape(-1)


def _together(values: NDArray[np.int16], halves: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    blocks, head = values.reshape(-1, 32), halves.reshape(-1, 2 * _HALVES[kind])
    body: NDArray[Any]
    if kind == "Q8_0":
        body = blocks.astype(np.int8).view(np.uint8)
    else:
        low, high = np.split((blocks + 8).astype(np.uint8), 2, axis=1)
        body = low | (high << 4)
    return np.concatenate([head, body], axis=1).reshape(-1)
