"""Checkpoints that survive ``kill -9``: one folder per run, one writer at a time, every file whole.

    <folder>/lock                       held (flock) while a run uses the folder
    <folder>/checkpoint.safetensors     newest state: tensors, and everything else as JSON in its metadata
    <folder>/snapshot_000.safetensors   snapshots taken so far, written once each

A checkpoint replaces the one before by ``os.replace`` after its bytes are on disk, so a kill or a full disk leaves the
previous one. The folder's name is a hash of all that determines the run; a changed parameter never resumes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from golf.base.errors import GolfError
from golf.base.files import load_torch, save_torch

__all__ = ["CheckpointError", "CheckpointFolder", "open_checkpoints", "run_key"]

_STATE = "checkpoint.safetensors"
_MADE_BY = "an interrupted `python -m stages.train` (remove the folder to start again)"


class CheckpointError(GolfError):
    """A checkpoint folder is in use or cannot be written."""


def run_key(parts: Mapping[str, Any]) -> str:
    """Hex SHA-256 of JSON-able ``parts``: equal runs share it, others do not."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class CheckpointFolder:
    """Save and load the state of one run; made by ``open_checkpoints``, which holds the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and meta of the newest checkpoint, or ``None`` when there is none."""
        if not (self.path / _STATE).exists():
            return None
        return load_torch(self.path / _STATE, made_by=_MADE_BY)

    def save(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Replace the checkpoint. Raises ``CheckpointError`` when the disk refuses; the previous one stays whole."""
        self._write(_STATE, tensors, meta)

    def save_snapshot(self, index: int, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Write snapshot ``index``; one left over from a killed run is replaced by the same bytes."""
        self._write(self.snapshot_path(index).name, tensors, meta)

    def snapshot_path(self, index: int) -> Path:
        """Where snapshot ``index`` lies."""
        return self.path / f"snapshot_{index:03d}.safetensors"

    def remove(self) -> None:
        """Delete the folder after success; a finished checkpoint would make the next forced run produce nothing."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        try:
            save_torch(self.path / name, tensors, meta)
        except (OSError, SafetensorError) as error:
            found = self.path / _STATE
            kept = f"the previous checkpoint {found} is whole" if found.exists() else "there is no earlier checkpoint"
            raise CheckpointError(
                f"{self.path / name}: could not be written ({error}); {kept}; free space on this disk or set "
                "GOLF_CKPT_DIR to another one, then run again to continue"
            ) from error


@contextmanager
def open_checkpoints(path: str | Path, *, writer: bool = True) -> Iterator[CheckpointFolder]:
    """The checkpoint folder ``path``, locked against a second run of the same configuration.

    Only the ``writer`` (rank 0 of several processes) takes the lock; the others read.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if not writer:
        yield CheckpointFolder(path)
        return
    with open(path / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(f"{path}: another run of the same configuration is training; wait for it") from error
        for leftover in path.glob(".*.tmp"):  # of a killed run
            leftover.unlink()
        yield CheckpointFolder(path)
