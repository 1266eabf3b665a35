"""Large UTF-8 files read in blocks that end between characters, at a space or line end where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from golf.textcodec.layout import CodecError

__all__ = ["iterate_text"]

_BACK = 4096  # bytes searched backwards for a good place to cut


def iterate_text(path: str | Path, *, block_bytes: int, offset: int = 0) -> Iterator[str]:
    """Yield the text of ``path`` from byte ``offset`` on, in pieces of at most ``block_bytes`` bytes that join to it.

    Memory holds one piece. Raises ``CodecError`` with the offset of the first byte that is no UTF-8.
    """
    if block_bytes < 16:
        raise CodecError(f"block_bytes is {block_bytes}, expected at least 16")
    rest = b""
    with open(path, "rb") as file:
        file.seek(offset)
        while True:
            data = rest + file.read(block_bytes - len(rest))
            if not data:
                return
            cut = len(data) if len(data) < block_bytes else _cut(data)
            yield _decode(data[:cut], offset, path)
            rest, offset = data[cut:], offset + cut


def _cut(data: bytes) -> int:
    """Where to end a piece: before the last space, behind the last line end, or at least between characters."""
    for mark, behind in ((b"\n", 1), (b" ", 0)):
        at = data.rfind(mark, max(1, len(data) - _BACK))
        if at > 0:
            return at + behind
    end = len(data)
    while end > len(data) - 4 and data[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if data[end - 1] >= 0xC0 and end > 1 else len(data)


def _decode(data: bytes, offset: int, path: str | Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CodecError(
            f"{path}: byte 0x{data[error.start]:02X} at offset {offset + error.start} is not UTF-8 ({error.reason}); "
            "`golf zip` codes UTF-8 text only"
        ) from error
