"""What a corpus yields, and the error every source raises."""

from __future__ import annotations

import contextlib
import gzip
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from golf.base.errors import GolfError

__all__ = ["Corpus", "CorpusError", "Document", "Position", "decode_utf8", "open_binary"]


class CorpusError(GolfError):
    """The corpus is missing, damaged, empty or too small; the message names the file and the way out."""


@dataclass(frozen=True)
class Document:
    """One document: either ``text``, or ``ids`` (uint16 (T,), BOS not included) of an already tokenized corpus.

    ``side`` is "train" or "val" where the corpus itself says so, else None (the hash decides).
    ``where`` names the document in messages, as ``file, document 12``.
    """

    where: str
    text: str | None = None
    ids: np.ndarray | None = None
    side: str | None = None


class Position:
    """Bytes of the files on disk consumed so far, for a progress bar."""

    def __init__(self) -> None:
        self.before = 0
        self.file: IO[bytes] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes read from disk, compressed ones where the file is compressed."""
        return self.before + (self.file.tell() if self.file is not None else 0)


class Corpus(Protocol):
    """A source of documents that can be iterated again and again, always in the same order."""

    @property
    def license(self) -> str:
        """Terms the text is under."""
        ...

    @property
    def attribution(self) -> str:
        """Who made the text."""
        ...

    def files(self) -> list[Path]:
        """The files it consists of, in reading order."""
        ...

    def documents(self, position: Position) -> Iterator[Document]:
        """Stream the non-empty documents, keeping ``position`` up to date."""
        ...


def decode_utf8(data: bytes, where: str, *, offset: int = 0) -> str:
    """Decode strictly; ``CorpusError`` gives the place and the byte offset (``offset`` is where ``data`` begins)."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: invalid UTF-8 at byte offset {offset + error.start} (0x{data[error.start]:02x}); "
            "the corpus must be UTF-8 text"
        ) from error


@contextlib.contextmanager
def open_binary(path: Path, position: Position) -> Iterator[IO[bytes]]:
    """Open a plain, ``.gz`` or ``.xz`` file for reading bytes, its place on disk shown by ``position``."""
    with open(path, "rb") as raw:
        position.file = raw
        try:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw, mode="rb") as unzipped:
                    yield unzipped  # type: ignore[misc]
            elif path.suffix == ".xz":
                with lzma.LZMAFile(raw) as unpacked:
                    yield unpacked
            else:
                yield raw
        finally:
            position.before, position.file = position.before + raw.tell(), None
