"""Local corpora: plain text files, and JSON lines with ``{"text": ...}`` a line."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from golf.data.documents import CorpusError, Document, Position, decode_utf8, open_binary

__all__ = ["JsonLines", "TextFiles"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz")


@dataclass(frozen=True)
class TextFiles:
    """One ``.txt`` file, or a folder of them; each file is one document.

    Files are taken byte for byte: no newline is translated, no byte order mark removed.
    """

    path: Path
    license: str = "unknown"
    attribution: str = "local text files"

    def files(self) -> list[Path]:
        """The files in name order, subfolders included."""
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise CorpusError(f"{self.path}: not found; put .txt files there or set tokenize.path")
        files = sorted(path for path in self.path.rglob("*.txt") if path.is_file())
        if not files:
            raise CorpusError(f"{self.path}: found no .txt file; set tokenize.path")
        return files

    def documents(self, position: Position) -> Iterator[Document]:
        """One document a file; empty files are skipped."""
        for number, path in enumerate(self.files(), start=1):
            data = path.read_bytes()
            where = f"{path} (document {number})"
            text = decode_utf8(data, where)
            position.before += len(data)
            if text:
                yield Document(where=where, text=text)


@dataclass(frozen=True)
class JsonLines:
    """A file or a folder of ``.jsonl``, ``.jsonl.gz`` or ``.jsonl.xz``, one document per line.

    Other keys than ``text`` are ignored, blank lines and empty texts skipped.
    """

    path: Path
    license: str = "unknown"
    attribution: str = "local JSON lines"

    def files(self) -> list[Path]:
        """The files in name order."""
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise CorpusError(f"{self.path}: not found; put {', '.join(SUFFIXES)} there or set tokenize.path")
        files = sorted(path for path in self.path.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
        if not files:
            raise CorpusError(f"{self.path}: found no {', '.join(SUFFIXES)} file; set tokenize.path")
        return files

    def documents(self, position: Position) -> Iterator[Document]:
        """Documents in file and line order."""
        for path in self.files():
            yield from _read(path, position)


def _read(path: Path, position: Position) -> Iterator[Document]:
    number = offset = 0
    try:
        with open_binary(path, position) as file:
            for number, line in enumerate(file, start=1):
                text = _text(line, path, number, offset)
                offset += len(line)
                if text:
                    yield Document(where=f"{path}:{number}", text=text)
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise CorpusError(f"{path}: damaged after line {number} ({error}); get the file again") from error


def _text(line: bytes, path: Path, number: int, offset: int) -> str:
    where = f"{path}:{number}"
    decoded = decode_utf8(line, f"{where} (document {number})", offset=offset)
    if not decoded.strip():
        return ""
    try:
        record = json.loads(decoded)
    except ValueError as error:
        raise CorpusError(f"{where}: not a JSON line ({error})") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise CorpusError(f"{where}: found {decoded.strip()[:60]!r}, wanted an object with a string under `text`")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: `text` holds a lone surrogate at character {error.start}") from error
    return text
