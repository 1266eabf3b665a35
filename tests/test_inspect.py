from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from golf.cli import inspect
from golf.coding.blocks import ArtifactError
from golf.container.write import pack
from golf.quantize.tensors import QuantizedModel, QuantizedTensor


def test_inspect_accounts_for_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.rint(np.random.default_rng(0).normal(0, 3, (64, 50))).astype(np.int16)
    tensor = QuantizedTensor("block.w", "mlp", (64, 50), values, np.ones(64, np.float16))
    model = QuantizedModel({"family": "x"}, 9, {"block.w": tensor}, {"gain": np.ones(7, np.float16)})
    path = tmp_path / "model.golf"
    path.write_bytes(pack(model, b"tokenizer"))
    assert inspect.run(argparse.Namespace(file=path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: {path.stat().st_size:,} bytes, 3,207 weights, family x"
    start = next(i for i, line in enumerate(lines) if line.startswith("section"))
    sizes = [int(line.split()[-2].replace(",", "")) for line in lines[start + 1 : lines.index("", start)]]
    assert len(sizes) == 8 and sum(sizes) == path.stat().st_size
    row = next(line.split() for line in lines if line.startswith("block.w"))
    assert row[1:4] == ["mlp", "64x50", "rans"]
    assert float(row[8]) == pytest.approx(3.63, abs=0.1) and float(row[7]) > float(row[8])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.golf: not found; it is made by `compress`"):
        inspect.run(argparse.Namespace(file=tmp_path / "none.golf"))
