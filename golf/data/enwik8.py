"""The default corpus: the articles of enwik8, the first 10^8 bytes of English Wikipedia of March 2006."""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from golf.data.documents import CorpusError, Document, Position, decode_utf8, open_binary
from golf.data.parallel import ordered_map
from golf.data.wikitext import clean_wikitext, is_article, is_redirect

__all__ = ["Enwik8"]

FETCH = "`golf fetch enwik8`"
MIN_CHARACTERS = 1500  # shorter pages are stubs, disambiguations and what is left of tables
_TITLE = re.compile(rb"<title>(.*?)</title>")
_BATCH_BYTES = 400_000


@dataclass(frozen=True)
class _Page:
    number: int  # of the page in the file, from 1
    offset: int  # of its text in the unpacked file, bytes
    title: bytes
    text: bytes


@dataclass(frozen=True)
class Enwik8:
    """A (gzipped) MediaWiki XML dump; each article becomes one document of prose."""

    path: Path
    pool: ProcessPoolExecutor | None = None
    license: str = "CC BY-SA 3.0"
    attribution: str = "Wikipedia contributors, English Wikipedia 2006-03-03 (enwik8)"

    def files(self) -> list[Path]:
        """The one file."""
        if not self.path.is_file():
            raise CorpusError(f"{self.path}: not found; {FETCH} gets it")
        return [self.path]

    def documents(self, position: Position) -> Iterator[Document]:
        """Articles in file order; redirects, other namespaces and stubs are left out."""
        self.files()
        for cleaned in ordered_map(_clean_batch, self._batches(position), self.pool):
            for number, text in cleaned:
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
        """Split the dump into pages; a last page cut off by the end of the file is left out."""
        title, number, offset, start = b"", 0, 0, 0
        parts: list[bytes] | None = None  # of the text that is open
        try:
            with open_binary(self.path, position) as file:
                for line in file:
                    if parts is None:
                        if match := _TITLE.search(line):
                            title, number = match[1], number + 1
                        if (at := line.find(b"<text")) >= 0:
                            begin = line.find(b">", at) + 1
                            parts, start = [], offset + begin
                            content = line[begin:]
                            if line[at:begin].endswith(b"/>"):
                                parts = None
                    else:
                        content = line
                    if parts is not None:
                        end = content.find(b"</text>")
                        parts.append(content if end < 0 else content[:end])
                        if end >= 0:
                            yield _Page(number, start, title, b"".join(parts))
                            parts = None
                    offset += len(line)
        except (EOFError, OSError, zlib.error) as error:
            raise CorpusError(f"{self.path}: damaged at unpacked byte {offset} ({error}); {FETCH} gets it") from error
        if number == 0:
            raise CorpusError(f"{self.path}: found no <title>, wanted a MediaWiki XML dump; {FETCH} gets it")


def _clean_batch(batch: tuple[str, list[_Page]]) -> list[tuple[int, str]]:
    path, pages = batch
    cleaned = []
    for page in pages:
        where = f"{path}, page {page.number}"
        if not is_article(html.unescape(decode_utf8(page.title, where))):
            continue
        wikitext = html.unescape(decode_utf8(page.text, where, offset=page.offset))
        if is_redirect(wikitext):
            continue
        text = clean_wikitext(wikitext)
        if len(text) >= MIN_CHARACTERS:
            cleaned.append((page.number, text))
    return cleaned
