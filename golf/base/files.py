"""Files written whole or not at all, safetensors with reproducible bytes, checked metadata, and hashes.

Faults of safetensors 0.8 are fenced in here, so nothing else in the repository calls it to save: metadata with more
than one key is written in random order (issue #584), the numpy writer stores wrong data for arrays that are not
C-contiguous (issue #825), and ``save_file`` goes through a temporary file of its own, with mode 0600 (hence ``save``).

Outputs grow under a temporary name beside them, ``.NAME.xxxxxxxx.tmp``, locked while its process lives; the next writer
of the same output removes those whose process is dead. Modes follow the umask. A symbolic link is followed, except to
a file that nobody may write (a cache of DVC): there the link is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from golf.base.errors import GolfError
from golf.base.params import ParamsError, from_dict

if TYPE_CHECKING:  # torch costs 1.4 s to import, numpy 0.1 s: light stages and commands never need them
    import numpy as np
    import torch

__all__ = [
    "NUMPY_KINDS",
    "FileError",
    "atomic_directory",
    "atomic_file",
    "checked",
    "load_numpy",
    "load_torch",
    "open_tensors",
    "read_json",
    "read_meta",
    "require",
    "save_numpy",
    "save_torch",
    "scratch_directory",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_text",
]

T = TypeVar("T")


class FileError(GolfError):
    """A file is missing, damaged, of the wrong kind or cannot be written; the message names it and who makes it."""


def require(path: str | Path, *, made_by: str) -> Path:
    """Return ``path`` when it exists, else raise ``FileError`` naming the stage or command that makes it."""
    path = Path(path)
    if not path.exists():
        raise FileError(f"{path}: not found; it is made by {made_by}")
    return path


def _regular(path: str | Path, made_by: str) -> Path:
    path = require(path, made_by=made_by)
    if path.is_dir():
        raise FileError(f"{path}: is a folder, expected a file; remove it and re-run {made_by}")
    return path


@contextlib.contextmanager
def atomic_file(path: str | Path, *, source: str | Path | None = None) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is flushed to disk and renamed, on any error removed.

    Where the content is that of a ``source`` file, the mode is never wider than the source's. Raises ``FileError``
    when the system refuses to write, before the body runs if that can be known.
    """
    path = _followed(Path(path))
    if path.is_dir():
        raise FileError(f"{path}: is a folder, expected the name of a file to write")
    with _temporary(path, directory=False) as temporary:
        if source is not None:
            os.chmod(temporary, temporary.stat().st_mode & Path(source).stat().st_mode & 0o777)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``path`` as a whole on success and vanishes on any error.

    At every moment ``path`` is the old folder or the new one, where the system can swap two names (Linux).
    """
    path = _followed(Path(path))
    if path.exists() and not path.is_dir():
        raise FileError(f"{path}: is a file, expected the name of a folder to write; remove it")
    with _temporary(path, directory=True) as temporary:
        try:
            yield temporary
        except FileError as error:  # of a file inside, whose name means nothing any more
            raise FileError(str(error).replace(str(temporary), str(path))) from error
        if not path.exists():
            os.replace(temporary, path)
        elif not _swapped(temporary, path):
            aside = path.with_name(f"{temporary.name}.old")
            os.replace(path, aside)
            os.replace(temporary, path)
            os.replace(aside, temporary)


@contextlib.contextmanager
def scratch_directory(name: str) -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, removed at the end or by the next one of ``name``."""
    with _temporary(Path(tempfile.gettempdir()) / name, directory=True) as folder:
        folder.chmod(0o700)
        yield folder


def _followed(path: Path) -> Path:
    """What a symbolic link points to; the link itself where that is write-protected."""
    if path.is_symlink() and not (path.is_file() and not path.stat().st_mode & 0o222):
        return Path(os.path.realpath(path))
    return path


def _swapped(left: Path, right: Path) -> bool:
    """Swap two names in one step; whether the system and the file system can (Linux: renameat2)."""
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(left), here, os.fsencode(right), exchange) == 0


@contextlib.contextmanager
def _temporary(path: Path, *, directory: bool) -> Iterator[Path]:
    """A new name beside ``path``, locked and gone at the end; errors of writing it name ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
            _remove_dead(leftover)
        temporary, handle = _create_locked(path, directory)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield temporary
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(temporary)):
            raise _refused(path, error) from error
        raise
    finally:
        _remove(temporary)
        os.close(handle)


def _refused(path: Path, error: OSError) -> FileError:
    where = f" at {error.filename}" if error.filename and not str(error.filename).endswith(".tmp") else ""
    reason = f"{error.strerror or error}{where}"
    return FileError(f"{path}: could not be written ({reason}); look at its folder's free space and permissions")


def _create_locked(path: Path, directory: bool) -> tuple[Path, int]:
    """A new file or folder beside ``path`` and its locked handle."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        if directory:
            temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY if directory else os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks: leftovers stay there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, handle
        os.close(handle)  # another process took it for a dead one's before it was locked


