"""A coded file in the making that survives `kill -9`: whole blocks on disk, and beside them how far they reach.

``TARGET.part`` holds zeros for the header and every finished block; ``TARGET.progress`` (JSON, replaced atomically
after each block has reached the disk) says how many of its bytes count, of which text and settings, with the SHA-256 of
those bytes, of the text so far and of itself. A later run with the same text, artifact and settings drops what lies
behind them and goes on; when anything differs it begins anew. At most the block in the making is lost, and the finished
file has the bytes of an uninterrupted run. Files of these names that no `golf zip` has made are not touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import os
import stat
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
_EMPTY = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class Tally:
    """What is coded so far: ``text_bytes`` with their SHA-256, ``tokens``, ``blocks``, ``code_bytes``, and
    ``stated_bits`` as a hexadecimal float, so that sums go on to the last digit. ``part_bytes`` of the file count;
    ``part_sha256`` is that of its blocks."""

    text_bytes: int = 0
    text_sha256: str = _EMPTY
    tokens: int = 0
    blocks: int = 0
    code_bytes: int = 0
    stated_bits: str = "0x0.0p+0"
    part_bytes: int = 0
    part_sha256: str = _EMPTY

    def __post_init__(self) -> None:
        counts = (self.text_bytes, self.tokens, self.blocks, self.code_bytes, self.part_bytes)
        try:
            bits = float.fromhex(self.stated_bits)
        except ValueError:
            bits = math.nan
        if min(counts) < 0 or not 0.0 <= bits < math.inf or self.code_bytes > self.part_bytes:
            raise CodecError("the progress of `golf zip` holds numbers that no run has written")


class Part:
    """The open ``file`` (``path``) at the position of the next block, the ``tally`` before it, the hasher of its text.

    Without a ``progress`` file nothing is remembered for a later run.
    """

    def __init__(
        self, path: Path, file: BinaryIO, *, header_bytes: int, progress: Path | None = None, identity: str = ""
    ) -> None:
        self.path, self.file, self._progress, self._identity = path, file, progress, identity
        self._header_bytes = header_bytes
        self.tally, self.digest, self._blocks = Tally(part_bytes=header_bytes), hashlib.sha256(), hashlib.sha256()

    def begin(self) -> None:
        """Drop what the file holds and leave room for the header."""
        self._save()
        self.file.truncate(0)
        self.file.seek(0)
        self.file.write(bytes(self._header_bytes))

    def restore(self, source: Path) -> None:
        """Go on where the progress file says, when it is true of this text, these settings and these blocks."""
        identity, known = (_read(self._progress) if self._progress is not None else None) or ("", Tally())
        if identity != self._identity or known.blocks == 0:
            return self.begin()
        text = _digest(source, 0, known.text_bytes)
        blocks = _digest(self.path, self._header_bytes, known.part_bytes)
        if text.hexdigest() != known.text_sha256 or blocks.hexdigest() != known.part_sha256:
            return self.begin()
        self.tally, self.digest, self._blocks = known, text, blocks
        self.file.truncate(known.part_bytes)
        self.file.seek(known.part_bytes)

    def append(self, block: bytes, text: bytes, tokens: int, coded: CodedBlock) -> None:
        """Write one ``block`` of ``text``; it is on disk before the progress file says so."""
        self.file.write(block)
        self.digest.update(text)
        self._blocks.update(block)
        self.tally = Tally(
            text_bytes=self.tally.text_bytes + len(text),
            text_sha256=self.digest.hexdigest(),
            tokens=self.tally.tokens + tokens,
            blocks=self.tally.blocks + 1,
            code_bytes=self.tally.code_bytes + len(coded.code),
            stated_bits=(float.fromhex(self.tally.stated_bits) + coded.stated_bits).hex(),
            part_bytes=self.file.tell(),
            part_sha256=self._blocks.hexdigest(),
        )
        self._save()

    def finish(self, header: bytes) -> None:
        """Write the ``header`` into its place and read the file back: its bytes must be those that were coded."""
        self.file.seek(0)
        self.file.write(header)
        self.file.flush()
        os.fsync(self.file.fileno())
        stored = _digest(self.path, self._header_bytes, self.tally.part_bytes)
        whole = os.fstat(self.file.fileno()).st_size == self.tally.part_bytes
        if stored.hexdigest() != self.tally.part_sha256 or not whole:
            raise CodecError(f"{self.path}: holds other bytes than were written to it; check the disk and code again")

    def _save(self) -> None:
        if self._progress is not None:
            self.file.flush()
            os.fsync(self.file.fileno())
            values = {"identity": self._identity, **dataclasses.asdict(self.tally)}
            write_json(self._progress, {**values, "sha256": _own_digest(values)})


@contextlib.contextmanager
def open_part(target: Path, source: Path, *, settings: object, header_bytes: int, force: bool) -> Iterator[Part]:
    """The file in the making of ``target``; on success it is renamed to it and the progress file goes.

    After a ``ValueError`` both are removed (a text that cannot be coded will not be codable later); after anything else
    they stay. ``settings`` are all that the blocks' bytes depend on besides the text. Raises ``CodecError`` when
    another process is writing the same file, and, unless ``force``, when one of the two is not of `golf zip`. The file
    may be read by whoever may read ``source``, as far as the umask allows.
    """
    identity = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path, progress = (target.with_name(target.name + suffix) for suffix in (".part", ".progress"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, progress, mode=stat.S_IMODE(source.stat().st_mode) & 0o666, force=force) as file:
        part = Part(path, file, header_bytes=header_bytes, progress=progress, identity=identity)
        try:
            part.restore(source)
            yield part
            os.replace(path, target)
        except ValueError:
            path.unlink(missing_ok=True)
            progress.unlink(missing_ok=True)
            raise
        progress.unlink(missing_ok=True)


def _locked(path: Path, progress: Path, *, mode: int, force: bool) -> BinaryIO:
    """``path`` open for reading and writing, locked, no link, and the file that still has this name."""
    while True:
        descriptor = _open(path, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise CodecError(f"{path}: another `golf zip` is writing it; wait, or give another -o") from None
        if not _is_still(descriptor, path):  # its writer has finished and renamed it between open and lock
            os.close(descriptor)
            continue
        state = os.fstat(descriptor)
        fresh = state.st_size == 0 and not os.path.lexists(progress)
        if stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and (fresh or _read(progress) is not None):
            return os.fdopen(descriptor, "r+b")
        os.close(descriptor)
        if force or state.st_size == 0:
            path.unlink(missing_ok=True)
        if not force:
            raise CodecError(
                f"{path}: it and {progress.name} are not what an interrupted `golf zip` leaves; remove both, or give "
                "--force to replace them"
            )
        progress.unlink(missing_ok=True)


def _open(path: Path, mode: int) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        what = "a folder" if error.errno == errno.EISDIR else "a symbolic link"
        raise CodecError(f"{path}: is {what}, expected a file that `golf zip` makes; remove it") from None


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _read(progress: Path) -> tuple[str, Tally] | None:
    """Identity and tally of a progress file, or None when there is none or it is not as `golf zip` wrote it."""
    try:
        values = read_json(progress, made_by="`golf zip`")
        if not isinstance(values, dict) or values.pop("sha256", None) != _own_digest(values):
            return None
        return str(values.pop("identity", None)), from_dict(Tally, values)
    except (FileError, ParamsError, CodecError, OSError):
        return None


def _own_digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest(path: Path, begin: int, end: int) -> hashlib._Hash:
    """Hasher of the bytes ``begin`` to ``end`` of a file, or of those that there are, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(begin)
        while begin < end:
            piece = file.read(min(end - begin, _PIECE))
            if not piece:
                break
            digest.update(piece)
            begin += len(piece)
    return digest
