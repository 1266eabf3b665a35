"""The byte ledger: how many bytes of UTF-8 text each token stands for.

Shapes: V tokens of the vocabulary. The rule is that of the competition (openai/parameter-golf, PR #895):

    bytes(y after x) = base_bytes[y] + (1 if has_leading_space[y] and not is_boundary[x] else 0)

Control, unknown and unused pieces: 0 bytes, boundary. Byte-fallback pieces: 1 byte. Other pieces: the UTF-8 length
without one leading U+2581, which is a space unless a boundary (the start of the document) precedes it, where a
normalizing tokenizer drops it. A lossless tokenizer drops nothing: there nothing is a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from golf.base.files import save_numpy

__all__ = ["SPACE", "ByteTable", "PieceModel", "byte_table", "count_pieces", "piece_bytes"]

SPACE = "\u2581"  # SentencePiece's mark for a space


class PieceModel(Protocol):
    """The part of ``sentencepiece.SentencePieceProcessor`` that the ledger reads."""

    def get_piece_size(self) -> int: ...
    def id_to_piece(self, id: int) -> str: ...
    def is_control(self, id: int) -> bool: ...
    def is_unknown(self, id: int) -> bool: ...
    def is_unused(self, id: int) -> bool: ...
    def is_byte(self, id: int) -> bool: ...


@dataclass(frozen=True)
class ByteTable:
    """``base_bytes`` int16 (V,), ``has_leading_space`` bool (V,), ``is_boundary`` bool (V,)."""

    base_bytes: np.ndarray
    has_leading_space: np.ndarray
    is_boundary: np.ndarray

    def token_bytes(self, tokens: np.ndarray) -> np.ndarray:
        """Bytes of ``tokens[1:]``, int64 (N-1,), each given the token before it; ``tokens`` begins with BOS."""
        targets, previous = tokens[1:], tokens[:-1]
        spaces = self.has_leading_space[targets] & ~self.is_boundary[previous]
        return self.base_bytes[targets].astype(np.int64) + spaces

    def num_bytes(self, tokens: np.ndarray) -> int:
        """Bytes of a document (or a stream of documents) that begins with BOS."""
        targets = tokens[1:]
        with_space = int(self.with_space[targets].sum(dtype=np.int64))
        behind = np.flatnonzero(self.is_boundary[tokens[:-1]])  # few: those lose their leading space
        return with_space - int(self.has_leading_space[targets[behind]].sum())

    @cached_property
    def with_space(self) -> np.ndarray:
        """Bytes of each token where nothing before it is a boundary, int16 (V,)."""
        return self.base_bytes + self.has_leading_space

    def save(self, path: str | Path) -> None:
        """Write the three arrays as safetensors."""
        arrays = {
            "base_bytes": self.base_bytes,
            "has_leading_space": self.has_leading_space.astype(np.uint8),
            "is_boundary": self.is_boundary.astype(np.uint8),
        }
        save_numpy(path, arrays, {"rule": "base + (has_leading_space[y] and not is_boundary[x])"})


def piece_bytes(model: PieceModel, token: int) -> bytes:
    """The bytes one piece stands for, its leading space included; control, unknown and unused pieces have none."""
    if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
        return b""
    piece = model.id_to_piece(token)
    if model.is_byte(token):
        return bytes([int(piece[3:5], 16)])  # "<0x41>"
    return piece.replace(SPACE, " ").encode()


def byte_table(model: PieceModel, *, lossless: bool) -> ByteTable:
    """The table of a tokenizer; ``lossless`` says that a leading space is a real one even after BOS."""
    size = model.get_piece_size()
    base = np.zeros(size, dtype=np.int16)
    space = np.zeros(size, dtype=bool)
    boundary = np.zeros(size, dtype=bool)
    for token in range(size):
        if model.is_control(token) or model.is_unknown(token) or model.is_unused(token):
            boundary[token] = not lossless
            continue
        space[token] = not model.is_byte(token) and model.id_to_piece(token).startswith(SPACE)
        base[token] = len(piece_bytes(model, token)) - int(space[token])
    return ByteTable(base, space, boundary)


def count_pieces(model: bytes) -> int:
    """Pieces (field 1, a message) that a protobuf of a model declares; counting stops beyond 65,536 of them."""
    at = count = 0
    while at < len(model) and count <= 1 << 16:
        tag, at = _varint(model, at)
        kind = tag & 7
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind in (0, 2):
            value, at = _varint(model, at)
            size = value if kind == 2 else 0
        elif not size:
            break  # no field that a model has: SentencePiece says what is wrong
        count += tag >> 3 == 1
        at += size
    return count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128 or shift > 63:
            break
    return value, at
