"""Plain text: one ``.txt`` file, or a folder of them; each file is one document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from golf.corpus.documents import CorpusError, Document, Position, decode_utf8

__all__ = ["TextFiles"]


@dataclass(frozen=True)
class TextFiles:
    """Files taken byte for byte: no newline is translated, no byte order mark removed."""

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
