"""The prove stage codes what it says, fails when the text does not come back, and rivals are real compressors."""

from __future__ import annotations

import bz2
import dataclasses
import json
import lzma
from pathlib import Path

import numpy as np
import pytest

import stages.prove
from golf.base.params import ParamsError
from golf.data.shards import ShardWriter, load_split
from golf.data.tokenizer import Tokenizer
from golf.report.baselines import text_sizes
from golf.textcodec import prove as library
from golf.textcodec.files import unzip_file
from golf.textcodec.layout import CodecError
from golf.textcodec.model import TextModel
from golf.textcodec.prove import sample_tokens

PARAMS = "prove: {max_tokens: %d, streams: 4, window: 32, arithmetic: portable, mixture: %s}\n"


@pytest.fixture
def project(tmp_path: Path, decoded: TextModel, artifact: Path, prose: str) -> Path:
    tokenizer = Tokenizer(decoded.tokenizer_model)
    kept = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "tokenizer_sha256": tokenizer.sha256}
    writer = ShardWriter(tmp_path / "artifacts/tokens/val", **kept)
    for document in (prose[:200], "", prose[200:450], prose[450:800]):
        writer.add(*tokenizer.document(document))
    writer.close()
    (tmp_path / "artifacts/compress").mkdir()
    (tmp_path / "artifacts/compress/model.golf").write_bytes(artifact.read_bytes())
    (tmp_path / "params.yaml").write_text(PARAMS % (230, "false"))
    return tmp_path


def test_sample_becomes_a_file_that_decodes(
    project: Path, decoded: TextModel, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLF_THREADS", "1")
    tokenizer = Tokenizer(decoded.tokenizer_model)
    whole = sum(len(tokenizer.document(text)[0]) for text in (prose[:200], "", prose[200:450]))
    (project / "params.yaml").write_text(PARAMS % (whole, "false"))
    assert stages.prove.run(project / "params.yaml", project) == 0
    metrics = json.loads((project / "metrics/prove.json").read_text())
    sample = project / "artifacts/prove/sample.golfz"
    assert [path.name for path in sample.parent.iterdir()] == ["sample.golfz"]
    unzip_file(sample, project / "back", decoded)
    assert (project / "back").read_bytes() == prose[:450].encode()
    assert metrics["prove_text_bytes"] == len(prose[:450].encode())
    assert metrics["prove_documents"] == 3
    assert metrics["prove_coded_bytes"] == sample.stat().st_size
    assert metrics["prove_code_bytes"] == pytest.approx(metrics["prove_stated_bits"] / 8, rel=1e-4, abs=2)
    assert metrics["prove_decoded_identical"] is True
    assert metrics["prove_xz_bytes"] == text_sizes(prose[:450].encode())["xz"]


def test_sample_is_the_head_of_the_split(project: Path) -> None:
    split = load_split(project / "artifacts/tokens/val")
    np.testing.assert_array_equal(sample_tokens(split, 20), split.tokens[:20])
    np.testing.assert_array_equal(sample_tokens(split, 10**9), split.tokens)


def test_a_text_that_does_not_come_back_fails_the_stage(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(source: Path, target: Path, decoded: TextModel, *, threads: int) -> object:
        report = unzip_file(source, target, decoded, threads=threads)
        target.write_bytes(target.read_bytes().replace(b"e", b"a"))
        return report

    monkeypatch.setattr(library, "unzip_file", lossy)
    with pytest.raises(CodecError, match=r"SHA-256 [0-9a-f]{64}, the sample has \d{3} bytes and [0-9a-f]{64}"):
        stages.prove.run(project / "params.yaml", project)
    assert not (project / "metrics/prove.json").exists()


def test_tokens_of_another_run_are_refused(project: Path, decoded: TextModel) -> None:
    split = dataclasses.replace(load_split(project / "artifacts/tokens/val"), tokenizer_sha256="0" * 64)
    config = library.ProveConfig(100, 4, 32, "portable", False)
    with pytest.raises(CodecError, match="tokenizer 0000000000000000, the artifact carries"):
        library.prove(split, project / "x.golfz", decoded, config, threads=1)


def test_misspelt_parameter_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.replace("streams", "steams") % (9, "true"))
    with pytest.raises(ParamsError, match="unknown key `steams`; did you mean `streams`"):
        stages.prove.run(tmp_path / "params.yaml", tmp_path)


def test_rivals_are_real_compressors(prose: str) -> None:
    text = prose.encode()
    sizes = text_sizes(text)
    assert sizes["xz"] == len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    assert sizes["bzip2"] == len(bz2.compress(text, 9))
    assert {"zstd"} < set(sizes)
    assert all(0 < size < len(text) for size in sizes.values())


def test_ppmd_sizes_are_of_codes_that_decode(prose: str) -> None:
    pyppmd = pytest.importorskip("pyppmd")
    text = prose.encode()
    size = 1 << 20
    encoder = pyppmd.Ppmd7Encoder(6, size)
    code = encoder.encode(text) + encoder.flush()
    assert pyppmd.Ppmd7Decoder(6, size).decode(code, len(text)) == text
    assert text_sizes(text)["ppmd"] <= len(code)
