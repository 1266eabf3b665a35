from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from golf.artifact.read import unpack
from golf.artifact.ship import (
    DECODER,
    CompressConfig,
    check_limit,
    decoder_modules,
    pack_decoder,
    size_metrics,
    size_rows,
)
from golf.artifact.write import pack
from golf.base.code import import_closure, minify
from golf.base.errors import GolfError
from golf.base.files import load_numpy, save_torch, write_bytes
from golf.base.params import ParamsError, from_dict, load_section, read_params
from golf.models.registry import build_model, config_from_dict
from golf.quantize.storage import load_quantized
from golf.quantize.tensors import QuantizedModel, QuantizedTensor
from tiny import recurrent
from warm import Warm

TINY = recurrent()


def run(command: list[str], cwd: Path, path: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter, which has ``path`` and nothing else of golf."""
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def project(root: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an averaged tiny model, the stages from `quantize` to `compress` run on it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = build_model(config_from_dict(TINY), 60)
    model.state_dict()["token_embedding"].mul_(torch.logspace(0, -2, 16))  # what the compiled coders are made for
    meta = {"model": TINY, "vocab_size": 60}
    save_torch(folder / "artifacts/average/model.safetensors", model.state_dict(), meta)
    write_bytes(folder / "artifacts/tokens/tokenizer.model", b"\n\x05piece" * 60)
    write_params(folder, 16_000_000)
    for stage in ("quantize", "fit", "compress"):
        done = warm.python("-m", f"stages.{stage}", "--root", str(folder), "--params", "params.yaml", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def write_params(folder: Path, limit: int, **changes: object) -> None:
    """The repository's parameters of these stages, with the quickest quantizer, ``limit`` and ``changes``."""
    sections = read_params(Path(__file__).resolve().parents[2] / "params.yaml")
    quantize = {**sections["quantize"], "method": "gptq_lite", "percentiles": [0.999, 1.0], "clip": 12.85}
    for key, value in changes.items():
        quantize[key] = {**quantize[key], **value} if key == "gptq" and isinstance(value, dict) else value
    with open(folder / "params.yaml", "w") as file:
        compress = {**sections["compress"], "limit_bytes": limit}
        YAML().dump({"quantize": quantize, "fit": sections["fit"], "compress": compress}, file)


def test_stages_write_what_the_architecture_promises(project: Path) -> None:
    metrics = json.loads((project / "metrics/compress.json").read_text())
    artifact, decoder = project / "artifacts/compress/model.golf", project / "artifacts/compress/decoder.zip"
    assert metrics["artifact_bytes"] == artifact.stat().st_size
    assert metrics["decoder_bytes"] == decoder.stat().st_size
    assert metrics["total_bytes"] == metrics["artifact_bytes"] + metrics["decoder_bytes"]
    assert metrics["margin_bytes"] == 16_000_000 - metrics["total_bytes"]
    sections = {key: value for key, value in metrics.items() if key.startswith("section_")}
    assert sum(sections.values()) == metrics["artifact_bytes"]
    assert {"payload_bytes", "order0_bytes"} <= set(metrics)
    lines = (project / "artifacts/compress/tensors.tsv").read_text().splitlines()
    assert {"tensor", "bytes", "role", "coder"} <= set(lines[0].split("\t"))
    state, _ = load_numpy(project / "artifacts/average/model.safetensors", made_by="test")
    assert len(lines) - 1 == len(state)
    errors = (project / "artifacts/fit/errors.tsv").read_text().splitlines()
    assert len(errors) == len(lines) and errors[0].startswith("tensor\trole\tshape")
    assert 0 < json.loads((project / "metrics/quantize.json").read_text())["quantized_relative_error"] < 0.01


def test_artifact_holds_the_integers_of_quantize(project: Path) -> None:
    passed_on = project / "artifacts/fit/model.safetensors"
    assert passed_on.read_bytes() == (project / "artifacts/quantize/model.safetensors").read_bytes()
    assert json.loads((project / "metrics/fit.json").read_text()) == {"fit_target_bytes": 0}
    model = load_quantized(passed_on)
    unpacked = unpack((project / "artifacts/compress/model.golf").read_bytes())
    assert unpacked.tokenizer == b"\n\x05piece" * 60
    for name, array in model.state().items():
        assert np.array_equal(unpacked.model.state()[name], array)


@pytest.mark.slow
def test_shipped_decoder_alone_gives_the_same_logits(project: Path, root: Path, tmp_path: Path) -> None:
    """In an empty directory, with nothing of this repository but the zip; streams of the compiled coders included."""
    records = unpack((project / "artifacts/compress/model.golf").read_bytes()).records
    assert any(record.coder >= 2 for record in records)
    script = (
        "import hashlib, torch, golf, golf.artifact.decode as d\n"
        "assert '.zip' in golf.__file__, golf.__file__\n"
        "decoded = d.load_artifact('model.golf')\n"
        "ids = torch.arange(40).reshape(2, 20)\n"
        "with torch.no_grad(): logits = decoded.model.logits(decoded.model.hidden(ids))\n"
        "print(hashlib.sha256(logits.numpy().tobytes()).hexdigest(), decoded.sha256)\n"
    )
    for name in ("model.golf", "decoder.zip"):
        (tmp_path / name).write_bytes((project / "artifacts/compress" / name).read_bytes())
    shipped = run(["-c", script], tmp_path, str(tmp_path / "decoder.zip"))
    assert shipped.returncode == 0, shipped.stderr
    full = run(["-c", script.replace("assert", "0 and")], tmp_path, str(root))
    assert shipped.stdout == full.stdout and len(shipped.stdout.split()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.zip", "model.golf"]


def test_the_stages_give_the_same_bytes_again(project: Path, warm: Warm, tmp_path: Path) -> None:
    for name in ("artifacts/average/model.safetensors", "artifacts/tokens/tokenizer.model", "params.yaml"):
        write_bytes(tmp_path / name, (project / name).read_bytes())
    for stage in ("quantize", "fit", "compress"):
        assert warm.python("-m", f"stages.{stage}", cwd=tmp_path).returncode == 0
    for name in ("quantize/model.safetensors", "compress/model.golf", "compress/decoder.zip", "compress/tensors.tsv"):
        assert (tmp_path / "artifacts" / name).read_bytes() == (project / "artifacts" / name).read_bytes(), name


def test_above_the_limit_metrics_are_written_and_the_stage_fails(project: Path, warm: Warm, tmp_path: Path) -> None:
    for name in ("artifacts/fit/model.safetensors", "artifacts/tokens/tokenizer.model"):
        write_bytes(tmp_path / name, (project / name).read_bytes())
    limit = json.loads((project / "metrics/compress.json").read_text())["total_bytes"] - 100
    write_params(tmp_path, limit)
    done = warm.python("-m", "stages.compress", cwd=tmp_path)
    metrics = json.loads((tmp_path / "metrics/compress.json").read_text())
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"100 above compress.limit_bytes={limit}" in done.stderr
    assert "lower quantize.levels" in done.stderr
    assert metrics["margin_bytes"] == limit - metrics["total_bytes"] == -100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": {"embedding": 31}}, "levels: found embedding, expected exactly embedding, attention, mlp"),
        ({"levels": {"embedding": 31, "attention": 5, "mlp": 31}}, "levels.attention: found 5"),
        ({"percentiles": [99.9]}, r"percentiles\[0\]: found 99.9"),
        ({"clip": 0.0}, "clip: found 0.0"),
        ({"method": "awq"}, "quantize.method: found 'awq'"),
        ({"gptq": {"damping": 0.0}}, "damping: found 0.0"),
        ({"gptq": {"column_exponent": 2.0}}, "column_exponent: found 2.0"),
        (
            {"method": "gptq_trellis", "gptq": {"act_order": True}},
            "gptq.act_order: found true",
        ),
    ],
)
def test_wrong_parameters_are_named(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    from golf.quantize.pipeline import QuantizeConfig

    write_params(tmp_path, 1, **changes)
    with pytest.raises(ParamsError, match=message):
        load_section(tmp_path / "params.yaml", "quantize", QuantizeConfig)


def test_missing_inputs_name_their_stage(warm: Warm, tmp_path: Path) -> None:
    write_params(tmp_path, 1)
    done = warm.python("-m", "stages.compress", cwd=tmp_path)
    assert done.returncode == 1
    assert "artifacts/fit/model.safetensors: not found; it is made by `fit`" in done.stderr
    done = warm.python("-m", "stages.fit", cwd=tmp_path)
    assert "artifacts/quantize/model.safetensors: not found; it is made by `quantize`" in done.stderr


def test_compress_config_is_checked() -> None:
    with pytest.raises(ParamsError, match="limit_bytes: found 0"):
        from_dict(CompressConfig, {"coder": "rans", "limit_bytes": 0})


def test_minified_source_runs_the_same_and_loses_its_words() -> None:
    source = (
        '"""Module words."""\n'
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Point:\n"
        '    """Class words."""\n'
        "    x: int  # a field\n"
        "def double(point: Point, *more: int, scale: float = 2.0) -> float:\n"
        '    """Function words."""\n'
        "    return point.x * scale + sum(more)\n"
        "class Empty(Exception):\n"
        '    """Only words."""\n'
    )
    small = minify(source)
    assert "words" not in small and "# a field" not in small and "-> float" not in small
    space: dict[str, object] = {}
    exec(compile(small, "small", "exec"), space)
    assert space["double"](space["Point"](4), 1, scale=3.0) == 13.0  # type: ignore[operator]


def artifact_of(values: np.ndarray, *, family: str = "transformer", coders: Sequence[str] = ("rans",)) -> bytes:
    """One matrix as an artifact."""
    tensor = QuantizedTensor("w", "mlp", values.shape, values.astype(np.int16), np.ones(len(values), np.float16))
    return pack(QuantizedModel({"family": family}, 9, {"w": tensor}), b"t", coders=coders)


NOISE = np.rint(np.random.default_rng(0).normal(0, 3, (50, 40)))


def packed_modules(decoder: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(decoder)) as archive:
        assert archive.namelist() == ["golf/__init__.py", "golf/code.lzma"]
        parts = lzma.decompress(archive.read("golf/code.lzma")).decode().split("\0")
    return dict(part.split("\n", 1) for part in parts)  # type: ignore[misc]


def test_a_decoder_without_raw_reads_tensors_that_no_coder_wrote(root: Path, tmp_path: Path) -> None:
    """Their records have coder 0 too, which once was refused as a coder that the decoder does not know."""
    tensor = QuantizedTensor("w", "mlp", NOISE.shape, NOISE.astype(np.int16), np.ones(len(NOISE), np.float16))
    model = QuantizedModel({"family": "transformer"}, 9, {"w": tensor}, plain={"gain": np.ones(3, np.float16)})
    artifact = pack(model, b"t", coders=("rans",))
    (tmp_path / "model.golf").write_bytes(artifact)
    (tmp_path / "decoder.zip").write_bytes(pack_decoder(root, artifact))
    script = "from golf.artifact.read import unpack; print(len(unpack(open('model.golf', 'rb').read()).records))"
    done = run(["-c", script], tmp_path, str(tmp_path / "decoder.zip"))
    assert done.stdout == "2\n", done.stderr


def test_decoder_is_deterministic_and_small(root: Path, project: Path) -> None:
    artifact = (project / "artifacts/compress/model.golf").read_bytes()
    decoder = pack_decoder(root, artifact)
    assert decoder == pack_decoder(root, artifact) == (project / "artifacts/compress/decoder.zip").read_bytes()
    assert len(decoder) < 20_200


@pytest.mark.parametrize(
    ("family", "coders", "holds"),
    [
        ("transformer", ("rans",), {"golf.models.transformer"}),
        ("gdn_hybrid", ("context",), {"golf.models.gdn_hybrid", "golf.artifact.context", "golf.base.jit"}),
        (
            "record",
            ("rans",),
            {"golf.models.record", "golf.models.record_block", "golf.models.document_attention"},
        ),
        ("depth_recurrent", ("columns",), {"golf.models.depth_recurrent", "golf.artifact.columns"}),
    ],
)
def test_decoder_holds_the_family_and_the_coders_of_its_artifact(
    root: Path, family: str, coders: tuple[str, ...], holds: set[str]
) -> None:
    modules = packed_modules(pack_decoder(root, artifact_of(NOISE, family=family, coders=coders)))
    special = {"transformer", "gdn_hybrid", "depth_recurrent", "record", "columns", "context"}
    named = {name for name in modules if name.split(".")[-1] in special}
    holds = holds | {f"golf.models.configs.{family}"}
    assert holds <= set(modules) and named - holds <= {"golf.artifact.context"}  # columns code their codes with it
    for room in ("training", "cli", "report", "scoring", "data"):
        assert not [name for name in modules if name.startswith(f"golf.{room}")]


def test_decoder_holds_neither_encoders_nor_the_training_head(root: Path) -> None:
    text = "\n".join(packed_modules(pack_decoder(root, artifact_of(NOISE, coders=("columns",)))).values())
    for name in ("encode", "_encode_columns", "pack_block", "build_table", "loss", "softcapped_cross_entropy", "step("):
        assert f"def {name}" not in text.replace("def step(a)", ""), name


@pytest.mark.slow
def test_code_of_the_decoder_changes_the_zip_and_words_do_not(root: Path, tmp_path: Path) -> None:
    made_of = partial(decoder_modules, family="transformer", coders={1})
    for name in import_closure(DECODER, root):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    before = made_of(tmp_path)
    assert before == made_of(root)
    source = tmp_path / "golf/models/layers.py"
    source.write_text(source.read_text() + "# more words\nUNUSED = 1\n")
    assert made_of(tmp_path) == before
    source.write_text(source.read_text().replace("F.linear(hidden, weight)", "F.linear(2 * hidden, weight)"))
    assert made_of(tmp_path) != before


def test_an_artifact_above_the_limit_is_never_told_to_shrink_to_nothing() -> None:
    unpacked = unpack(artifact_of(NOISE))
    metrics = size_metrics(unpacked, decoder_bytes=20_000, limit_bytes=20_000)
    with pytest.raises(GolfError) as caught:
        check_limit(size_metrics(unpacked, decoder_bytes=30_000, limit_bytes=20_000))
    assert "the decoder alone is 30000 bytes" in str(caught.value) and "% smaller" not in str(caught.value)
    with pytest.raises(GolfError, match=r"about \d?\d\.\d % smaller"):
        check_limit({**metrics, "decoder_bytes": 19_000, "total_bytes": 19_000 + metrics["artifact_bytes"]})


def test_size_table_adds_up() -> None:
    values = np.rint(np.random.default_rng(0).normal(0, 3, (50, 40))).astype(np.int16)
    tensor = QuantizedTensor("w", "mlp", (50, 40), values, np.ones(50, np.float16))
    model = QuantizedModel({"family": "x"}, 9, {"w": tensor}, {"g": np.ones(7, np.float16)})
    unpacked = unpack(pack(model, b"t"))
    rows = size_rows(unpacked)
    assert [row["tensor"] for row in rows] == ["w", "g"]
    assert rows[0]["bytes"] == rows[0]["payload_bytes"] + rows[0]["table_bytes"] + 100
    assert (rows[1]["bytes"], rows[1]["coder"], rows[1]["bits_per_weight"]) == (14, "fp16", 16.0)
    metrics = size_metrics(unpacked, decoder_bytes=10, limit_bytes=20_000)
    assert metrics["payload_bytes"] <= 1.02 * metrics["order0_bytes"] + 40
    check_limit(metrics)
    with pytest.raises(GolfError, match=r"decoder 19999 = .* above compress.limit_bytes=20000. Save"):
        check_limit(size_metrics(unpacked, decoder_bytes=19_999, limit_bytes=20_000))
