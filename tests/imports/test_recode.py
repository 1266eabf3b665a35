"""A GGUF recoded without loss: the same bytes come back, whatever its blocks hold, and damage is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from golf.base.errors import GolfError
from golf.imports.recode import recode, restore

gguf = pytest.importorskip("gguf")


def write(path: Path, kinds: tuple[str, ...] = ("Q4_0", "Q4_1", "Q8_0", "Q5_0", "F32")) -> bytes:
    """A GGUF with a random matrix of each kind; every bit of the blocks is used."""
    writer, random = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    for i, kind in enumerate(kinds):
        number = gguf.GGMLQuantizationType[kind]
        if kind == "F32":
            writer.add_tensor(f"blk.{i}.norm.weight", random.normal(size=(7,)).astype(np.float32))
            continue
        size = gguf.GGML_QUANT_SIZES[number][1]
        blocks = random.integers(0, 256, (6, 3 * size), dtype=np.uint8)
        writer.add_tensor(f"blk.{i}.weight", blocks, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_the_same_file_comes_back(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf")
    assert restore(recode(tmp_path / "m.gguf", threads=2), where="m", threads=2) == whole


def test_damage_is_told(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    data = recode(tmp_path / "m.gguf")
    for damaged in (
        data[:-1],
        data + b"\0",
        b"FLOG" + data[4:],
        data[:60],
        data[:-99] + bytes([data[-99] ^ 1]) + data[-98:],
    ):
        with pytest.raises(GolfError, match="^m"):
            restore(damaged, where="m")


def test_files_without_such_blocks_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", ("F32",))
    with pytest.raises(GolfError, match="has no blocks of Q4_0, Q4_1, Q8_0"):
        recode(tmp_path / "m.gguf")
    (tmp_path / "other.gguf").write_bytes(b"no GGUF at all, only text" * 10)
    with pytest.raises(GolfError, match="not a readable GGUF"):
        recode(tmp_path / "other.gguf")
