"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from golf.training.checkpoint import CheckpointError, CheckpointFolder, open_checkpoints, run_key


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    with open_checkpoints(tmp_path / "a") as folder:
        assert folder.load() is None
        folder.save(1, {"w": torch.tensor([1e-45, -0.0, 3.3])}, {"elapsed": value})
        loaded = folder.load()
    assert loaded is not None
    tensors, meta = loaded
    assert tensors["w"].view(torch.int32).tolist() == torch.tensor([1e-45, -0.0, 3.3]).view(torch.int32).tolist()
    assert meta["elapsed"] == value


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoints(tmp_path / "a") as folder:
        folder.save(1, {"w": torch.ones(2)}, {"step": 1})

        def full(path: Path, data: bytes) -> None:
            with open(path, "wb") as file:
                file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*the previous .* is whole.*free"):
            folder.save(2, {"w": torch.zeros(2)}, {"step": 2})
        loaded = folder.load()
    assert loaded is not None and loaded[1] == {"step": 1} and loaded[0]["w"].tolist() == [1.0, 1.0]


def test_bytes_refused_half_way_by_the_system_leave_the_previous_one(tmp_path: Path) -> None:
    """A file-size limit makes the operating system refuse the bytes half way."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open_checkpoints(tmp_path / "a") as folder:
        folder.save(1, {"w": torch.ones(2)}, {"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(CheckpointError, match="the previous checkpoint"):
                folder.save(2, {"w": torch.zeros(100_000)}, {"step": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        loaded = folder.load()
        assert sorted(path.name for path in folder.path.iterdir()) == ["lock", "state_00000001.safetensors"]
    assert loaded is not None and loaded[1] == {"step": 1}


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "a") as folder:
        (folder.path / ".state_00000001.safetensors.x.tmp").write_bytes(b"half")
    with open_checkpoints(tmp_path / "a") as folder:
        assert folder.load() is None
        assert not list(folder.path.glob(".*"))


def saved(folder: CheckpointFolder) -> CheckpointFolder:
    """Three states, the first before and the others after the first of two snapshots."""
    for step in (1, 2, 3):
        folder.save(step, {"w": torch.full((5,), float(step)), "v": torch.arange(3)}, {"step": step, "events": [0.5]})
        if step > 1:
            continue
        folder.save_snapshot(0, {"w": torch.zeros(5)}, {})
    folder.save_snapshot(1, {"w": torch.ones(5)}, {})
    return folder


def test_only_the_newest_two_states_are_stored(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "a") as folder:
        names = [path.name for path in sorted(saved(folder).path.glob("state_*"))]
        assert names == ["state_00000002.safetensors", "state_00000003.safetensors"]
        loaded = folder.load()
    assert loaded is not None and loaded[1]["step"] == 3 and len(folder.snapshots) == 1


@pytest.mark.parametrize("place", ["header", "number", "tensor", "end"])
def test_bug_k17_any_flipped_bit_of_a_state_is_found_and_the_last_good_one_named(tmp_path: Path, place: str) -> None:
    """31 of 82 mutated checkpoints trained on in silence and ended with other weights."""
    with open_checkpoints(tmp_path / "a") as folder:
        path = saved(folder).path / "state_00000003.safetensors"
        data = bytearray(path.read_bytes())
        position = {"header": 3, "number": data.index(b"0.5") + 2, "tensor": len(data) - 20, "end": len(data) - 1}[
            place
        ]
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            folder.load()
        assert str(path) in str(caught.value) and "damaged" in str(caught.value)
        assert f"the last good one is {path.with_name('state_00000002.safetensors')}: remove {path} to" in str(
            caught.value
        )
        path.unlink()
        loaded = folder.load()
    assert loaded is not None and loaded[1]["step"] == 2


@pytest.mark.parametrize("change", ["removed", "changed", "folder"])
def test_bug_f25_a_snapshot_that_is_not_as_written_is_found_at_resume(tmp_path: Path, change: str) -> None:
    """Old snapshots deleted to free space: the run trained to its end and then failed with a traceback."""
    with open_checkpoints(tmp_path / "a") as folder:
        path = saved(folder).snapshot_path(0)
        data = bytearray(path.read_bytes())
        path.unlink()
        if change == "changed":
            data[-1] ^= 1
            path.write_bytes(data)
        elif change == "folder":
            path.mkdir()
        expected = "missing" if change == "removed" else "damaged"
        with pytest.raises(
            CheckpointError, match=rf"snapshot_000.safetensors: {expected}.*no state is good: remove .*a to"
        ):
            folder.load()
        with pytest.raises(CheckpointError, match=rf"snapshot_000.safetensors: {expected}"):
            folder.copy_snapshots(tmp_path)


def test_bug_k18_a_kill_while_the_folder_is_removed_leaves_nothing_to_stumble_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state without its snapshots stayed behind, from which no run could start until it was removed by hand."""
    with open_checkpoints(tmp_path / "a") as folder:
        saved(folder)

        def killed(path: Path) -> None:
            folder_then = Path(path)
            (folder_then / "snapshot_000.safetensors").unlink()
            raise OSError("stands for kill -9")

        monkeypatch.setattr("shutil.rmtree", killed)
        folder.remove()
        monkeypatch.undo()
        assert [path.name for path in tmp_path.iterdir()] == [".a.removed"]
    with open_checkpoints(tmp_path / "a") as folder:
        assert folder.load() is None and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = pytest.raises(CheckpointError, match="file/a: checkpoints cannot be written .*; set GOLF_CKPT_DIR")
    with told, open_checkpoints(tmp_path / "file" / "a"):
        pass


def test_run_key_depends_on_content_not_order() -> None:
    assert run_key({"a": 1, "b": [2]}) == run_key({"b": [2], "a": 1}) != run_key({"a": 1, "b": [3]})


def test_a_lock_that_is_a_link_is_refused_and_its_target_stays(tmp_path: Path) -> None:
    """The lock was opened for writing through the link, which emptied the file behind it."""
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "run.ckpt").mkdir()
    (tmp_path / "run.ckpt" / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="lock: is a symbolic link"), open_checkpoints(tmp_path / "run.ckpt"):
        pass
    assert (tmp_path / "precious").read_bytes() == b"precious"
