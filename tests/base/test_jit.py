"""Compiled kernels: stored from process to process, never older than their sources, and never stopped by the store."""

from __future__ import annotations

import importlib
import os
import pkgutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numba.core.dispatcher import Dispatcher

import golf
from golf.base import jit
from golf.base.jit import kernel, part, step

CALLER = """
import parts_of_a_kernel
from golf.base.jit import kernel

@kernel(parts=(parts_of_a_kernel,))
def add(number):
    return parts_of_a_kernel.double(number) + 1
"""
PART = """
from golf.base.jit import part

@part
def double(number):
    return number * {factor}
"""


def load(folder: Path, factor: int) -> Any:
    """Both modules as a new process would load them, with ``factor`` in the one that the kernel calls into."""
    (folder / "parts_of_a_kernel.py").write_text(PART.format(factor=factor))
    (folder / "kernel_with_parts.py").write_text(CALLER) if not (folder / "kernel_with_parts.py").exists() else None
    for name in ("parts_of_a_kernel", "kernel_with_parts"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module("kernel_with_parts").add


def hits(compiled: Any) -> int:
    """How many signatures were read from disk instead of compiled."""
    return sum(compiled.stats.cache_hits.values())


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to import from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(jit, "STORE", "/proc/nothing")  # so that numba's own store is used
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own cache is blind to a change within a second
    return tmp_path


def test_bug_mixing_kernels_were_compiled_anew_in_every_process(modules: Path) -> None:
    """... because numba sees no change of the files a kernel calls into; with their checksum in the key it does."""
    found = []
    for factor in (2, 2, 30, 30):
        add = load(modules, factor)
        assert add(5) == 5 * factor + 1
        found.append(hits(add))
    assert found == [0, 1, 0, 1]


@pytest.fixture
def store(modules: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own store."""
    monkeypatch.setattr(jit, "STORE", str(modules / "store"))
    return modules / "store"


def copied(modules: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both modules, as a clone or a queued experiment has them."""
    folder = modules / name
    folder.mkdir()
    for path in modules.glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_every_copy_of_the_sources_finds_what_one_has_compiled(
    modules: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(modules, 3)(5) == 16 and not list((modules / "__pycache__").glob("*.nb?"))
    again = load(copied(modules, "copy", monkeypatch), 3)
    assert again(5) == 16 and hits(again) == 1 and "copy" in str(again.py_func.__code__.co_filename)
    changed = load(copied(modules, "changed", monkeypatch), 4)
    assert changed(5) == 21 and hits(changed) == 0 and len(list(store.iterdir())) == 2
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    old, kept = sorted(store.iterdir())
    os.utime(old, (0, 0))
    assert load(copied(modules, "third", monkeypatch), 5)(5) == 26
    assert not old.exists() and kept.exists() and len(list(store.iterdir())) == 2


@pytest.mark.parametrize("fault", ["others write", "another owner", "a link", "a file"])
def test_a_store_that_others_may_have_written_is_not_read(
    fault: str, modules: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "elsewhere").mkdir(mode=0o700)
    if fault == "a link":
        store.symlink_to(modules / "elsewhere")
    elif fault == "a file":
        store.write_bytes(b"")
    else:
        store.mkdir(mode=0o700)
    if fault == "others write":
        store.chmod(0o770)
    elif fault == "another owner":
        monkeypatch.setattr(os, "getuid", lambda: store.stat().st_uid + 1)
    assert load(modules, 3)(5) == 16
    assert list((modules / "__pycache__").glob("*.nbi")) and not list((modules / "elsewhere").iterdir())


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [b"", b"\x80", b"no pickle at all", None])
def test_a_damaged_store_is_dropped_and_written_anew(modules: Path, suffix: str, damage: bytes | None) -> None:
    assert load(modules, 3)(5) == 16
    for path in (modules / "__pycache__").glob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    again = load(modules, 3)
    assert again(5) == 16 and hits(again) == 0
    third = load(modules, 3)
    assert third(5) == 16 and hits(third) == 1


def test_a_folder_in_place_of_the_index_is_no_fault_of_the_kernel(modules: Path) -> None:
    assert load(modules, 3)(5) == 16
    (index,) = (modules / "__pycache__").glob("*.nbi")
    index.unlink()
    index.mkdir()
    assert load(modules, 3)(5) == 16


def test_bug_no_locator_available(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home in a read-only checkout got a traceback instead of a kernel."""
    from numba.core import caching

    def read_only(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(caching.os, "makedirs", read_only)
    monkeypatch.setattr(caching.tempfile, "TemporaryFile", read_only)
    assert load(modules, 4)(5) == 21
    assert not list(modules.rglob("*.nb?"))


def test_a_store_that_turns_read_only_or_full_is_not_written(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    add = load(modules, 4)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_index", full)
    assert add(5) == 21
    assert not list(modules.rglob("*.nb?"))


def test_a_kernel_without_a_file_is_compiled() -> None:
    space: dict[str, Any] = {"kernel": kernel}
    exec(compile("@kernel\ndef seven(x):\n    return x + 7\n", "<no file>", "exec"), space)
    assert space["seven"](1) == 8


def test_read_only_checkout_and_no_home(root: Path, tmp_path: Path) -> None:
    """A kernel in the process of such a user, as far as a test without another user can: every folder refuses."""
    script = (
        "import tempfile\n"
        "def refuse(*a, **k): raise PermissionError(13, 'Permission denied')\n"
        "tempfile.TemporaryFile = refuse\n"
        "import numpy as np\n"
        "from golf.base.exact import exp_all\n"  # the kernel that compiles soonest
        "print((exp_all(np.zeros(3)) == 1.0).all())\n"
    )
    env = {"PYTHONPATH": str(root), "HOME": "/nonexistent", "NUMBA_CACHE_DIR": "/proc/nothing", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("decorator", [part, step])
def test_bug_a_part_called_from_python_was_a_jump_to_address_0(decorator: Any) -> None:
    @decorator
    def half(x):  # type: ignore[no-untyped-def]
        return x / 2

    @kernel
    def quarter(x):  # type: ignore[no-untyped-def]
        return half(half(x))

    for _ in range(2):  # before and after a kernel has compiled it
        with pytest.raises(TypeError, match=r"half is a part of kernels; `kernel\(half\)` gives a function"):
            half(3.0)
        assert quarter(3.0) == 0.75
    assert kernel(half)(3.0) == 1.5


def test_division_by_zero_follows_numpy() -> None:
    @kernel
    def ratio(a: float, b: float) -> float:
        return halved(a) / b

    @step
    def twice(a: Any) -> Any:
        return a * 2.0

    @part
    def halved(a: Any) -> Any:
        return twice(a) / 4.0

    assert ratio(2.0, 0.0) == float("inf") and ratio(2.0, 4.0) == 0.25


def golf_modules() -> list[ModuleType]:
    """Every module of the library that compiles something."""
    names = [m.name for m in pkgutil.walk_packages(golf.__path__, "golf.") if "__main__" not in m.name]
    sources = {name: importlib.util.find_spec(name) for name in names}
    using = [n for n, s in sources.items() if s and s.origin and "golf.base.jit" in Path(s.origin).read_text()]
    return [importlib.import_module(name) for name in using]


def compiled_into(function: Any, seen: set[Any]) -> set[Any]:
    """The compiled functions that ``function`` calls, directly or not."""
    names, space = function.py_func.__code__.co_names, function.py_func.__globals__
    values = [space[name] for name in names if name in space]
    values += [getattr(v, name) for v in values if isinstance(v, ModuleType) for name in names if hasattr(v, name)]
    for value in values:
        if isinstance(value, Dispatcher) and value not in seen:
            seen.add(value)
            compiled_into(value, seen)
    return seen


def test_every_kernel_names_the_modules_compiled_into_it() -> None:
    """A module left out of ``parts`` would leave stale code on disk when it is edited."""
    kernels = 0
    for module in golf_modules():
        for name, function in vars(module).items():
            if isinstance(function, Dispatcher) and hasattr(function, "parts"):
                kernels += 1
                own = {function.py_func.__module__, *(m.__name__ for m in function.parts)}
                called = {part.py_func.__module__ for part in compiled_into(function, set())}
                assert called <= own, f"{module.__name__}.{name}: {called - own} missing in parts"
    assert kernels > 20


def test_no_compiled_function_of_the_coders_takes_more_than_eight_arguments() -> None:
    long = {
        f"{module.__name__}.{name}": function.py_func.__code__.co_argcount
        for module in golf_modules()
        if module.__name__.startswith("golf.artifact.")
        for name, function in vars(module).items()
        if isinstance(function, Dispatcher) and function.py_func.__code__.co_argcount > 8
    }
    assert not long


def test_nothing_else_compiles(root: Path) -> None:
    for folder in ("golf", "stages", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            if path.name != "jit.py":
                text = path.read_text()
                assert "njit" not in text and "numba.jit" not in text, path
