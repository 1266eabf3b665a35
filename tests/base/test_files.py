"""Files are whole or absent, and safetensors bytes depend on content alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.base import files


def test_same_content_gives_same_bytes_in_different_processes(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from golf.base.files import save_numpy;"
        "d = {'b': np.arange(6), 'a': np.ones(3)}; m = {'x': 1, 'y': [2, 3], 'z': 'w'};"
        "order = sys.argv[2] == '1';"
        "d = dict(reversed(d.items())) if order else d; m = dict(reversed(m.items())) if order else m;"
        "save_numpy(sys.argv[1], d, m)"
    )
    hashes = set()
    for i in range(4):
        path = tmp_path / f"{i}.safetensors"
        subprocess.run([sys.executable, "-c", code, str(path), str(i % 2)], check=True)
        hashes.add(files.sha256_file(path))
    assert len(hashes) == 1


@pytest.mark.parametrize("array", [np.arange(12).reshape(3, 4).T, np.asfortranarray(np.eye(3)), np.arange(10)[::2]])
def test_safetensors_issue_825_arrays_that_are_not_contiguous(tmp_path: Path, array: np.ndarray) -> None:
    files.save_numpy(tmp_path / "a.safetensors", {"a": array}, {})
    loaded, _ = files.load_numpy(tmp_path / "a.safetensors", made_by="test")
    np.testing.assert_array_equal(loaded["a"], array)


def test_torch_round_trip_keeps_dtype_and_meta(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 4).T, "b": torch.zeros(2, dtype=torch.bfloat16)}
    files.save_torch(tmp_path / "t.safetensors", tensors, {"step": 3})
    loaded, meta = files.load_torch(tmp_path / "t.safetensors", made_by="test")
    assert meta == {"step": 3}
    assert torch.equal(loaded["w"], tensors["w"]) and loaded["b"].dtype == torch.bfloat16


def test_tied_tensors_can_be_saved(tmp_path: Path) -> None:
    weight = torch.ones(4)
    files.save_torch(tmp_path / "t.safetensors", {"a": weight, "b": weight}, {})
    assert set(files.load_torch(tmp_path / "t.safetensors", made_by="test")[0]) == {"a", "b"}


def test_a_failing_writer_leaves_the_old_file_and_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failing_folder_leaves_the_old_folder_and_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.mkdir()
    (path / "kept").write_text("old")
    with pytest.raises(RuntimeError), files.atomic_directory(path) as temporary:
        (temporary / "new").write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (path / "kept").read_text() == "old"
    with files.atomic_directory(path) as temporary:
        (temporary / "new").write_text("whole")
    assert [p.name for p in path.iterdir()] == ["new"]


@pytest.mark.parametrize("swaps", [True, False])
def test_bug_a_folder_is_replaced_without_a_moment_of_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    """The old folder was removed file by file before the new one was renamed: a kill between left half of it."""
    path, removed = tmp_path / "x", []
    path.mkdir()
    (path / "name").write_text("old")
    rmtree = shutil.rmtree

    def watched(folder: Path, **options: Any) -> None:
        removed.append((folder.name, (path / "name").read_text()))
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    if not swaps:  # as on systems without the call: renamed aside, replaced, removed
        monkeypatch.setattr(files, "_swapped", lambda left, right: False)
    with files.atomic_directory(path) as temporary:
        (temporary / "name").write_text("new")
    assert removed == [(temporary.name, "new")] and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_json_is_sorted_and_finite(tmp_path: Path) -> None:
    files.write_json(tmp_path / "m.json", {"b": 1, "a": 2})
    assert (tmp_path / "m.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "n.json", {"a": float("nan")})
    assert not (tmp_path / "n.json").exists()


def test_errors_name_the_file_and_its_maker(tmp_path: Path) -> None:
    with pytest.raises(files.FileError, match=r"gone.json: not found; it is made by stage tokenize"):
        files.read_json(tmp_path / "gone.json", made_by="stage tokenize")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(files.FileError, match=r"bad.json: damaged JSON .*re-run stage tokenize"):
        files.read_json(tmp_path / "bad.json", made_by="stage tokenize")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    for load in (files.load_numpy, files.load_torch, files.read_meta):
        with pytest.raises(files.FileError, match=r"bad.safetensors: not a readable safetensors file .*re-run stage x"):
            load(tmp_path / "bad.safetensors", made_by="stage x")


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    files.save_numpy(path, {"a": np.arange(1000)}, {})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(files.FileError, match="not a readable safetensors file"):
        files.load_numpy(path, made_by="stage x")


def test_foreign_safetensors_without_meta_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "f.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(files.FileError, match="metadata has no `meta` key"):
        files.read_meta(tmp_path / "f.safetensors", made_by="stage x")


def test_a_scalar_keeps_its_rank(tmp_path: Path) -> None:
    """np.ascontiguousarray makes (1,) of (): a scalar parameter then no longer fitted its model."""
    files.save_numpy(tmp_path / "a.safetensors", {"scalar": np.array(2.5, np.float16)}, {})
    found = files.load_numpy(tmp_path / "a.safetensors", made_by="test")[0]["scalar"]
    assert found.shape == () and found == 2.5
