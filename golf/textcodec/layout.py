"""The `.golfz` file: a fixed header, then blocks that decode independently.

    header   magic "GLFZ", version, flags, streams, threads, window, text bytes, tokens, blocks, stated bits,
             SHA-256 of artifact and text, mixture hash, arithmetic (length byte and ASCII), CRC-32 of all this
    block    tokens u32, text bytes u32, code bytes u32, code

Little-endian. The header is written last, in place, so a file in the making has none. Flags: 1 mixture, 2 portable,
4 integer.

A short text in the usual settings has 12 bytes or less in front of its code instead, and no block head:

    0xB7, version * 16 + mixture, 4 bytes that name artifact and settings, CRC-32 of the text, tokens (7 bits a byte)
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple

from golf.base.errors import GolfError

__all__ = [
    "Arithmetic", "BLOCK", "BlockHead", "CodecError", "Header", "MAGIC", "SHORT_MAGIC", "Short", "header_size",
    "read_heads",
]  # fmt: skip

Arithmetic = Literal["fast", "portable", "integer"]
MAGIC = b"GLFZ"
SHORT_MAGIC = 0xB7  # no text in UTF-8 begins with it
VERSION = 3  # 1 and 2 had other bits: library exp and log, other integers in the network
BLOCK = struct.Struct("<III")
_FIXED = struct.Struct("<4sHHHHIQQId32s32s8sB")
_CRC = struct.Struct("<I")
_FLAGS: dict[Arithmetic, int] = {"fast": 0, "portable": 2, "integer": 4}  # 1 is the mixture


class CodecError(GolfError):
    """A text, a coded file, an artifact or a machine do not fit together; the message says which and why."""


class BlockHead(NamedTuple):
    """What stands before the code of a block."""

    tokens: int
    text_bytes: int
    code_bytes: int


@dataclass(frozen=True)
class Header:
    """Everything both sides must agree on, and what the coded text is.

    ``streams`` at most in a block, ``threads`` of the arithmetic (0: any), ``window`` keys of attention,
    ``stated_bits`` the code length that the probabilities promise, ``mixture`` the first 8 bytes of the SHA-256 of
    the mixture's configuration (zeros: none), ``machine`` the arithmetic in words.
    """

    streams: int
    threads: int
    window: int
    arithmetic: Arithmetic
    text_bytes: int
    tokens: int
    blocks: int
    stated_bits: float
    artifact_sha256: str
    text_sha256: str
    mixture: str
    machine: str

    def pack(self) -> bytes:
        """The header's bytes."""
        flags = _FLAGS[self.arithmetic] | (1 if self.mixes else 0)
        machine = self.machine.encode("ascii")
        data = _FIXED.pack(
            MAGIC, VERSION, flags, self.streams, self.threads, self.window, self.text_bytes, self.tokens, self.blocks,
            self.stated_bits, bytes.fromhex(self.artifact_sha256), bytes.fromhex(self.text_sha256),
            bytes.fromhex(self.mixture), len(machine),
        ) + machine  # fmt: skip
        return data + _CRC.pack(zlib.crc32(data))

    @property
    def mixes(self) -> bool:
        """Whether the n-gram mixture is part of the probabilities."""
        return bool(self.mixture.strip("0"))

    @classmethod
    def read(cls, file: BinaryIO, *, where: str) -> Header:
        """Read and check the header at the file's position; ``CodecError`` when it is none or damaged."""
        data = file.read(_FIXED.size)
        if data[:4] != MAGIC:
            raise CodecError(f"{where}: begins with {data[:4]!r}, expected {MAGIC!r}: no file of `golf zip`")
        if len(data) < _FIXED.size:
            raise CodecError(f"{where}: ends inside the header: truncated")
        (_, version, flags, streams, threads, window, text_bytes, tokens, blocks, bits, artifact, text, mixture,
         length) = _FIXED.unpack(data)  # fmt: skip
        if version != VERSION:
            raise CodecError(
                f"{where}: format version {version}, this golf reads {VERSION}; decode it with the golf that coded it"
            )
        arithmetic = next((name for name, flag in _FLAGS.items() if flags & ~1 == flag), None)
        rest = file.read(length + _CRC.size)
        if len(rest) < length + _CRC.size:
            raise CodecError(f"{where}: ends inside the header: truncated")
        data += rest[:length]
        if zlib.crc32(data) != _CRC.unpack(rest[length:])[0]:
            raise CodecError(f"{where}: the header's CRC-32 does not fit its content: damaged")
        if arithmetic is None:
            raise CodecError(f"{where}: flags {flags}, of which this golf knows 1, 2 and 4; use the one that coded it")
        return cls(
            streams=streams, threads=threads, window=window, arithmetic=arithmetic,
            text_bytes=text_bytes, tokens=tokens, blocks=blocks, stated_bits=bits, artifact_sha256=artifact.hex(),
            text_sha256=text.hex(), mixture=mixture.hex(), machine=rest[:length].decode("ascii", "replace"),
        )  # fmt: skip