def _remove_dead(path: Path) -> None:
    """Remove a temporary file or folder unless the process that made it still lives."""
    with contextlib.suppress(OSError):  # gone meanwhile, not ours, or locked
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically as UTF-8 with its newlines as they are."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` atomically as sorted, indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path, *, made_by: str) -> dict[str, Any]:
    """Read a JSON file of keys and values; ``FileError`` names the stage that makes it when missing or damaged."""
    path = _regular(path, made_by)
    try:
        value = _parse(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: damaged JSON ({error}); remove it and re-run {made_by}") from error
    if not isinstance(value, dict):
        raise FileError(f"{path}: holds {type(value).__name__}, expected keys and values; re-run {made_by}")
    return value


def _parse(data: str | bytes) -> Any:
    def refuse(constant: str) -> None:
        raise GolfError(f"{constant} is no number")

    return json.loads(data, parse_constant=refuse)


def checked(cls: type[T], data: Mapping[str, Any], *, path: str | Path, made_by: str) -> T:
    """The fields of the dataclass ``cls`` out of ``data`` read from ``path``: all there, each of its type and range.

    Raises ``FileError`` naming the file, the key, what was found and expected, and the stage ``made_by``.
    """
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    try:
        return from_dict(cls, {key: value for key, value in data.items() if key in names}, where=str(path))
    except ParamsError as error:
        raise FileError(f"{error}; re-run {made_by}") from error


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_numpy(path: str | Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Save arrays and JSON-able ``meta`` as safetensors: same content, same bytes; any memory layout is accepted."""
    import numpy as np
    from safetensors.numpy import save

    write_bytes(path, save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}, _metadata(meta)))


def save_torch(path: str | Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Save torch tensors (moved to the CPU, made contiguous, tied storages copied) as ``save_numpy`` does."""
    from safetensors.torch import save

    cpu = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    write_bytes(path, save(cpu, _metadata(meta)))


def _metadata(meta: Mapping[str, Any]) -> dict[str, str]:
    return {"meta": json.dumps(meta, sort_keys=True, allow_nan=False)}


def open_tensors(path: str | Path, framework: str, made_by: str) -> Any:
    """The safetensors file, opened: a context whose tensors are of ``framework`` (numpy, pt). Raises ``FileError``."""
    from safetensors import SafetensorError, safe_open

    path = _regular(path, made_by)
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path}: not a readable safetensors file ({error}); re-run {made_by}") from error


def read_meta(path: str | Path, *, made_by: str) -> dict[str, Any]:
    """The ``meta`` mapping of a safetensors file saved by this module."""
    with open_tensors(path, "numpy", made_by) as file:
        metadata = file.metadata() or {}
    if "meta" not in metadata:
        raise FileError(f"{path}: safetensors metadata has no `meta` key; re-run {made_by}")
    try:
        meta = _parse(metadata["meta"])
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: damaged metadata ({error}); re-run {made_by}") from error
    if not isinstance(meta, dict):
        raise FileError(f"{path}: metadata holds {type(meta).__name__}, expected keys and values; re-run {made_by}")
    return meta


def load_numpy(path: str | Path, *, made_by: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All tensors of a safetensors file as numpy arrays, and its ``meta``; ``FileError`` for types that numpy lacks."""
    meta = read_meta(path, made_by=made_by)
    with open_tensors(path, "numpy", made_by) as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        for name, kind in kinds.items():
            if kind not in NUMPY_KINDS:
                raise FileError(f"{path}: tensor `{name}` is {kind}, expected a type of numpy; re-run {made_by}")
        return {name: file.get_tensor(name) for name in kinds}, meta


NUMPY_KINDS = {"BOOL": "?"} | {
    f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "uif" for size in (1, 2, 4, 8) if (kind, size) != ("f", 1)
}


def load_torch(path: str | Path, *, made_by: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All tensors of a safetensors file as torch CPU tensors, and its ``meta``."""
    meta = read_meta(path, made_by=made_by)
    with open_tensors(path, "pt", made_by) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 (safe_open is no dict)
