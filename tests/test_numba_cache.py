"""The cache of compiled kernels: kept from process to process, and never older than the files compiled into it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from golf.numba_cache import source_stamp

CALLER = """
import parts_of_a_kernel
from golf.numba_cache import jit_with_parts, source_stamp

def add(number):
    return parts_of_a_kernel.part(number) + 1

add = jit_with_parts(add, source_stamp(parts_of_a_kernel))
"""
PART = """
import numba

@numba.njit
def part(number):
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


def test_bug_mixing_kernels_were_compiled_anew_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... because numba sees no change of the files a kernel calls into; with their checksum in the key it does."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own cache is blind to a change within a second
    hits = []
    for factor in (2, 2, 30, 30):
        add = load(tmp_path, factor)
        assert add(5) == 5 * factor + 1
        hits.append(sum(add.stats.cache_hits.values()))
    assert hits == [0, 1, 0, 1]


def test_the_checksum_of_the_mixture_covers_every_file_it_calls_into() -> None:
    from golf.mixing import mixture

    called = set()
    for compiled in (mixture.score_token, mixture.mixture_row, mixture._mix_range):
        (cell,) = compiled.py_func.__closure__
        assert cell.cell_contents == source_stamp(*mixture.PART_FILES)
        used = (getattr(mixture, name, None) for name in compiled.py_func.__code__.co_names)
        called |= {part.py_func.__module__ for part in used if part is not None and hasattr(part, "py_func")}
    assert {"golf.mixing.chain", "golf.mixing.extra"} <= called
    assert called <= {module.__name__ for module in mixture.PART_FILES} | {mixture.__name__}