@dataclass(frozen=True)
class Short:
    """What stands before the code of a short text: ``tokens``, whether the mixture is on, ``name`` (4 bytes) of
    artifact and settings, CRC-32 of the text."""

    tokens: int
    mixes: bool
    name: bytes
    crc: int

    def pack(self) -> bytes:
        """The bytes before the code."""
        number, left = bytearray(), self.tokens
        while left >= 0x80:
            number.append(0x80 | (left & 0x7F))
            left >>= 7
        kind = bytes((SHORT_MAGIC, VERSION << 4 | self.mixes))
        return kind + self.name + _CRC.pack(self.crc) + bytes((*number, left))

    @classmethod
    def read(cls, data: bytes, *, where: str) -> tuple[Short, bytes]:
        """What ``data``, a whole file, begins with, and the code behind it; ``CodecError`` when it is damaged."""
        if len(data) < 2 or data[0] != SHORT_MAGIC:
            raise CodecError(f"{where}: ends inside the header: truncated")
        if data[1] >> 4 != VERSION or data[1] & 0xE:
            raise CodecError(f"{where}: short format {data[1] >> 4}.{data[1] & 15}, this golf reads {VERSION}.0 and "
                             f"{VERSION}.1")  # fmt: skip
        tokens, at = 0, 10
        while True:
            if at >= len(data):
                raise CodecError(f"{where}: ends inside the header: truncated")
            byte = data[at]
            tokens |= (byte & 0x7F) << 7 * (at - 10)
            at += 1
            if byte < 0x80:
                break
            if at > 14:
                raise CodecError(f"{where}: the number of tokens has more than 35 bits: damaged")
        return cls(tokens, bool(data[1] & 1), data[2:6], _CRC.unpack(data[6:10])[0]), data[at:]


def read_heads(file: BinaryIO, header: Header, *, where: str) -> list[BlockHead]:
    """The heads of all blocks behind the header; the file's position is left where it was.

    Raises ``CodecError`` unless they fill the file and add up to what the header states.
    """
    begin = file.tell()
    end = file.seek(0, os.SEEK_END)
    if header.blocks * BLOCK.size > end - begin:
        raise CodecError(
            f"{where}: {end - begin} bytes behind the header, too few for {header.blocks} blocks: truncated"
        )
    heads, at = [], begin
    for index in range(1, header.blocks + 1):
        file.seek(at)
        head = file.read(BLOCK.size)
        if len(head) < BLOCK.size:
            raise CodecError(f"{where}: ends before block {index} of {header.blocks}: truncated")
        heads.append(BlockHead(*BLOCK.unpack(head)))
        at += BLOCK.size + heads[-1].code_bytes
        if at > end:
            raise CodecError(f"{where}: ends inside block {index} of {header.blocks}: truncated")
    if at < end:
        raise CodecError(f"{where}: {end - at} bytes are left behind the last of {header.blocks} blocks: damaged")
    for name, stated in (("tokens", header.tokens), ("text_bytes", header.text_bytes)):
        total = sum(getattr(head, name) for head in heads)
        if total != stated:
            raise CodecError(f"{where}: the header states {stated} {name}, its blocks {total}: damaged")
    file.seek(begin)
    return heads


def header_size(machine: str) -> int:
    """Bytes of a header with this ``machine``."""
    return _FIXED.size + len(machine.encode("ascii")) + _CRC.size
