"""Bytes with known lengths: a bounds-checked reader, varints, and compressed blocks for small data.

A block is ``method u8, raw length varint, packed length varint, packed bytes``; methods: store, zstd, LZMA.
Nothing is allocated before its declared length has been checked. Format: docs/format.md.

A SentencePiece model file is packed in a form that compresses to half: pieces, scores and types apart. The exact bytes
come back, always: a file that does not rebuild is kept as it is. A BPE model numbers its pieces 0, -1, -2, ... in
four-byte floats, which no general compressor can guess; here a score equal to its prediction is one zero byte. Field
numbers are those of sentencepiece_model.proto (ModelProto.pieces = 1; piece 1, score 2, type 3).
"""

from __future__ import annotations

import lzma
import struct
from typing import Literal, get_args

from golf.base.errors import GolfError

__all__ = [
    "ArtifactError", "Cause", "Reader", "join_pieces", "pack_block", "split_pieces", "unpack_block", "varint", "zigzag",
]  # fmt: skip

Cause = Literal["missing", "magic", "version", "length", "checksum", "index", "block", "payload", "tensor"]
_STORE, _ZSTD, _LZMA = 0, 1, 2
MAX_BLOCK_BYTES = 1 << 28


class ArtifactError(GolfError):
    """An artifact cannot be read or may not be written; ``cause`` is one of a closed set, the message has numbers."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        assert cause in get_args(Cause), cause
        self.cause = cause


class Reader:
    """Reads a byte string front to back and refuses to go past its end (``ArtifactError``, cause ``length``)."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._at, self._what = memoryview(data), 0, what

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._at

    def take(self, count: int, field: str) -> bytes:
        """The next ``count`` bytes."""
        if count > self.left:
            raise ArtifactError(
                "length", f"{self._what}: {field} wants {count} bytes at byte {self._at}, {self.left} are left"
            )
        start, self._at = self._at, self._at + count
        return bytes(self._data[start : self._at])

    def byte(self, field: str) -> int:
        """The next byte as a number."""
        return self.take(1, field)[0]

    def peek(self) -> int:
        """The next byte, left where it is; there must be one."""
        return self._data[self._at]

    def varint(self, field: str, *, most: int) -> int:
        """An unsigned LEB128 number, at most ``most``, in its shortest form."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.byte(field)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise ArtifactError("index", f"{self._what}: {field} is not in its shortest form")
                if value > most:
                    raise ArtifactError("index", f"{self._what}: {field} is {value}, at most {most} is allowed")
                return value
        raise ArtifactError("index", f"{self._what}: {field} is longer than 9 bytes")

    def signed(self, field: str, *, most: int) -> int:
        """A zigzag varint with magnitude at most ``most``."""
        folded = self.varint(field, most=2 * most)
        return (folded >> 1) ^ -(folded & 1)

    def end(self) -> None:
        """Assert that everything was read."""
        if self.left:
            raise ArtifactError("length", f"{self._what}: {self.left} bytes left over after the last field")


def varint(value: int) -> bytes:
    """Unsigned LEB128: 7 bits a byte, low bits first, high bit set on all but the last."""
    assert value >= 0, value
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> bytes:
    """A signed number as a varint: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    return varint(value * 2 if value >= 0 else -value * 2 - 1)


def _filters(dict_size: int = 1 << 23) -> list[dict[str, int]]:
    # raw LZMA1 with parameters that are part of the format, so no header; the dictionary bounds the memory
    preset = 9 | lzma.PRESET_EXTREME
    return [{"id": lzma.FILTER_LZMA1, "preset": preset, "dict_size": dict_size, "lc": 3, "lp": 0, "pb": 2}]


def pack_block(data: bytes, *, try_lzma: bool = False) -> bytes:
    """Pack ``data`` with zstd -22 (or LZMA too, which is better on text), or store it when that is smaller."""
    import zstandard

    params = zstandard.ZstdCompressionParameters.from_level(
        22, source_size=len(data), write_checksum=False, write_content_size=True, write_dict_id=False
    )
    packed = zstandard.ZstdCompressor(compression_params=params).compress(data)
    tried = [(_STORE, data), (_ZSTD, packed)]
    if try_lzma:
        window = min(1 << 23, max(1 << 12, len(data)))  # the encoder's may be smaller than the decoder's
        tried.append((_LZMA, lzma.compress(data, format=lzma.FORMAT_RAW, filters=_filters(window))))
    method, packed = min(tried, key=lambda item: len(item[1]))  # the first wins a tie
    return bytes([method]) + varint(len(data)) + varint(len(packed)) + packed


