"""What a corpus yields, which files belong to it, and how they are read: bounded, and with every fault's place."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import numpy as np
import zstandard

from golf.base.errors import GolfError
from golf.base.params import quoted

__all__ = [
    "COMPRESSIONS", "Corpus", "CorpusError", "DAMAGED", "Document", "Files", "MAX_DOCUMENT_BYTES", "Position",
    "count_skipped", "decode_utf8", "describe_skipped", "find_files", "open_binary", "ordered_map", "read_lines",
    "too_long",
]  # fmt: skip

S = TypeVar("S")
T = TypeVar("T")

MAX_DOCUMENT_BYTES = 1 << 26  # 64 MiB of UTF-8; one document is in memory whole, so something must bound it
COMPRESSIONS = ("", ".gz", ".xz", ".bz2", ".zst")
DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)  # what reading a broken file raises
_IN_FLIGHT = 64  # items waiting or running; bounds memory, keeps any number of cores we meet busy
_ZSTD_INPUT = 1 << 10  # bytes fed at once: a zstd block of 4 bytes can unpack to 128 KiB
# First bytes of what people take for a UTF-8 text file, and what to do about it.
_LOOKS_LIKE = (
    (b"\xff\xfe", "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "a gzip file; its name must end in .gz"),
    (b"\xfd7zXZ\x00", "an xz file; its name must end in .xz"),
    (b"BZh", "a bzip2 file; its name must end in .bz2"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; its name must end in .zst"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"PAR1", "a parquet file"),
)


class CorpusError(GolfError):
    """The corpus is missing, damaged, empty or too small; the message names the file and the way out."""


@dataclass(frozen=True)
class Document:
    """One document: either ``text``, or ``ids`` (uint16 (T,), BOS not included) of an already tokenized corpus.

    ``side`` is "train" or "val" where the corpus itself says so, else None (the hash decides). ``where`` names the
    document in messages.
    """

    where: str
    text: str | None = None
    ids: np.ndarray | None = None
    side: str | None = None


@dataclass
class Position:
    """Bytes of the files on disk consumed so far, for a progress bar, and a count of what was read and left out."""

    before: int = 0
    file: IO[bytes] | None = None
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> documents

    @property
    def num_bytes(self) -> int:
        """Bytes read from disk, compressed ones where the file is compressed."""
        return self.before + (self.file.tell() if self.file is not None else 0)


@dataclass(frozen=True)
class Files:
    """The files of a corpus in reading order, and the names of what lies beside them, by the reason to skip it."""

    paths: list[Path]
    skipped: dict[str, list[str]] = field(default_factory=dict)


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

    def files(self) -> Files:
        """The files it consists of; ``CorpusError`` when there is none."""
        ...

    def documents(self, position: Position) -> Iterator[Document]:
        """Stream the non-empty documents, keeping ``position`` up to date."""
        ...


def find_files(path: Path, suffixes: tuple[str, ...]) -> Files:
    """A file as it is, or those in a folder and its subfolders whose names end in one of ``suffixes``, sorted.

    Left out, with the reason: names that begin with a dot, linked folders, dangling links, what is no regular file, and
    other endings (upper case is the same). Raises ``CorpusError`` for a missing path and a folder without such a file.
    """
    if path.is_file():
        return Files([path])
    if not path.is_dir():
        problem = "neither a file nor a folder" if os.path.lexists(path) else "not found"
        raise CorpusError(f"{path}: {problem}; put {', '.join(suffixes)} files there or set tokenize.path")
    paths: list[Path] = []
    skipped: dict[str, list[str]] = {}
    try:
        for entry in sorted(_walk(path)):
            reason = _reason_to_skip(entry, suffixes)
            if reason is None:
                paths.append(entry)
            else:
                skipped.setdefault(reason, []).append(str(entry.relative_to(path)))
    except OSError as error:
        raise CorpusError(f"{path}: the folder cannot be listed ({error})") from error
    if not paths:
        beside = f" (skipped: {describe_skipped(count_skipped(skipped))})" if skipped else ""
        raise CorpusError(f"{path}: found no file that ends in {', '.join(suffixes)}{beside}; set tokenize.path")
    return Files(paths, skipped)


def count_skipped(skipped: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """``{reason: {"count": names, "first": the first of them}}``, for the manifest."""
    return {reason: {"count": len(names), "first": names[0]} for reason, names in skipped.items()}


def describe_skipped(counted: dict[str, dict[str, Any]]) -> str:
    """What ``count_skipped`` gave, on one line."""
    return "; ".join(f"{of['count']:,} {reason}, as {quoted(of['first'])}" for reason, of in sorted(counted.items()))


def _walk(folder: Path) -> Iterator[Path]:
    """Files below ``folder``, and the folders that are not entered: hidden and linked ones."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            yield from _walk(entry)
        else:
            yield entry


