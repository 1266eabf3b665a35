"""A coded file in the making that survives `kill -9`: whole blocks on disk, and beside them how far they reach.

``TARGET.part`` holds zeros for the header and every finished block; ``TARGET.progress`` (JSON, replaced atomically
after each block has reached the disk) says how many of its bytes count, of which text and settings. A later run with
the same text, artifact and settings drops what lies behind them and goes on; with anything else it begins anew. At most
the block in the making is lost, and the finished file has the bytes of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from golf.base.files import FileError, read_json, write_json
from golf.base.params import ParamsError, from_dict
from golf.textcodec.blocks import CodedBlock
from golf.textcodec.layout import CodecError

__all__ = ["Part", "Tally", "open_part"]

_PIECE = 1 << 20


@dataclass(frozen=True)
class Tally:
    """What is coded so far: ``text_bytes`` with their SHA-256, ``tokens``, ``blocks``, ``code_bytes``, and
    ``stated_bits`` as a hexadecimal float, so that sums go on to the last digit. ``part_bytes`` of the file count."""

    text_bytes: int = 0
    text_sha256: str = hashlib.sha256().hexdigest()
    tokens: int = 0
    blocks: int = 0
    code_bytes: int = 0
    stated_bits: str = "0x0.0p+0"
    part_bytes: int = 0


class Part:
    """The open ``file`` at the place where the next block goes, the ``tally`` before it, and the hasher of its text.

    Without a ``progress`` file nothing is remembered for a later run.
    """

    def __init__(self, file: BinaryIO, *, header_bytes: int, progress: Path | None = None, identity: str = "") -> None:
        self.file, self._progress, self._identity = file, progress, identity
        self.tally, self.digest = Tally(part_bytes=header_bytes), hashlib.sha256()

    def begin(self) -> None:
        """Drop what the file holds and leave room for the header."""
        self.file.truncate(0)
        self.file.seek(0)
        self.file.write(bytes(self.tally.part_bytes))

    def restore(self, source: Path) -> None:
        """Go on where the progress file says, when it speaks of this text and these settings; else begin anew."""
        known = None if self._progress is None else _read(self._progress, self._identity)
        digest = _prefix_digest(source, known.text_bytes) if known is not None else None
        whole = self.file.seek(0, os.SEEK_END)
        same = known is not None and digest is not None and digest.hexdigest() == known.text_sha256
        if known is None or digest is None or not same or not known.blocks or whole < known.part_bytes:
            return self.begin()
        self.tally, self.digest = known, digest
        self.file.truncate(known.part_bytes)
        self.file.seek(known.part_bytes)

    def append(self, block: bytes, text: bytes, tokens: int, coded: CodedBlock) -> None:
        """Write one ``block`` of ``text``; it is on disk before the progress file says so."""
        self.file.write(block)
        self.digest.update(text)
        self.tally = Tally(
            text_bytes=self.tally.text_bytes + len(text),
            text_sha256=self.digest.hexdigest(),
            tokens=self.tally.tokens + tokens,
            blocks=self.tally.blocks + 1,
            code_bytes=self.tally.code_bytes + len(coded.code),
            stated_bits=(float.fromhex(self.tally.stated_bits) + coded.stated_bits).hex(),
            part_bytes=self.file.tell(),
        )
        if self._progress is not None:
            self.file.flush()
            os.fsync(self.file.fileno())
            write_json(self._progress, {"identity": self._identity, **dataclasses.asdict(self.tally)})


@contextlib.contextmanager
def open_part(target: Path, source: Path, *, settings: object, header_bytes: int) -> Iterator[Part]:
    """The file in the making of ``target``; on success it is renamed to it and the progress file goes.

    After a ``ValueError`` both are removed (a text that cannot be coded will not be codable later); after anything else
    they stay. ``settings`` are all that the blocks' bytes depend on besides the text. Raises ``CodecError`` when
    another process is writing the same file.
    """
    identity = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path, progress = (target.with_name(target.name + suffix) for suffix in (".part", ".progress"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "r+b" if path.exists() else "w+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CodecError(f"{path}: another `golf zip` is writing it; wait, or give another -o") from None
        part = Part(file, header_bytes=header_bytes, progress=progress, identity=identity)
        try:
            part.restore(source)
            yield part
            file.flush()
            os.fsync(file.fileno())
            os.chmod(path, 0o644)
            os.replace(path, target)
        except ValueError:
            path.unlink(missing_ok=True)
            progress.unlink(missing_ok=True)
            raise
        progress.unlink(missing_ok=True)


def _read(progress: Path, identity: str) -> Tally | None:
    """What the progress file says, or None when there is none, a damaged one, or one of other settings."""
    try:
        values = read_json(progress, made_by="`golf zip`")
        if not isinstance(values, dict) or values.pop("identity", None) != identity:
            return None
        return from_dict(Tally, values)
    except (FileError, ParamsError):
        return None


def _prefix_digest(source: Path, num_bytes: int) -> hashlib._Hash | None:
    """Hasher of the first ``num_bytes`` of a file, read in pieces; None when it is shorter."""
    digest = hashlib.sha256()
    with open(source, "rb") as file:
        while num_bytes:
            piece = file.read(min(num_bytes, _PIECE))
            if not piece:
                return None
            digest.update(piece)
            num_bytes -= len(piece)
    return digest
