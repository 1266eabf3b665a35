"""The kinds of corpus by name, and those of one's own: text files, JSON lines, tables with a column of text, parquet.

What each takes, skips and refuses stands in ``docs/corpora.md``.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from golf.base.files import sha256_file
from golf.base.params import quoted
from golf.data.competition import CompetitionShards
from golf.data.documents import (
    COMPRESSIONS,
    DAMAGED,
    MAX_DOCUMENT_BYTES,
    Corpus,
    CorpusError,
    Document,
    Files,
    Position,
    decode_utf8,
    find_files,
    open_binary,
    read_lines,
    too_long,
)
from golf.data.enwik8 import Enwik8

__all__ = [
    "JsonLines", "KINDS", "Options", "Parquet", "Tables", "TextFiles", "WithValidation", "open_corpus", "source_sha256",
]  # fmt: skip


def _endings(*names: str) -> tuple[str, ...]:
    return tuple(name + compression for name in names for compression in COMPRESSIONS)


@dataclass(frozen=True)
class TextFiles:
    """One ``.txt`` file, or a folder of them, compressed or not; each file is one document.

    Files are taken byte for byte: no newline is translated, no byte order mark removed.
    """

    path: Path
    license: str = "unknown"
    attribution: str = "local text files"

    def files(self) -> Files:
        """The files in name order, subfolders included."""
        return find_files(self.path, _endings(".txt"))

    def documents(self, position: Position) -> Iterator[Document]:
        """One document a file; empty files are skipped."""
        for number, path in enumerate(self.files().paths, start=1):
            where = f"{path} (document {number})"
            try:
                with open_binary(path, position) as file:
                    data = file.read(MAX_DOCUMENT_BYTES + 1)
            except DAMAGED as error:
                raise CorpusError(f"{where}: damaged ({error}); get the file again") from error
            if len(data) > MAX_DOCUMENT_BYTES:
                raise too_long(where)
            yield from _document(decode_utf8(data, where), where, position)


@dataclass(frozen=True)
class JsonLines:
    """A file or a folder of ``.jsonl``, compressed or not, one document per line under the key ``text_key``.

    Other keys are ignored; blank lines, and lines whose text is null or empty, are skipped.
    """

    path: Path
    text_key: str = "text"
    license: str = "unknown"
    attribution: str = "local JSON lines"

    def files(self) -> Files:
        """The files in name order, subfolders included."""
        return find_files(self.path, _endings(".jsonl"))

    def documents(self, position: Position) -> Iterator[Document]:
        """Documents in file and line order."""
        for path in self.files().paths:
            for number, offset, line in read_lines(path, position):
                where = f"{path}:{number}"
                decoded = decode_utf8(line, f"{where} (document {number})", offset=offset)
                if not decoded.strip():
                    continue
                yield from _document(self._text(decoded, where), where, position)

    def _text(self, line: str, where: str) -> str | None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: not a JSON line ({error})") from error
        if not isinstance(record, dict) or self.text_key not in record:
            raise CorpusError(
                f"{where}: found {quoted(line.strip())}, expected an object with a string under `{self.text_key}`; "
                "set tokenize.text_key to the key of the text"
            )
        return _string(record[self.text_key], where, self.text_key)


@dataclass(frozen=True)
class Tables:
    """A file or a folder of ``.csv`` and ``.tsv``, compressed or not, whose first row names the columns."""

    path: Path
    text_key: str = "text"
    license: str = "unknown"
    attribution: str = "local tables"

    def files(self) -> Files:
        """The files in name order, subfolders included."""
        return find_files(self.path, _endings(".csv", ".tsv"))

    def documents(self, position: Position) -> Iterator[Document]:
        """One document a row, the text of column ``text_key``; quoted fields may hold newlines."""
        for path in self.files().paths:
            yield from self._rows(path, position)

    def _rows(self, path: Path, position: Position) -> Iterator[Document]:
        csv.field_size_limit(MAX_DOCUMENT_BYTES)
        lines = (
            decode_utf8(line, f"{path}:{number}", offset=offset) for number, offset, line in read_lines(path, position)
        )
        rows = csv.reader(lines, delimiter="\t" if ".tsv" in path.name.lower() else ",", strict=True)
        header: list[str] = []
        try:
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if not header:
                    header = row
                    _require_column(header, self.text_key, where)
                elif row and len(row) != len(header):
                    raise CorpusError(f"{where}: a row of {len(row)} fields, the first row has {len(header)}")
                elif row:
                    yield from _document(row[header.index(self.text_key)], where, position)
        except csv.Error as error:
            raise CorpusError(f"{path}:{rows.line_num}: not a row of a table ({error})") from error


@dataclass(frozen=True)
class Parquet:
    """A file or a folder of ``.parquet`` with a column ``text_key`` of strings (a dataset as the hub stores it)."""

    path: Path
    text_key: str = "text"
    license: str = "unknown"
    attribution: str = "local parquet files"

    def files(self) -> Files:
        """The files in name order, subfolders included."""
        return find_files(self.path, (".parquet",))

    def documents(self, position: Position) -> Iterator[Document]:
        """Documents in file and row order, read a few rows at a time."""
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise CorpusError(f"{self.path}: parquet files need pyarrow: pip install 'golf[parquet]'") from error
        for path in self.files().paths:
            row = 0
            try:
                with pyarrow.parquet.ParquetFile(path) as file:
                    _require_column(file.schema_arrow.names, self.text_key, str(path))
                    for batch in file.iter_batches(batch_size=64, columns=[self.text_key]):
                        for value in batch.column(0).to_pylist():
                            row += 1
                            where = f"{path}, row {row}"
                            yield from _document(_string(value, where, self.text_key), where, position)
            except (pyarrow.ArrowException, OSError) as error:
                raise CorpusError(f"{path}: damaged after row {row} ({error}); get the file again") from error
            position.before += path.stat().st_size


def _require_column(names: list[str], key: str, where: str) -> None:
    if names.count(key) != 1:
        raise CorpusError(
            f"{where}: found the columns {quoted(names)}, expected one named `{key}`; "
            "set tokenize.text_key to the column of the text"
        )


def _string(value: object, where: str, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise CorpusError(f"{where}: found {quoted(value)} under `{key}`, expected a string")
    try:
        if value:
            value.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: `{key}` holds a lone surrogate at character {error.start}") from error
    return value


def _document(text: str | None, where: str, position: Position) -> Iterator[Document]:
    """The document, or none where there is no text: that is counted."""
    if not text:
        position.skipped["without text"] += 1
    elif len(text) > MAX_DOCUMENT_BYTES // 4 and len(text.encode()) > MAX_DOCUMENT_BYTES:
        raise too_long(where)
    else:
        yield Document(where=where, text=text)


@dataclass(frozen=True)
class Options:
    """What some kinds of corpus need: workers, the key of the text, and the vocabulary and BOS of given ids."""

    pool: ProcessPoolExecutor | None = None
    text_key: str = "text"
    vocab_size: int = 0
    bos_id: int = 1


KINDS: dict[str, Callable[[Path, Options], Corpus]] = {  # the values of tokenize.source
    "enwik8": lambda path, options: Enwik8(path, options.pool),
    "jsonl": lambda path, options: JsonLines(path, options.text_key),
    "text": lambda path, options: TextFiles(path),
    "table": lambda path, options: Tables(path, options.text_key),
    "parquet": lambda path, options: Parquet(path, options.text_key),
    "shards": lambda path, options: CompetitionShards(path, options.vocab_size, options.bos_id),
}


def open_corpus(kind: str, path: str | Path, options: Options | None = None) -> Corpus:
    """Open a corpus of one of the ``KINDS``. Raises ``CorpusError`` when its files are missing."""
    corpus = KINDS[kind](Path(path), options or Options())
    corpus.files()
    return corpus


def source_sha256(corpus: Corpus) -> str:
    """SHA-256 over the names and contents of the corpus files; of a single file, its own hash."""
    files = corpus.files().paths
    if len(files) == 1:
        return sha256_file(files[0])
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True)
class WithValidation:
    """A corpus and a separate validation corpus, which comes first, so that copies of its documents are found."""

    val: Corpus
    train: Corpus

    @property
    def license(self) -> str:
        return self.train.license

    @property
    def attribution(self) -> str:
        return self.train.attribution

    def files(self) -> Files:
        parts = self.val.files(), self.train.files()
        skipped: dict[str, list[str]] = {}
        for part in parts:
            for reason, names in part.skipped.items():
                skipped.setdefault(reason, []).extend(names)
        return Files([path for part in parts for path in part.paths], skipped)

    def documents(self, position: Position) -> Iterator[Document]:
        for side, corpus in (("val", self.val), ("train", self.train)):
            for document in corpus.documents(position):
                yield replace(document, side=side)
