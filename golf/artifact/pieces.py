"""A SentencePiece model file in a form that compresses to half: pieces, scores and types apart.

The exact bytes come back, always: a file that does not rebuild is kept as it is. A BPE model numbers its pieces
0, -1, -2, ... in four-byte floats, which no general compressor can guess; here a score equal to its prediction is one
zero byte. Field numbers are those of sentencepiece_model.proto (ModelProto.pieces = 1; piece 1, score 2, type 3).
"""

from __future__ import annotations

import struct

from golf.artifact.bytes import ArtifactError, Reader, varint

__all__ = ["join_pieces", "split_pieces"]

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
        raise ArtifactError("index", f"tokenizer: form {form[0]} is unknown, wanted 0 (whole) or 1 (split)")
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
