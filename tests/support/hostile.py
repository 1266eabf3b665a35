"""Damaged and lying files for the tests that read them, and how many of them a run tries."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Callable
from typing import Any

from golf.artifact import layout
from golf.artifact.bytes import Reader, unpack_block, varint

__all__ = ["closed", "damaged", "lying", "lying_tensors", "opened", "sealed", "turns", "with_config"]


def turns(quick: int, long: int) -> int:
    """Tries of one test: ``quick``, or the share GOLF_FUZZ of ``long`` where that is more (1 in `make fuzz`)."""
    return max(quick, round(long * float(os.environ.get("GOLF_FUZZ", "0"))))


def sealed(data: bytes) -> bytes:
    """Length and hash made right again."""
    if len(data) < 64:
        return data
    data = data[:8] + struct.pack("<Q", len(data)) + data[16:]
    return data[:32] + hashlib.sha256(data[:32] + data[64:]).digest() + data[64:]


def opened(data: bytes) -> list[bytes]:
    """Blocks, unpacked, and payload."""
    reader = Reader(data[64:], "whole")
    blocks = [unpack_block(reader, name) for name in ("index", *layout.BLOCKS, "tokenizer")]
    return [*blocks, reader.take(reader.left, "payload")]


def closed(data: bytes, parts: list[bytes]) -> bytes:
    """Blocks stored as they are, so that no compression stands before the parsers; honest lengths and hash."""
    body = b"".join(b"\0" + varint(len(part)) + varint(len(part)) + part for part in parts[:-1]) + parts[-1]
    return sealed(data[:24] + struct.pack("<Q", len(parts[-1])) + bytes(32) + body)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one to four random changes; never itself."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind, at = rng.randrange(6), rng.randrange(len(out) + 1)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out += rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.randrange(1, 5))
        else:
            del out[at : at + rng.randrange(1, 5)]
    return bytes(out) if bytes(out) != data else data + b"\0"


def with_config(data: bytes, text: bytes) -> bytes:
    """The artifact ``data`` with the model configuration ``text`` (JSON), sealed again."""
    parts = opened(data)
    reader = Reader(parts[0], "index")
    vocab_size = reader.varint("vocabulary size", most=1 << 16)
    reader.take(reader.varint("config length", most=1 << 16), "config")
    parts[0] = varint(vocab_size) + varint(len(text)) + text + reader.take(reader.left, "rest")
    return closed(data, parts)


ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: None, lambda rng: True, lambda rng: rng.choice((0, -1, 1, 2, 255, 256, 65535, 65536, 1 << 20, 1 << 31)),
    lambda rng: 1 << rng.choice((32, 53, 63, 64, 200)), lambda rng: rng.random() * 10 ** rng.randrange(-300, 300),
    lambda rng: "x" * rng.choice((0, 1, 300)), lambda rng: "\x1b[2J\n", lambda rng: [], lambda rng: {},
    lambda rng: [[0]], lambda rng: {"a": None},
)  # fmt: skip


def lying(value: Any, rng: random.Random) -> Any:
    """JSON-like ``value`` with one place in it removed, or changed to something odd."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: lying(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], lying(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)(rng)


def lying_tensors(data: bytes, rng: random.Random) -> bytes:
    """The safetensors file ``data`` with one lie: in its metadata, a tensor's type, shape or numbers, or its bytes."""
    (size,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = rng.randrange(5)
    if kind == 0:
        return damaged(data, rng)
    if kind == 1:
        meta = header["__metadata__"]
        meta["meta"] = json.dumps(lying(json.loads(meta["meta"]), rng)) if rng.random() < 0.9 else "{"
    else:
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header[name]
        first, last = entry["data_offsets"]
        if kind == 2 and last > first:  # other numbers
            numbers = bytearray(body)
            for _ in range(rng.choice((1, 1, 8))):
                numbers[rng.randrange(first, last)] = rng.choice((0, 1, 127, 128, 255))
            body = bytes(numbers)
        elif kind == 3:  # another type or shape over the same bytes
            types = {1: ("U8", "I8", "BOOL"), 2: ("U16", "I16", "F16", "BF16"), 4: ("I32", "F32", "U32"),
                     8: ("I64", "F64", "U64")}  # fmt: skip
            width = rng.choice((1, 2, 4, 8))
            if (last - first) % width == 0:
                count = (last - first) // width
                shape = rng.choice(([count], [1, count], [count, 1], [count, 1, 1]))
                header[name] = {"dtype": rng.choice(types[width]), "shape": shape, "data_offsets": [first, last]}
        else:
            del header[name]
            if rng.random() < 0.5:
                header[f"{name}2"] = entry
            else:  # no holes are allowed: the bytes go too
                body = body[:first] + body[last:]
                for other in header.values():
                    if "data_offsets" in other and other["data_offsets"][0] >= last:
                        other["data_offsets"] = [at - last + first for at in other["data_offsets"]]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
