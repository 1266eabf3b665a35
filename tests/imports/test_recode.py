"""A GGUF recoded without loss: the same bytes come back, whatever its blocks hold, and damage is told."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from golf.artifact.bytes import Reader, pack_block, unpack_block
from golf.base.errors import GolfError
from golf.imports.origin import open_origin
from golf.imports.recode import MAGIC, recode, restore

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


@pytest.mark.parametrize("lost", [1, 30])
def test_planes_of_another_length_are_told(tmp_path: Path, lost: int) -> None:
    """Only the first of the two was compared with the index: the second ended in an error of numpy."""
    write(tmp_path / "m.gguf", ("Q8_0",))
    data = recode(tmp_path / "m.gguf")
    reader = Reader(data[len(MAGIC) + 32 :], "m")
    parts = [unpack_block(reader, "x") for _ in range(4)]
    payload = reader.take(reader.left, "payload")
    for plane in (2, 3):
        shorter = [part[:-lost] if i == plane else part for i, part in enumerate(parts)]
        changed = data[: len(MAGIC) + 32] + b"".join(map(pack_block, shorter)) + payload
        with pytest.raises(GolfError, match="^m: .* other bytes do not make"):
            restore(changed, where="m")


def lengths(kind: int, value: bytes, tensors: int = 0) -> bytes:
    """A header with one key, ``x``, of a type and content."""
    return b"GGUF" + struct.pack("<IQQQ", 3, tensors, 1, 1) + b"x" + struct.pack("<I", kind) + value + bytes(64)


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(64),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60) + bytes(64),
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0), lengths(8, struct.pack("<Q", 1 << 62)), lengths(77, b""),
        lengths(9, struct.pack("<IQ", 0, 1 << 60)), lengths(9, struct.pack("<IQ", 8, 1 << 60)),
        lengths(9, struct.pack("<IQ", 9, 1) * 2000), b"", b"GGUF",
    ],
)  # fmt: skip
def test_counts_of_a_gguf_are_not_believed(data: bytes, tmp_path: Path) -> None:
    """The reader would loop over as many values as a header of a hundred bytes states."""
    (tmp_path / "m.gguf").write_bytes(data)
    for read in (recode, open_origin):
        with pytest.raises(GolfError, match="m.gguf: not a readable GGUF"):
            read(tmp_path / "m.gguf")


def test_files_without_such_blocks_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", ("F32",))
    with pytest.raises(GolfError, match="has no blocks of Q4_0, Q4_1, Q8_0"):
        recode(tmp_path / "m.gguf")
    (tmp_path / "other.gguf").write_bytes(b"no GGUF at all, only text" * 10)
    with pytest.raises(GolfError, match="not a readable GGUF"):
        recode(tmp_path / "other.gguf")
