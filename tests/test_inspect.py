"""`golf inspect`: every byte is accounted for, damage and differences are shown, plots are reproducible."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from golf.artifact.bytes import ArtifactError
from golf.artifact.read import unpack
from golf.artifact.ship import size_rows
from golf.artifact.write import pack
from golf.base.files import FileError
from golf.cli import inspect
from golf.quantize.tensors import QuantizedModel, QuantizedTensor


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def make_model(seed: int = 0) -> QuantizedModel:
    values = np.rint(np.random.default_rng(seed).normal(0, 3, (64, 50))).astype(np.int16)
    codes = np.arange(64).astype(np.int8) // 9
    tensors = {
        "block.w": QuantizedTensor("block.w", "mlp", (64, 50), values, codes, (codes[:50] // 3).astype(np.int8)),
        "table": QuantizedTensor("table", "embedding", (9, 4), values[:9, :4], np.ones(9, np.float16)),
    }
    return QuantizedModel({"family": "x"}, 9, tensors, {"gain": np.ones(7, np.float16)})


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """An artifact with its decoder beside it and the error report of `fit` where that stage writes it."""
    path = tmp_path / "artifacts/compress/model.golf"
    path.parent.mkdir(parents=True)
    path.write_bytes(pack(make_model(), b"tokenizer"))
    path.with_name("decoder.zip").write_bytes(bytes(1000))
    report = tmp_path / "artifacts/fit/errors.tsv"
    report.parent.mkdir()
    report.write_text(
        "tensor\trole\trelative_error\toutput_error\nblock.w\tmlp\t1.0\t0.03\ntable\tembedding\t1.0\t0.01\n"
    )
    return path


def cells(out: str, name: str) -> list[str]:
    return next(line for line in out.splitlines() if line.startswith(name)).split()


def test_inspect_accounts_for_every_byte(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.run(arguments(artifact)) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{artifact}: {artifact.stat().st_size:,} bytes, 3,243 weights, ")
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("part"))
    sizes = [int(line.split()[-2].replace(",", "")) for line in lines[start + 1 : lines.index("", start)]]
    assert len(sizes) == 10 and sum(sizes[:-1]) == sizes[-1] == artifact.stat().st_size + 1000
    assert cells(out, "code:")[-2] == "1,000" and cells(out, "total")[1] == f"{sizes[-1]:,}"
    row = cells(out, "block.w")
    assert row[1:4] == ["mlp", "64x50", "rans"]
    assert float(row[6]) == pytest.approx(3.63, abs=0.1) and float(row[5]) > float(row[6])
    assert row[8] == "75.00%" and cells(out, "table")[8] == "25.00%" and cells(out, "gain")[8] == "-"
    assert "share of damage: the tensor's part of the sum of output_error" in out
    side = sum(
        unpack(artifact.read_bytes()).sections[name] for name in ("prefix", "index", "low", "high", "codes", "side")
    )
    assert f"side information (all but integers, tokenizer and code): {side:,} bytes" in out


def test_tensors_prefix_index_and_tokenizer_add_up_to_the_file(artifact: Path) -> None:
    unpacked = unpack(artifact.read_bytes())
    rest = sum(unpacked.sections[name] for name in ("prefix", "index", "tokenizer"))
    stored = sum(row["stored_bytes"] for row in size_rows(unpacked))
    empty = sum(unpacked.sections[name] for name in ("low", "high", "codes", "side")) - sum(
        row["side_stored_bytes"] for row in size_rows(unpacked)
    )  # heads of blocks without content
    assert stored + rest + empty == pytest.approx(unpacked.num_bytes) and -1e-6 < empty < 12


def test_without_report_and_decoder(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = artifact.parents[2] / "alone.golf"
    alone.write_bytes(artifact.read_bytes())
    inspect.run(arguments(alone))
    out = capsys.readouterr().out
    assert "the decoder is not beside the artifact, see --decoder" in out
    assert cells(out, "block.w")[8] == "-" and "share of damage" not in out
    inspect.run(arguments(alone, "--decoder", artifact.with_name("decoder.zip")))
    assert cells(capsys.readouterr().out, "code:")[-2] == "1,000"


def test_older_reports_give_the_weight_error(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = artifact.parents[2] / "errors.tsv"
    report.write_text("tensor\trelative_error\nblock.w\t3.0\ntable\t1.0\n")
    inspect.run(arguments(artifact, "--errors", report))
    out = capsys.readouterr().out
    assert "the sum of relative_error" in out and cells(out, "block.w")[8] == "75.00%"


def test_diff_shows_what_changed(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model()
    other = dataclasses.replace(model, tensors={**model.tensors, "block.w": make_model(1).tensors["block.w"]})
    b = artifact.with_name("b.golf")
    b.write_bytes(pack(other, b"another", coders=("raw",)))
    inspect.run(arguments("--diff", artifact, b))
    out = capsys.readouterr().out
    grown = unpack(b.read_bytes()).sections["payload"] - unpack(artifact.read_bytes()).sections["payload"]
    assert grown > 0 and cells(out, "coded integers")[-1] == f"+{grown:,}"
    assert cells(out, "block.w")[1:3] == ["rans", "raw"] and cells(out, "block.w")[-1] == "differ"
    assert "gain" not in out
    assert "2 tensors have the same weights and coder; same model config; tokenizers differ" in out


def test_an_artifact_does_not_differ_from_itself(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect.run(arguments("--diff", artifact, artifact))
    out = capsys.readouterr().out
    assert "3 tensors have the same weights and coder; same model config; same tokenizer" in out
    assert "block.w" not in out and cells(out, "coded integers")[-1] == "+0"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plots_are_reproducible(artifact: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (artifact.with_name(f"{name}.{suffix}") for name in ("one", "two"))
    inspect.run(arguments(artifact, "--plot", first))
    inspect.run(arguments(artifact, "--plot", second))
    assert first.read_bytes() == second.read_bytes()
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert first.read_bytes().startswith(start)
    assert f"drawn to {first}" in capsys.readouterr().out


def test_wrong_use_is_named(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.golf: not found; it is made by `compress`"):
        inspect.run(arguments(tmp_path / "none.golf"))
    with pytest.raises(ValueError, match="either one FILE or --diff A B"):
        inspect.run(arguments())
    with pytest.raises(ValueError, match=r"--plot: found x\.pdf, expected a name that ends in \.png or \.svg"):
        inspect.run(arguments(artifact, "--plot", "x.pdf"))
    with pytest.raises(FileError, match=r"none\.tsv: not found; it is made by `fit`"):
        inspect.run(arguments(artifact, "--errors", tmp_path / "none.tsv"))
    bad = tmp_path / "bad.tsv"
    bad.write_text("tensor\trole\nx\ty\n")
    with pytest.raises(FileError, match="no column `tensor` or none of output_error, relative_error"):
        inspect.run(arguments(artifact, "--errors", bad))
