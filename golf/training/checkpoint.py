"""Checkpoints that survive ``kill -9``: one folder per run, one writer at a time, every file whole and proved so.

    <folder>/lock                        held (flock) while a run uses the folder
    <folder>/state_00000120.safetensors  state after update 120: tensors, the rest as JSON, and a digest of both
    <folder>/snapshot_000.safetensors    snapshots taken so far, written once each; the state holds their SHA-256

The newest two states are stored. A state gets its name after its bytes are on disk, so a kill or a full disk leaves the
earlier ones. What a run continues from is checked first: the state against its digest, every snapshot against its
hash. The folder's name is a hash of all that determines the run; a changed parameter never resumes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from golf.base.errors import GolfError
from golf.base.files import FileError, load_torch, save_torch, sha256_file

__all__ = ["CheckpointError", "CheckpointFolder", "open_checkpoints", "run_key"]

_STORED = 2  # states: the newest, and the one to go back to when that is damaged
_CHANGED = "its content is not what was saved"


class CheckpointError(GolfError):
    """A checkpoint folder is in use, cannot be written, or holds what no run wrote."""


def run_key(parts: Mapping[str, Any]) -> str:
    """Hex SHA-256 of JSON-able ``parts``: equal runs share it, others do not."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> str:
    """Hex SHA-256 of names, types, shapes and bytes of ``tensors`` and of ``meta`` as JSON."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class CheckpointFolder:
    """Save and load the state of one run; made by ``open_checkpoints``, which holds the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.snapshots: list[str] = []  # SHA-256 of the files of snapshots, of the state that was loaded and since

    def newest(self) -> Path | None:
        """The file of the newest state."""
        return max(self.path.glob("state_*.safetensors"), default=None)

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and meta of the newest state, or ``None`` when there is none; ``snapshots`` becomes its list.

        Raises ``CheckpointError`` when it or a snapshot that it lists is missing or damaged, naming the file and the
        newest state that is good.
        """
        states = sorted(self.path.glob("state_*.safetensors"), reverse=True)
        if not states:
            self.snapshots = []
            return None
        try:
            tensors, meta, self.snapshots = self._read(states[0])
            return tensors, meta
        except CheckpointError as error:
            remedy = f"no state is good: remove {self.path} to start again"
            for state in states[1:]:
                with contextlib.suppress(CheckpointError):
                    self._read(state)
                    remedy = f"the last good one is {state}: remove {states[0]} to continue from it"
                    break
            raise CheckpointError(f"{error}; {remedy}") from error

    def _read(self, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]]:
        try:
            tensors, stored = load_torch(path, made_by="`python -m stages.train`")
        except FileError as error:
            raise CheckpointError(f"{path}: damaged, {_CHANGED}") from error
        if stored.pop("digest", None) != _digest(tensors, stored):
            raise CheckpointError(f"{path}: damaged, {_CHANGED}")
        for index, sha256 in enumerate(stored["snapshots"]):
            _check(self.snapshot_path(index), sha256)
        return tensors, stored["meta"], stored["snapshots"]

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Store the state after update ``step``, and of the earlier ones the newest.

        Raises ``CheckpointError`` when the disk refuses; the previous ones stay whole.
        """
        stored = {"meta": meta, "snapshots": self.snapshots}
        self._write(f"state_{step:08d}.safetensors", tensors, {**stored, "digest": _digest(tensors, stored)})
        for old in sorted(self.path.glob("state_*.safetensors"))[:-_STORED]:
            old.unlink()

    def save_snapshot(self, index: int, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Write snapshot ``index``; one left over from a killed run is replaced by the same bytes."""
        path = self.snapshot_path(index)
        self._write(path.name, tensors, meta)
        self.snapshots[index:] = [sha256_file(path)]

    def snapshot_path(self, index: int) -> Path:
        """Where snapshot ``index`` lies."""
        return self.path / f"snapshot_{index:03d}.safetensors"

    def copy_snapshots(self, folder: Path) -> None:
        """Copy all snapshots, which must be as they were written, into ``folder``. Raises ``CheckpointError``."""
        for index, sha256 in enumerate(self.snapshots):
            path = self.snapshot_path(index)
            _check(path, sha256)
            shutil.copyfile(path, folder / path.name)

    def remove(self) -> None:
        """Delete the folder after success, in one step: a state must not outlive the snapshots that it lists."""
        with contextlib.suppress(OSError):
            os.replace(self.path, _removed(self.path))
            shutil.rmtree(_removed(self.path))

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        try:
            save_torch(self.path / name, tensors, meta)
        except FileError as error:
            newest = self.newest()
            before = f"the previous checkpoint {newest} is whole" if newest else "there is no earlier checkpoint"
            raise CheckpointError(
                f"{error}; {before}; free space on this disk or set GOLF_CKPT_DIR to another one, then run again to "
                "continue"
            ) from error


def _check(path: Path, sha256: str) -> None:
    """Raise ``CheckpointError`` unless ``path`` is the file that was written."""
    if not path.is_file() or sha256_file(path) != sha256:
        raise CheckpointError(f"{path}: " + (f"damaged, {_CHANGED}" if path.exists() else "missing"))


def _removed(path: Path) -> Path:
    """Name of a folder that is being removed."""
    return path.with_name(f".{path.name}.removed")


@contextmanager
def open_checkpoints(path: str | Path, *, writer: bool = True) -> Iterator[CheckpointFolder]:
    """The checkpoint folder ``path``, locked against a second run of the same configuration.

    Only the ``writer`` (rank 0 of several processes) takes the lock; the others read. Raises ``CheckpointError``.
    """
    path = Path(path)
    if not writer:
        yield CheckpointFolder(path)
        return
    try:
        lock = _locked(path)
    except BlockingIOError as error:
        raise CheckpointError(f"{path}: another run of the same configuration is training; wait for it") from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: checkpoints cannot be written ({error.strerror}); set GOLF_CKPT_DIR to another folder"
        ) from error
    with lock:
        for leftover in path.glob(".*.tmp"):  # of a killed run
            leftover.unlink()
        yield CheckpointFolder(path)


def _locked(path: Path) -> IO[str]:
    """Make ``path`` and lock it; what a killed run left of its removal goes."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(_removed(path), ignore_errors=True)
        if (path / "lock").is_symlink():
            raise CheckpointError(f"{path / 'lock'}: is a symbolic link, expected the lock of a run; remove it")
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        lock = os.fdopen(handle, "r+", encoding="utf-8")  # held until the run ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (path / "lock").exists() and os.path.samestat(os.fstat(lock.fileno()), os.stat(path / "lock")):
                return lock  # else the run that held it has just ended and removed the folder
        except BaseException:
            lock.close()
            raise
        lock.close()