def unpack_block(reader: Reader, field: str, *, most: int = MAX_BLOCK_BYTES) -> bytes:
    """Read one block; raises ``ArtifactError`` (``block``) when it does not unpack to its declared length."""
    method = reader.byte(f"{field} method")
    raw_bytes = reader.varint(f"{field} raw length", most=most)
    packed = reader.take(reader.varint(f"{field} packed length", most=MAX_BLOCK_BYTES), field)
    if method == _STORE:
        data = packed
    elif method == _ZSTD:
        data = _decompress(packed, raw_bytes, field)
    elif method == _LZMA:
        try:
            window = min(1 << 23, max(1 << 12, raw_bytes))  # allocated whole
            decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_filters(window))
            data = decompressor.decompress(packed, max_length=raw_bytes + 1)
        except lzma.LZMAError as error:
            raise ArtifactError("block", f"{field}: does not unpack ({error})") from error
    else:
        raise ArtifactError("block", f"{field}: method {method} is unknown, expected 0 store, 1 zstd or 2 LZMA")
    if len(data) != raw_bytes:
        raise ArtifactError("block", f"{field}: unpacks to {len(data)} bytes, {raw_bytes} were declared")
    return data


def _decompress(packed: bytes, raw_bytes: int, field: str) -> bytes:
    import zstandard

    try:
        declared = zstandard.get_frame_parameters(packed).content_size
        if declared != raw_bytes:  # the frame's own claim decides what the library allocates
            raise ArtifactError("block", f"{field}: frame holds {declared} bytes, {raw_bytes} were declared")
        # max_window_size bounds memory for frames that lie about their window
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return decompressor.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ArtifactError("block", f"{field}: does not unpack ({error})") from error


MAX_PIECES = 1 << 16  # ids are uint16
_MOST = 1 << 28
_PIECE, _TEXT, _SCORE, _TYPE = 0x0A, 0x0A, 0x15, 0x18
_WHOLE, _SPLIT = b"\0", b"\1"


def split_pieces(data: bytes) -> bytes:
    """``data`` as a form byte and either itself (0) or its parts (1): lengths, texts, types, scores, the rest."""
    try:
        split = _SPLIT + _split(data)
        if join_pieces(split) == data:
            return split
    except ArtifactError:  # not the layout that SentencePiece writes
        pass
    return _WHOLE + data


def _split(data: bytes) -> bytes:
    reader = Reader(data, "tokenizer")
    lengths, texts, types, scores = [], [], bytearray(), []
    expected = 0
    while reader.left and reader.peek() == _PIECE:
        reader.byte("tag")
        piece = Reader(reader.take(reader.varint("piece length", most=_MOST), "piece"), "piece")
        piece.byte("text tag")
        texts.append(piece.take(piece.varint("text length", most=_MOST), "text"))
        lengths.append(varint(len(texts[-1])))
        piece.byte("score tag")
        score = piece.take(4, "score")
        types.append(piece.take(2, "type")[1] if piece.left else 0)
        piece.end()
        scores.append(b"\0" if score == _predicted(types[-1], expected) else b"\1" + score)
        expected += types[-1] == 0
    parts = (b"".join(lengths), b"".join(texts), bytes(types), b"".join(scores))
    return varint(len(lengths)) + b"".join(parts) + reader.take(reader.left, "rest")


def _predicted(kind: int, place: int) -> bytes:
    """The score of piece number ``place`` of the learned ones; marked kinds (control, byte, ...) have 0."""
    return struct.pack("<f", -float(place)) if kind == 0 else bytes(4)


def join_pieces(split: bytes) -> bytes:
    """Inverse of ``split_pieces``; raises ``ArtifactError`` for parts that do not fit together."""
    reader = Reader(split, "tokenizer")
    form = reader.take(1, "form")
    if form == _WHOLE:
        return reader.take(reader.left, "tokenizer")
    if form != _SPLIT:
        raise ArtifactError("index", f"tokenizer: form {form[0]} is unknown, expected 0 (whole) or 1 (split)")
    count = reader.varint("number of pieces", most=min(reader.left, MAX_PIECES))
    lengths = [reader.varint("text length", most=reader.left) for _ in range(count)]
    texts = [reader.take(length, "text") for length in lengths]
    types = reader.take(count, "types")
    out, expected = [], 0
    for text, kind in zip(texts, types, strict=True):
        exact = reader.byte("score flag")
        score = reader.take(4, "score") if exact else _predicted(kind, expected)
        expected += kind == 0
        body = bytes([_TEXT]) + varint(len(text)) + text + bytes([_SCORE]) + score
        body += bytes([_TYPE, kind]) if kind else b""
        out.append(bytes([_PIECE]) + varint(len(body)) + body)
    return b"".join(out) + reader.take(reader.left, "rest")
