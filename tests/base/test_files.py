"""Files are whole or absent, and safetensors bytes depend on content alone."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.base import files
from golf.base.mapped import forget, map_numpy


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


def test_mapped_arrays_are_those_of_the_file_and_may_be_forgotten(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "a.safetensors"
    kinds = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
    arrays = {kind: rng.integers(0, 100, (3000, 2)).astype(kind) for kind in kinds}
    arrays |= {"empty": np.zeros((0, 3)), "scalar": np.array(7.0)}
    files.save_numpy(path, arrays, {"x": 1})
    mapped, meta = map_numpy(path, made_by="test")
    assert meta == {"x": 1} and set(mapped) == set(arrays)
    before = path.read_bytes()
    mapped["f8"][5] = -1.0
    assert path.read_bytes() == before, "what is written stays in memory"
    for array in (mapped["f8"][2:, 1], np.zeros(3), np.zeros(())):
        forget(array)
    for name, array in arrays.items():
        assert mapped[name].dtype == array.dtype and mapped[name].flags.aligned, name
        np.testing.assert_array_equal(mapped[name], array)


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


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda mask: [None, os.umask(mask)][0]
    os.umask(before)


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_bug_f14_modes_follow_the_umask(
    tmp_path: Path, umask: Callable[[int], None], mask: int, file: int, folder: int
) -> None:
    """Everything was written with mode 0644, a private letter too."""
    umask(mask)
    files.write_text(tmp_path / "file", "x")
    files.save_numpy(tmp_path / "tensors", {"a": np.ones(3)}, {})
    with files.atomic_directory(tmp_path / "folder") as temporary:
        (temporary / "inside").write_text("x")
    assert (mode(tmp_path / "file"), mode(tmp_path / "tensors"), mode(tmp_path / "folder")) == (file, file, folder)


def test_bug_f14_a_copy_is_never_wider_than_its_source_not_even_while_it_is_written(
    tmp_path: Path, umask: Callable[[int], None]
) -> None:
    umask(0o022)
    (tmp_path / "letter").write_text("private")
    (tmp_path / "letter").chmod(0o640)
    with files.atomic_file(tmp_path / "copy", source=tmp_path / "letter") as temporary:
        assert mode(temporary) == 0o640
        temporary.write_text("private")
    assert mode(tmp_path / "copy") == 0o640
    (tmp_path / "letter").chmod(0o666)
    with files.atomic_file(tmp_path / "copy", source=tmp_path / "letter") as temporary:
        temporary.write_text("public")
    assert mode(tmp_path / "copy") == 0o644


def test_bug_k7_an_output_that_is_a_link_is_followed(tmp_path: Path) -> None:
    """The link was replaced and its target stayed as it was."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "file").symlink_to("elsewhere/target")
    (tmp_path / "folder").symlink_to("elsewhere")
    files.write_text(tmp_path / "file", "one")
    files.write_text(tmp_path / "file", "two")
    assert (tmp_path / "file").is_symlink() and (tmp_path / "elsewhere/target").read_text() == "two"
    with files.atomic_directory(tmp_path / "folder") as temporary:
        (temporary / "new").write_text("x")
    assert (tmp_path / "folder").is_symlink() and [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["new"]


def test_a_link_into_a_protected_cache_is_replaced_and_the_cache_stays(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("cached")
    (tmp_path / "cache").chmod(0o444)
    (tmp_path / "out").symlink_to(tmp_path / "cache")
    files.write_text(tmp_path / "out", "new")
    assert not (tmp_path / "out").is_symlink() and (tmp_path / "cache").read_text() == "cached"


KILLED = """
import os, signal, sys
from golf.base.files import atomic_directory, atomic_file, scratch_directory
make = {"file": atomic_file, "folder": atomic_directory, "scratch": scratch_directory}[sys.argv[1]]
with make(sys.argv[2]) as temporary:
    (temporary / "inside" if temporary.is_dir() else temporary).write_text("half")
    print(temporary, flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder", "scratch"])
def test_bug_k19_leftovers_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Temporary files of killed runs stayed for ever, in folders that DVC hashes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = "x" if kind == "scratch" else str(tmp_path / "x")
    make = {"file": files.atomic_file, "folder": files.atomic_directory, "scratch": files.scratch_directory}[kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", KILLED, kind, target], **pipes) as process:  # type: ignore[call-overload]
        left = Path(process.stdout.readline().strip())
        with make(target):
            assert left.exists(), "its process lives"
        process.communicate("x")
    assert left.exists() and process.returncode == -signal.SIGKILL
    (tmp_path / ".x.of-somebody-else.tmp").write_text("x")
    with make(target) as temporary:
        assert not left.exists() and temporary.exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".x.of-somebody-else.tmp"} | ({"x"} if kind != "scratch" else set())


def test_bug_k6_what_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for make, target, told in (
        (files.atomic_file, "folder", "folder: is a folder, expected the name of a file"),
        (files.atomic_directory, "file", "file: is a file, expected the name of a folder"),
        (files.atomic_file, "file/below", "file/below: could not be written .File exists at .*file.; look at"),
        (files.atomic_directory, "file/below", "file/below: could not be written .File exists at .*file.; look at"),
    ):
        with pytest.raises(files.FileError, match=told), make(tmp_path / target):
            raise AssertionError("the work must not begin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("write", ["bytes", "json", "numpy", "torch"])
def test_bug_f13_a_full_disk_is_one_line_with_the_name_and_nothing_is_left(tmp_path: Path, write: str) -> None:
    """A limit on the size of files stands for the full disk: the system refuses the bytes half way."""
    import resource

    calls: dict[str, Callable[[Path], None]] = {
        "bytes": lambda path: files.write_bytes(path, bytes(100_000)),
        "json": lambda path: files.write_json(path, list(range(100_000))),
        "numpy": lambda path: files.save_numpy(path, {"a": np.zeros(100_000)}, {}),
        "torch": lambda path: files.save_torch(path, {"a": torch.zeros(100_000)}, {}),
    }
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(
            files.FileError, match="x: could not be written .*File too large.*; look at its folder's free"
        ):
            calls[write](tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"), files.atomic_file(tmp_path / "x"):
        (tmp_path / "gone").read_text()


def test_types_that_numpy_lacks_are_named(tmp_path: Path) -> None:
    files.save_torch(tmp_path / "w.safetensors", {"a": torch.ones(2), "w": torch.ones(2, dtype=torch.bfloat16)}, {})
    with pytest.raises(files.FileError, match="w.safetensors: tensor `w` is BF16, expected a type of numpy; re-run x"):
        files.load_numpy(tmp_path / "w.safetensors", made_by="x")


def foreign(path: Path, meta: str) -> Path:
    """A well-formed safetensors file whose metadata is ``meta``."""
    header = json.dumps({"__metadata__": {"meta": meta}, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0")
    return path


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "NaN", '{"x": Infinity}', "[1]", "3"])
def test_bug_k25_metadata_that_is_no_mapping_names_the_file_and_the_stage(tmp_path: Path, text: str) -> None:
    path = foreign(tmp_path / "m.safetensors", text)
    for load in (files.read_meta, files.load_numpy, files.load_torch):
        with pytest.raises(files.FileError, match=r"m.safetensors: .*; re-run stage x"):
            load(path, made_by="stage x")
    (tmp_path / "m.json").write_text(text)
    if text[-1] not in "]3":
        with pytest.raises(files.FileError, match=r"m.json: damaged JSON .*re-run stage x"):
            files.read_json(tmp_path / "m.json", made_by="stage x")


@dataclasses.dataclass(frozen=True)
class Made:
    """Stands for what a stage writes beside its tensors."""

    tokens: int
    name: str


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"tokens": "3", "name": "x"}, "tokens: found '3'"),
        ({"tokens": 3}, "missing key `name`"),
        ({"tokens": None, "name": "x"}, "tokens: found None"),
    ],
)
def test_bug_k25_checked_metadata_names_file_key_and_stage(data: Any, told: str) -> None:
    assert files.checked(Made, {"tokens": 3, "name": "x", "more": 1}, path="m.json", made_by="stage x") == Made(3, "x")
    with pytest.raises(files.FileError, match=rf"m.json.*{told}.*; re-run stage x"):
        files.checked(Made, data, path="m.json", made_by="stage x")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    for read in (files.read_json, files.load_numpy, files.load_torch, files.read_meta):
        with pytest.raises(files.FileError, match="is a folder, expected a file; remove it and re-run stage x"):
            read(tmp_path, made_by="stage x")