def _reason_to_skip(path: Path, suffixes: tuple[str, ...]) -> str | None:
    if path.name.startswith("."):
        return "hidden"
    if not path.exists():
        return "dangling link"
    if path.is_dir():
        return "link to a folder"
    if not path.is_file():
        return "no regular file"
    if path.name.lower().endswith(suffixes):
        return None
    compressed = path.suffix.lower() in COMPRESSIONS[1:] and len(path.suffixes) > 1
    return (
        f"ending in {''.join(path.suffixes[-2:]) if compressed else path.suffix}" if path.suffix else "without ending"
    )


def too_long(where: str) -> CorpusError:
    """The error for a document beyond the limit."""
    return CorpusError(f"{where}: longer than {MAX_DOCUMENT_BYTES:,} bytes, the limit of one document; split it")


def decode_utf8(data: bytes, where: str, *, offset: int = 0) -> str:
    """Decode strictly; ``CorpusError`` gives the place and the byte offset (``offset`` is where ``data`` begins)."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        looks = next((f"this looks like {kind}" for magic, kind in _LOOKS_LIKE if data.startswith(magic)), None)
        raise CorpusError(
            f"{where}: invalid UTF-8 at byte offset {offset + error.start} (0x{data[error.start]:02x}); "
            + (looks if looks and offset == 0 else "the corpus must be UTF-8 text")
        ) from error


@contextlib.contextmanager
def open_binary(path: Path, position: Position) -> Iterator[IO[bytes]]:
    """Open a plain or compressed (``COMPRESSIONS``) file to read bytes, its place on disk shown by ``position``."""
    openers: dict[str, Callable[[IO[bytes]], Any]] = {
        ".gz": lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"),
        ".xz": lzma.LZMAFile,
        ".bz2": bz2.BZ2File,
        ".zst": lambda raw: io.BufferedReader(_Unzstd(raw), 1 << 17),
    }
    with open(path, "rb") as raw:
        position.file = raw
        unpack = openers.get(path.suffix.lower())
        try:
            if unpack is None:
                yield raw
            else:
                with unpack(raw) as file:
                    yield file
        finally:
            position.before, position.file = position.before + path.stat().st_size, None


class _Unzstd(io.RawIOBase):
    """The frames of a zstd file, one after another; ``EOFError`` where the last is cut off.

    ``zstandard``'s own stream reader takes a cut-off file for a complete one.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            self._input = self._input or self._raw.read(_ZSTD_INPUT)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the last zstd frame is cut off")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._output, self._input = memoryview(self._frame.decompress(self._input)), b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size


def read_lines(path: Path, position: Position) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, byte offset in the unpacked file, line with its end) of each line; a byte order mark is dropped.

    Raises ``CorpusError`` for a damaged file and for a line longer than ``MAX_DOCUMENT_BYTES``.
    """
    number = offset = 0
    try:
        with open_binary(path, position) as file:
            while line := file.readline(MAX_DOCUMENT_BYTES + 1):
                number += 1
                if len(line) > MAX_DOCUMENT_BYTES:
                    raise too_long(f"{path}:{number}")
                mark = len(b"\xef\xbb\xbf") if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
                yield number, offset + mark, line[mark:]
                offset += len(line)
    except DAMAGED as error:
        raise CorpusError(f"{path}: damaged after line {number} ({error}); get the file again") from error


def ordered_map(function: Callable[[S], T], items: Iterable[S], pool: ProcessPoolExecutor | None) -> Iterator[T]:
    """Yield ``function(item)`` in the order of ``items``, holding few of them at a time; without a pool it runs here.

    Unlike ``multiprocessing.Pool.imap`` it does not read the whole of ``items`` ahead, so a corpus can be a stream.
    Raises ``CorpusError`` when a worker process dies.
    """
    if pool is None:
        yield from map(function, items)
        return
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenExecutor as error:
        raise CorpusError("a worker process died, perhaps for want of memory; lower GOLF_PROCESSES") from error
    finally:
        for future in waiting:
            future.cancel()
