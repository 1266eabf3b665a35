"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.training import checkpoint
from golf.training.checkpoint import CheckpointError, open_checkpoints, run_key


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    with open_checkpoints(tmp_path / "a") as folder:
        assert folder.load() is None
        folder.save({"w": torch.tensor([1e-45, -0.0, 3.3])}, {"elapsed": value})
        loaded = folder.load()
    assert loaded is not None
    tensors, meta = loaded
    assert tensors["w"].view(torch.int32).tolist() == torch.tensor([1e-45, -0.0, 3.3]).view(torch.int32).tolist()
    assert meta["elapsed"] == value


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoints(tmp_path / "a") as folder:
        folder.save({"w": torch.ones(2)}, {"step": 1})
        real = checkpoint.save_torch

        def full(path: Any, tensors: Any, meta: Any) -> None:
            real(path.parent / "half", tensors, meta)
            (path.parent / "half").unlink()
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint, "save_torch", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*the previous .* is whole.*free"):
            folder.save({"w": torch.zeros(2)}, {"step": 2})
        loaded = folder.load()
    assert loaded is not None and loaded[1] == {"step": 1} and loaded[0]["w"].tolist() == [1.0, 1.0]


def test_bytes_refused_half_way_by_the_system_leave_the_previous_one(tmp_path: Path) -> None:
    """A file-size limit makes the operating system refuse the bytes half way."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open_checkpoints(tmp_path / "a") as folder:
        folder.save({"w": torch.ones(2)}, {"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(CheckpointError, match="the previous checkpoint"):
                folder.save({"w": torch.zeros(100_000)}, {"step": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        loaded = folder.load()
        assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.safetensors", "lock"]
    assert loaded is not None and loaded[1] == {"step": 1}


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "a") as folder:
        (folder.path / ".checkpoint.safetensors.x.tmp").write_bytes(b"half")
    with open_checkpoints(tmp_path / "a") as folder:
        assert folder.load() is None
        assert not list(folder.path.glob(".*"))


def test_a_damaged_checkpoint_names_itself(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "a") as folder:
        (folder.path / "checkpoint.safetensors").write_bytes(b"not safetensors")
        with pytest.raises(ValueError, match="checkpoint.safetensors: not a readable safetensors file.*start again"):
            folder.load()


def test_run_key_depends_on_content_not_order() -> None:
    assert run_key({"a": 1, "b": [2]}) == run_key({"b": [2], "a": 1}) != run_key({"a": 1, "b": [3]})
