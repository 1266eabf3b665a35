"""Opening a GGUF that anybody may have written. PyPI ``gguf`` believes the counts in a header and would loop over 2^60
of them, so they are compared with the file's size first. Layout: the GGUF specification, little-endian.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from golf.base.params import quoted
from golf.imports.tables import OriginError

__all__ = ["gguf_reader", "library"]

MAX_VALUES = 1 << 22  # in the metadata: four lists of a million tokens; each is an object of the reader's
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of a number, by type
_TEXT, _LIST = 8, 9


def library() -> Any:
    """PyPI ``gguf``; ``OriginError`` says how to install it."""
    try:
        import gguf
    except ImportError as error:
        raise OriginError("reading and writing GGUF needs PyPI `gguf`: pip install 'golf[import]'") from error
    return gguf


def gguf_reader(path: Path) -> Any:
    """The library's reader of ``path``; ``OriginError`` when it is no GGUF or its header lies about its lengths."""
    gguf = library()
    try:
        with open(path, "rb") as file:
            _Header(file, path.stat().st_size).walk()
        return gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise OriginError(f"{path}: not a readable GGUF ({quoted(str(error))[1:-1]})") from error


class _Header:
    """A walk over metadata and tensor list of ``file`` with ``size`` bytes; ``ValueError`` where it leaves them."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size, self._values = file, size, 0

    def walk(self) -> None:
        """Every key and value, and every tensor's entry."""
        if self._file.read(4) != b"GGUF" or self._number(4) not in (2, 3):
            raise OriginError("does not begin as GGUF of version 2 or 3, little-endian, does")
        tensors, keys = self._number(8), self._number(8)
        for _ in range(keys):
            self._skip(self._number(8))
            self._value(self._number(4), 0)
        for _ in range(tensors):
            self._skip(self._number(8))
            self._skip(8 * self._number(4) + 4 + 8)

    def _number(self, width: int) -> int:
        data = self._file.read(width)
        if len(data) < width:
            raise OriginError("its header ends with the file")
        return int.from_bytes(data, "little")

    def _skip(self, count: int) -> None:
        if count > self._size - self._file.tell():
            raise OriginError(f"its header states {count} bytes, which the file does not have")
        self._file.seek(count, 1)

    def _value(self, kind: int, depth: int) -> None:
        self._values += 1
        if kind in _SIZES:
            self._skip(_SIZES[kind])
        elif kind == _TEXT:
            self._skip(self._number(8))
        elif kind == _LIST and depth < 2:
            inner, count = self._number(4), self._number(8)
            if self._values + count > MAX_VALUES:
                raise OriginError(f"its metadata holds more than {MAX_VALUES:,} values")
            for _ in range(count):
                self._value(inner, depth + 1)
        else:
            raise OriginError(f"its metadata holds a value of type {kind}, expected 0 to 12")
