"""The default corpus: the articles of enwik8, the first 10^8 bytes of English Wikipedia of March 2006."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from golf.data.documents import (
    DAMAGED,
    MAX_DOCUMENT_BYTES,
    CorpusError,
    Document,
    Files,
    Position,
    decode_utf8,
    open_binary,
    ordered_map,
    too_long,
)
from golf.data.wikitext import clean_wikitext, is_article, is_redirect, unescape

__all__ = ["Enwik8"]

FETCH = "`golf fetch enwik8`"
MIN_CHARACTERS = 1500  # shorter pages are stubs, disambiguations and what is left of tables
_BATCH_BYTES = 400_000
_READ_BYTES = 1 << 16
_OPENING = re.compile(rb"<title>|<text")
_TITLE_END, _TAG_END, _TEXT_END = re.compile(rb"</title>"), re.compile(rb">"), re.compile(rb"</text>")
_LONGEST_MARK = 8  # bytes of "</title>"


@dataclass(frozen=True)
class _Page:
    number: int  # of the page in the file, from 1
    offset: int  # of its text in the unpacked file, bytes
    title: bytes
    text: bytes


@dataclass(frozen=True)
class Enwik8:
    """A MediaWiki XML dump, compressed or not; each article becomes one document of prose."""

    path: Path
    pool: ProcessPoolExecutor | None = None
    license: str = "CC BY-SA 3.0"
    attribution: str = "Wikipedia contributors, English Wikipedia 2006-03-03 (enwik8)"

    def files(self) -> Files:
        """The one file."""
        if not self.path.is_file():
            problem = "is no file" if self.path.exists() else "not found"
            raise CorpusError(f"{self.path}: {problem}; {FETCH} gets it")
        return Files([self.path])

    def documents(self, position: Position) -> Iterator[Document]:
        """Articles in file order; redirects, other namespaces and stubs are left out and counted."""
        self.files()
        for cleaned in ordered_map(_clean_batch, self._batches(position), self.pool):
            for number, text, reason in cleaned:
                if reason:
                    position.skipped[reason] += 1
                else:
                    yield Document(where=f"{self.path}, page {number}", text=text)

    def _batches(self, position: Position) -> Iterator[tuple[str, list[_Page]]]:
        batch: list[_Page] = []
        size = 0
        for page in self._pages(position):
            batch.append(page)
            size += len(page.text)
            if size >= _BATCH_BYTES:
                yield str(self.path), batch
                batch, size = [], 0
        if batch:
            yield str(self.path), batch

    def _pages(self, position: Position) -> Iterator[_Page]:
        """Split the dump at its tags; a last page cut off by the end of the file is left out."""
        title, number, offset = b"", 0, 0
        try:
            with open_binary(self.path, position) as file:
                scanner = _Scanner(file)
                while opening := scanner.skip_to(_OPENING):
                    offset = scanner.offset
                    if opening == b"<title>":
                        title, number = self._take(scanner, _TITLE_END, number + 1) or b"", number + 1
                        continue
                    attributes = self._take(scanner, _TAG_END, number)
                    if attributes is not None and attributes.endswith(b"/"):
                        continue  # <text ... /> is an empty page
                    offset = scanner.offset
                    text = self._take(scanner, _TEXT_END, number)
                    if text is None:
                        position.skipped["cut off by the end of the file"] += 1
                        break
                    yield _Page(number, offset, title, text)
        except DAMAGED as error:
            raise CorpusError(
                f"{self.path}: damaged after page {number}, unpacked byte {offset} ({error}); {FETCH} gets it"
            ) from error
        if number == 0:
            raise CorpusError(f"{self.path}: found no <title>, expected a MediaWiki XML dump; {FETCH} gets it")

    def _take(self, scanner: _Scanner, mark: re.Pattern[bytes], number: int) -> bytes | None:
        try:
            return scanner.take(mark)
        except OverflowError as error:
            raise too_long(f"{self.path}, page {number}") from error


class _Scanner:
    """Search a stream for marks, holding no more of it than needed; ``offset`` is that of the next byte."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._data = bytearray()
        self.offset = 0

    def skip_to(self, mark: re.Pattern[bytes]) -> bytes | None:
        """Drop all up to the end of the next ``mark`` and return the mark; None at the end of the file."""
        while (match := mark.search(self._data)) is None:
            self._drop(max(0, len(self._data) - _LONGEST_MARK))
            if not self._read():
                return None
        opening = bytes(match[0])
        self._drop(match.end())
        return opening

    def take(self, mark: re.Pattern[bytes]) -> bytes | None:
        """The bytes before the next ``mark``, which is dropped; ``OverflowError`` beyond the limit of a document."""
        start = 0
        while (match := mark.search(self._data, start)) is None:
            start = max(0, len(self._data) - _LONGEST_MARK)
            if len(self._data) > MAX_DOCUMENT_BYTES:
                raise OverflowError
            if not self._read():
                return None
        taken = bytes(self._data[: match.start()])
        self._drop(match.end())
        return taken

    def _read(self) -> bool:
        block = self._file.read(_READ_BYTES)
        self._data += block
        return bool(block)

    def _drop(self, size: int) -> None:
        del self._data[:size]
        self.offset += size


def _clean_batch(batch: tuple[str, list[_Page]]) -> list[tuple[int, str, str]]:
    """(page number, prose, reason to leave it out or "") of each page."""
    path, pages = batch
    return [(page.number, *_clean(page, f"{path}, page {page.number}")) for page in pages]


def _clean(page: _Page, where: str) -> tuple[str, str]:
    if not is_article(unescape(decode_utf8(page.title, where))):
        return "", "in another namespace"
    wikitext = unescape(decode_utf8(page.text, where, offset=page.offset))
    if is_redirect(wikitext):
        return "", "redirects"
    text = clean_wikitext(wikitext)
    return (text, "") if len(text) >= MIN_CHARACTERS else ("", f"shorter than {MIN_CHARACTERS} characters")
