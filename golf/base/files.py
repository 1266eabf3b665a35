"""Files written whole or not at all, safetensors with reproducible bytes, and hashes.

Two faults of safetensors 0.8 are fenced in here, so nothing else in the repository calls it to save:
metadata with more than one key is written in random order (issue #584), and the numpy writer stores wrong data for
arrays that are not C-contiguous (issue #825).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf.base.errors import GolfError

if TYPE_CHECKING:  # torch costs 1.4 s to import, numpy 0.1 s: light stages and commands never need them
    import numpy as np
    import torch

__all__ = [
    "FileError",
    "atomic_directory",
    "atomic_file",
    "load_numpy",
    "load_torch",
    "read_json",
    "read_meta",
    "require",
    "save_numpy",
    "save_torch",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_text",
]


class FileError(GolfError):
    """A file is missing, damaged or of the wrong kind; the message names it and the stage that makes it."""


def require(path: str | Path, *, made_by: str) -> Path:
    """Return ``path`` when it exists, else raise ``FileError`` naming the stage or command that makes it."""
    path = Path(path)
    if not path.exists():
        raise FileError(f"{path}: not found; it is made by {made_by}")
    return path


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is flushed to disk and renamed, on any error removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, name):  # a full disk is reported without a name, a temporary name means nothing
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``path`` as a whole on success and vanishes on any error.

    At every moment ``path`` is the old folder or the new one, where the system can swap two names (Linux).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        if not path.exists():
            os.replace(temporary, path)
        elif not _swapped(temporary, path):
            aside = path.with_name(f"{temporary.name}.old")
            os.replace(path, aside)
            os.replace(temporary, path)
            os.replace(aside, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swapped(left: Path, right: Path) -> bool:
    """Swap two names in one step; whether the system and the file system can (Linux: renameat2)."""
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(left), here, os.fsencode(right), exchange) == 0


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


def read_json(path: str | Path, *, made_by: str) -> Any:
    """Read a JSON file; ``FileError`` names the stage that makes it when it is missing or damaged."""
    path = require(path, made_by=made_by)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise FileError(f"{path}: damaged JSON ({error}); remove it and re-run {made_by}") from error


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _metadata(meta: Mapping[str, Any]) -> dict[str, str]:
    return {"meta": json.dumps(meta, sort_keys=True, allow_nan=False)}


def _save(save_file: Any, tensors: Mapping[str, Any], path: str | Path, meta: Mapping[str, Any]) -> None:
    from safetensors import SafetensorError

    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=_metadata(meta))
        except SafetensorError as error:  # what the disk says comes without a name
            raise FileError(f"{path}: not written ({error})") from error


def save_numpy(path: str | Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Save arrays and JSON-able ``meta`` as safetensors: same content, same bytes; any memory layout is accepted."""
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    _save(save_file, arrays, path, meta)


def save_torch(path: str | Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Save torch tensors (moved to the CPU, made contiguous, tied storages copied) as ``save_numpy`` does."""
    from safetensors.torch import save_file

    cpu = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    _save(save_file, cpu, path, meta)


def _open(path: str | Path, framework: str, made_by: str) -> Any:
    from safetensors import SafetensorError, safe_open

    path = require(path, made_by=made_by)
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path}: not a readable safetensors file ({error}); re-run {made_by}") from error


def read_meta(path: str | Path, *, made_by: str) -> dict[str, Any]:
    """The ``meta`` mapping of a safetensors file saved by this module."""
    with _open(path, "numpy", made_by) as file:
        metadata = file.metadata() or {}
    if "meta" not in metadata:
        raise FileError(f"{path}: safetensors metadata has no `meta` key; re-run {made_by}")
    meta = json.loads(metadata["meta"])
    assert isinstance(meta, dict)
    return meta


def load_numpy(path: str | Path, *, made_by: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All tensors of a safetensors file as numpy arrays, and its ``meta``."""
    with _open(path, "numpy", made_by) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    return tensors, read_meta(path, made_by=made_by)


def load_torch(path: str | Path, *, made_by: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All tensors of a safetensors file as torch CPU tensors, and its ``meta``."""
    with _open(path, "pt", made_by) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    return tensors, read_meta(path, made_by=made_by)
