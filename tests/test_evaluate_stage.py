"""The evaluate stage on a real (tiny) artifact: it reads two things, writes two, and refuses what does not fit."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

import stages.baselines as baselines
import stages.evaluate as evaluate
import stages.hedge as hedge
from golf.artifact.decode import load_artifact
from golf.base.files import load_numpy
from golf.base.params import ParamsError
from golf.data.shards import ShardWriter
from golf.data.tokenizer import Tokenizer, train_tokenizer
from golf.models.registry import build_model, config_from_dict
from golf.quantize.storage import save_quantized
from golf.quantize.tensors import QuantizedModel, QuantizedTensor
from golf.scoring import likeliest
from golf.scoring.text import ScoringError, load_text
from tiny import pack_untrained, recurrent
from warm import Warm

NEURAL = {"window": 32, "batch": 8, "precision": "fp32"}
PARAMS = {
    "evaluate": {
        "roundtrip": NEURAL,
        "sliding": {**NEURAL, "stride": 8},
        "streaming": {
            **{"window": 32, "chunk": 16, "segment": 500, "warmup": 64, "streams": 4, "precision": "fp32"},
            **{"attention": "ring", "compile": False},
            **{"temperatures": [0.8, 1.25], "bias": True, "bias_chunk_tokens": 64, "bias_global_rate": 0.002},
            **{"bias_document_rate": 0.1, "candidates": 3, "candidate_orders": [1, 2, 3, 4, 6], "sampled_rows": 64},
        },
        "ttt": {
            **{"enabled": True, "window": 32, "update_tokens": 16, "rank": 2, "learning_rate": 0.003, "batch": 4},
            **{"precision": "fp32"},
        },
        "hedge": {
            **{"chain": True, "chain_orders": [1, 2, 3, 5]},
            **{"chain_forgetting": 0.9998, "cascade": True, "cascade_rate": 0.01, "final": True},
            **{"final_rate_floor": 0.005, "near_tokens": 200, "entropy_edges_nats": [0.5, 1.5, 2.5, 3.5]},
            **{"document_orders": [1, 2]},
            **{"learning_rate": 1.0, "share": 0.01, "smoothing": 0.1},
        },
    }
}


def write_tokens(folder: Path, tokenizer: Tokenizer, documents: list[str]) -> None:
    kept = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "tokenizer_sha256": tokenizer.sha256}
    writer = ShardWriter(folder, **kept)
    for document in documents:
        writer.add(*tokenizer.document(document))
    writer.close()


@pytest.fixture(autouse=True)
def few_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole rows of the mixture cost a millisecond each, and `hedge` runs thirty times here."""
    monkeypatch.setattr(likeliest, "PASSAGE_TARGETS", 32)


@pytest.fixture(scope="module")
def documents(root: Path) -> list[str]:
    """Real prose of this repository, a document with odd characters, and an empty one."""
    prose = (root / "docs" / "architecture.md").read_text()
    return [*(prose[i : i + 1500] for i in range(0, 4500, 1500)), "tab\there \u2581 caf\u00e9 \U0001f600\n\n  end ", ""]


@pytest.fixture(scope="module")
def tokenizer(documents: list[str]) -> Tokenizer:
    return train_tokenizer(documents, 400)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, documents: list[str], tokenizer: Tokenizer) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "artifacts/compress").mkdir(parents=True)
    artifact = pack_untrained(recurrent(width=32, blocks=1), tokenizer.vocab_size, tokenizer.model)
    (root / "artifacts/compress/model.golf").write_bytes(artifact)
    write_tokens(root / "artifacts/tokens/val", tokenizer, documents)
    with open(root / "params.yaml", "w") as file:
        YAML().dump(PARAMS, file)
    return root


def copy_inputs(project: Path, folder: Path) -> Path:
    """Nothing but the artifact, the validation tokens and the parameters."""
    shutil.copytree(project / "artifacts/tokens/val", folder / "artifacts/tokens/val")
    (folder / "artifacts/compress").mkdir(parents=True)
    shutil.copy(project / "artifacts/compress/model.golf", folder / "artifacts/compress/model.golf")
    shutil.copy(project / "params.yaml", folder / "params.yaml")
    return folder


@pytest.mark.parametrize("mode", ["roundtrip", "sliding", "streaming"])
def test_artifact_and_validation_tokens_are_all_it_needs(
    mode: str, project: Path, tmp_path: Path, documents: list[str]
) -> None:
    lonely = copy_inputs(project, tmp_path)
    for root in (project, lonely):
        assert evaluate.run(mode, root / "params.yaml", root) == 0
    written, tokens = (Path(f"artifacts/evaluate/{mode}{suffix}.safetensors") for suffix in ("", "_tokens"))
    for path in (written, tokens):
        assert (project / path).read_bytes() == (lonely / path).read_bytes()
    tensors, meta = load_numpy(lonely / written, made_by="evaluate")
    assert tensors["doc_bytes"].tolist() == [len(text.encode()) for text in documents]
    assert tensors["doc_nats"].shape == tensors["doc_tokens"].shape == (len(documents),)
    assert meta["artifact_sha256"] == load_artifact(lonely / "artifacts/compress/model.golf").sha256
    metrics = json.loads((lonely / f"metrics/evaluate_{mode}.json").read_text())
    total, num_bytes = float(tensors["doc_nats"].sum()), sum(len(text.encode()) for text in documents)
    assert metrics[f"{mode}_bits_per_byte"] == pytest.approx(total / np.log(2) / num_bytes, rel=1e-12)
    assert metrics[f"{mode}_nats_per_token"] == pytest.approx(total / metrics["tokens"], rel=1e-12)
    assert (metrics["bytes"], metrics["tokens"]) == (num_bytes, int(tensors["doc_tokens"].sum()))
    assert metrics[f"{mode}_seconds"] > 0
    left = {path.relative_to(lonely).as_posix() for path in lonely.rglob("*") if path.is_file()}
    assert left - {"params.yaml", "artifacts/compress/model.golf", "artifacts/tokens/val/shard_000000.safetensors"} == {
        written.as_posix(),
        tokens.as_posix(),
        f"metrics/evaluate_{mode}.json",
    }


def test_baselines_say_what_xz_needs_for_the_same_text_and_integers(
    project: Path, documents: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shutil.copytree(project / "artifacts/tokens/val", tmp_path / "artifacts/tokens/val")
    (tmp_path / "artifacts/tokens/tokenizer.model").write_bytes(tokenizer.model)
    values = np.arange(-6, 6, dtype=np.int16).reshape(3, 4)
    tensor = QuantizedTensor("up", "mlp", (3, 4), values, np.ones(3, np.float16), None, False)
    save_quantized(tmp_path / "artifacts/fit/model.safetensors", QuantizedModel({}, 400, {"up": tensor}, {}, {}))
    baselines.run(project / "params.yaml", tmp_path)
    metrics = json.loads((tmp_path / "metrics/baselines.json").read_text())
    raw = "".join(documents).encode()
    xz = partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME)
    assert metrics["xz_bits_per_byte"] == 8 * len(xz(raw)) / len(raw)
    assert metrics["raw_bytes"] == 9 and metrics["xz_bytes"] == len(xz(values.astype(np.int8).tobytes()))


def test_score_of_the_artifact_is_that_of_the_dequantized_model_in_memory(project: Path) -> None:
    from golf.scoring.network import RoundtripConfig
    from scores import score_windows

    evaluate.run("roundtrip", project / "params.yaml", project)
    decoded = load_artifact(project / "artifacts/compress/model.golf")
    sha = decoded.tokenizer_sha256
    text = load_text(project / "artifacts/tokens/val", vocab_size=decoded.vocab_size, tokenizer_sha256=sha)
    model = build_model(config_from_dict(decoded.config), decoded.vocab_size)
    model.load_state_dict(decoded.model.state_dict())
    in_memory = score_windows(model, text, RoundtripConfig(**NEURAL))
    tensors, _ = load_numpy(project / "artifacts/evaluate/roundtrip.safetensors", made_by="evaluate")
    np.testing.assert_array_equal(tensors["doc_nats"], in_memory.doc_nats)


def set_hedge(root: Path, **changes: object) -> None:
    params = {"evaluate": {**PARAMS["evaluate"], "hedge": {**PARAMS["evaluate"]["hedge"], **changes}}}
    with open(root / "params.yaml", "w") as file:
        YAML().dump(params, file)


def run_hedge(project: Path, folder: Path, **changes: object) -> dict[str, float]:
    """Score the mixture in a folder that holds the record and the validation tokens, and no artifact."""
    if not (project / "artifacts/evaluate/streaming_tokens.safetensors").exists():
        evaluate.run("streaming", project / "params.yaml", project)
    if not (folder / "artifacts").exists():
        shutil.copytree(project / "artifacts/tokens/val", folder / "artifacts/tokens/val")
        (folder / "artifacts/evaluate").mkdir()
        name = "artifacts/evaluate/streaming_tokens.safetensors"
        shutil.copy(project / name, folder / name)
    set_hedge(folder, **changes)
    assert hedge.run(folder / "params.yaml", folder) == 0
    metrics: dict[str, float] = json.loads((folder / "metrics/evaluate_hedge.json").read_text())
    return metrics


@pytest.fixture(scope="module")
def base(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Metrics of the mixture as ``PARAMS`` has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likeliest, "PASSAGE_TARGETS", 32)
        return run_hedge(project, tmp_path_factory.mktemp("base"))


def test_hedge_needs_the_record_and_the_tokens_alone_and_proves_its_sums(
    project: Path, tmp_path: Path, documents: list[str]
) -> None:
    metrics = run_hedge(project, tmp_path)
    streaming = json.loads((project / "metrics/evaluate_streaming.json").read_text())
    gain = streaming["streaming_bits_per_byte"] - metrics["hedge_bits_per_byte"]
    assert metrics["hedge_gain_bits_per_byte"] == pytest.approx(gain, abs=1e-12)
    assert gain > 0.1, "an untrained model leaves much to gain"
    assert metrics["hedge_sampled_rows"] == 64
    assert metrics["hedge_max_sum_error"] <= 1e-9
    assert metrics["hedge_max_row_error"] <= 1e-9
    assert metrics["hedge_count_mismatches"] == 0
    assert metrics["hedge_simple_max_sum_error"] <= 1e-9
    assert metrics["hedge_simple_max_row_error"] <= 1e-9
    final = [value for key, value in metrics.items() if key.startswith("hedge_simple_weight_final_")]
    assert len(final) == 6
    assert sum(final) == pytest.approx(1.0)
    parts = ("hedge_simple", "hedge_bias", "hedge_chain", "hedge_cascade", "hedge_final")
    assert all(metrics[f"{part}_bits_per_byte"] < streaming["streaming_bits_per_byte"] for part in parts)
    tensors, meta = load_numpy(tmp_path / "artifacts/evaluate/hedge.safetensors", made_by="hedge")
    assert tensors["doc_bytes"].tolist() == [len(text.encode()) for text in documents]
    assert meta["artifact_sha256"] == load_artifact(project / "artifacts/compress/model.golf").sha256


def test_hedge_tables_add_up_to_the_scores(project: Path, tmp_path: Path) -> None:
    from golf.report.plots import read_table

    metrics = run_hedge(project, tmp_path)
    for name in ("position", "orders"):
        table = read_table(tmp_path / f"artifacts/evaluate/hedge/{name}.tsv", made_by="hedge")
        tokens = np.array(table["tokens"], dtype=float)
        assert tokens.sum() == metrics["tokens"]
        total = (tokens * np.array(table["hedge_nats_per_token"], dtype=float)).sum()
        assert total / metrics["tokens"] == pytest.approx(metrics["hedge_nats_per_token"], rel=1e-6)
    calibration = read_table(tmp_path / "artifacts/evaluate/hedge/calibration.tsv", made_by="hedge")
    assert sum(map(float, calibration["tokens"])) == metrics["tokens"]
    weights = read_table(tmp_path / "artifacts/evaluate/hedge/weights.tsv", made_by="hedge")
    assert len(weights["target"]) == metrics["hedge_sampled_rows"]


@pytest.mark.parametrize(
    "changes",
    [
        *({"final": False}, {"chain": False, "final": False}, {"cascade": False, "final": False}),
        *({"chain_orders": [2]}, {"chain_forgetting": 0.9}, {"cascade_rate": 0.5}),
        *({"final_rate_floor": 0.9}, {"near_tokens": 5}, {"entropy_edges_nats": [3.0, 4.0, 4.5, 5.0, 5.5]}),
    ],
)
def test_every_knob_of_the_mixture_moves_the_headline(
    changes: dict[str, object], base: dict[str, float], project: Path, tmp_path: Path
) -> None:
    other = run_hedge(project, tmp_path, **changes)
    assert other["hedge_bits_per_byte"] != base["hedge_bits_per_byte"]
    assert other["hedge_simple_bits_per_byte"] == base["hedge_simple_bits_per_byte"]


@pytest.mark.parametrize("changes", [{"learning_rate": 0.5}, {"share": 0.1}, {"smoothing": 0.01}])
def test_every_knob_of_plain_hedge_moves_its_own_score_only(
    changes: dict[str, object], base: dict[str, float], project: Path, tmp_path: Path
) -> None:
    other = run_hedge(project, tmp_path, **changes)
    assert other["hedge_simple_bits_per_byte"] != base["hedge_simple_bits_per_byte"]
    assert other["hedge_bits_per_byte"] == base["hedge_bits_per_byte"]


def test_two_processes_of_torchrun_write_the_bytes_of_one(
    warm: Warm, root: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variables that torchrun gives each process; the slow test of two trainers runs torchrun itself."""
    monkeypatch.undo()  # the other processes do not know of fewer passages
    lonely, alone = copy_inputs(project, tmp_path / "two"), copy_inputs(project, tmp_path / "one")
    command = ["-m", "stages.evaluate", "streaming", "--params", str(lonely / "params.yaml"), "--root", str(lonely)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    place["GOLF_DEVICE"] = "cpu"
    with ThreadPoolExecutor(2) as pool:
        run = partial(warm.python, *command, cwd=root, **place)
        done = list(pool.map(lambda rank: run(RANK=rank, LOCAL_RANK=rank), "01"))
    assert [process.returncode for process in done] == [0, 0], done[0].stderr[-3000:] + done[1].stderr[-3000:]
    printed = "".join(process.stdout for process in done)
    assert printed.count("evaluate streaming:") == 1 and "2 processes" in printed
    evaluate.run("streaming", alone / "params.yaml", alone)
    for name in ("streaming", "streaming_tokens"):
        path = f"artifacts/evaluate/{name}.safetensors"
        assert (lonely / path).read_bytes() == (alone / path).read_bytes()


def test_test_time_training_is_off_or_a_score_of_its_own(project: Path, tmp_path: Path) -> None:
    lonely = copy_inputs(project, tmp_path)
    assert evaluate.run("ttt", lonely / "params.yaml", lonely) == 0
    tensors, meta = load_numpy(lonely / "artifacts/evaluate/ttt/scores.safetensors", made_by="ttt")
    metrics = json.loads((lonely / "metrics/evaluate_ttt.json").read_text())
    assert metrics["ttt_enabled"] is True and meta["mode"] == "ttt"
    assert metrics["ttt_nats_per_token"] * metrics["tokens"] == pytest.approx(float(tensors["doc_nats"].sum()))
    off = {"evaluate": {"ttt": {**PARAMS["evaluate"]["ttt"], "enabled": False}}}
    with open(lonely / "params.yaml", "w") as file:
        YAML().dump(off, file)
    assert evaluate.run("ttt", lonely / "params.yaml", lonely) == 0
    assert json.loads((lonely / "metrics/evaluate_ttt.json").read_text()) == {"ttt_enabled": False}
    assert list((lonely / "artifacts/evaluate/ttt").iterdir()) == []


def golf_score(folder: Path, capsys: pytest.CaptureFixture[str], *files: Path, modes: str) -> dict[str, Any]:
    """What `golf score` writes and prints for ``files``."""
    from golf.cli import build_parser

    artifact, figures = folder / "artifacts/compress/model.golf", folder / "score.json"
    parser, modules = build_parser(["score"])
    options = ["--modes", modes, "--params", str(folder / "params.yaml"), "--json", str(figures)]
    assert modules["score"].run(parser.parse_args(["score", str(artifact), *map(str, files), *options])) == 0
    found: dict[str, Any] = json.loads(figures.read_text())
    rows = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert rows[0].split() == ["document", "bytes", "tokens", *modes.split(",")]
    assert len(rows) == len(found["documents"]) + 2
    whole = [f"{found['scores'][mode]['bits_per_byte']:.4f}" for mode in modes.split(",")]
    counts = [str(len(found["documents"])), f"{found['bytes']:,}", f"{found['tokens']:,}"]
    assert rows[-1].split() == ["all", *counts, *whole]
    return found


def test_golf_score_of_the_validation_text_is_the_number_of_each_stage(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lonely, modes = copy_inputs(project, tmp_path), ("roundtrip", "sliding", "streaming", "hedge")
    for mode in modes:
        assert (hedge.run if mode == "hedge" else partial(evaluate.run, mode))(lonely / "params.yaml", lonely) == 0
    capsys.readouterr()
    found = golf_score(lonely, capsys, lonely / "artifacts/tokens/val", modes=",".join(modes))
    for mode in modes:
        metrics = json.loads((lonely / f"metrics/evaluate_{mode}.json").read_text())
        assert found["scores"][mode]["bits_per_byte"] == metrics[f"{mode}_bits_per_byte"]
        assert (found["bytes"], found["tokens"]) == (metrics["bytes"], metrics["tokens"])
        tensors, _ = load_numpy(lonely / f"artifacts/evaluate/{mode}.safetensors", made_by="evaluate")
        assert [row["nats"][mode] for row in found["documents"]] == tensors["doc_nats"].tolist()
    assert found["documents"][-1]["bytes"] == 0 and found["documents"][-1]["bits_per_byte"] == {}


def test_golf_score_reads_the_same_text_from_shards_lines_and_files(
    project: Path, tmp_path: Path, documents: list[str], tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    lonely, texts = copy_inputs(project, tmp_path), [text for text in documents if text]
    write_tokens(tmp_path / "shards", tokenizer, texts)
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, ""]))
    (tmp_path / "folder").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / f"folder/{number}.txt").write_bytes(text.encode())
    (tmp_path / "folder/beside.md").write_text("not read")
    ways = [
        golf_score(lonely, capsys, path, modes="streaming,hedge")
        for path in (tmp_path / "shards", tmp_path / "lines.jsonl", tmp_path / "folder")
    ]
    ways.append(golf_score(lonely, capsys, *sorted((tmp_path / "folder").glob("*.txt")), modes="streaming,hedge"))
    for found in ways[1:]:
        assert found["scores"] == ways[0]["scores"]
        assert [row["nats"] for row in found["documents"]] == [row["nats"] for row in ways[0]["documents"]]
    assert [found["left_out"] for found in ways[1:]] == [{"without text": 1}, {"files ending in .md": 1}, {}]
    names = [str(tmp_path / f"folder/{number}.txt") for number in range(len(texts))]
    assert [row["name"] for row in ways[3]["documents"]] == names


def test_golf_score_takes_a_text_shorter_than_any_window(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_text("x")
    lonely = copy_inputs(project, tmp_path)
    found = golf_score(lonely, capsys, tmp_path / "x", modes="roundtrip,sliding,streaming,hedge")
    assert (found["bytes"], found["tokens"]) == (1, 1)
    assert len({round(score["bits_per_byte"], 9) for score in found["scores"].values()}) == 1, "nothing to learn from"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"caf\xe9", "invalid UTF-8 at byte offset 3"),
        ("a.jsonl", b'{"body": "x"}\n', "set --text-key to the key of the text"),
        ("a.txt", b"", r"no text in it \(left out: 1 without text\)"),
        ("a.gz", b"no gzip", "damaged"),
        ("gone", None, "gone: not found; name a file of text"),
        ("folder/a.md", b"x", "in this folder is no .txt, .jsonl"),
    ],
)
def test_golf_score_refuses_what_it_cannot_count(
    name: str, data: bytes | None, words: str, project: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    from golf.scoring.files import read_texts

    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ScoringError, match=words):
        read_texts([path.parent if "folder" in name else path], tokenizer)


def test_golf_score_refuses_a_text_that_the_tokenizer_changes(tmp_path: Path, documents: list[str]) -> None:
    """A normalizing tokenizer's ids are of another text, whose bytes a score would be divided by."""
    import io

    import sentencepiece

    from golf.scoring.files import read_texts

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents[0].splitlines()), model_writer=model, model_type="bpe", vocab_size=350,
        byte_fallback=True, minloglevel=3, num_threads=1,
    )  # fmt: skip
    normalizing = Tokenizer(model.getvalue())
    assert not normalizing.lossless
    (tmp_path / "kept.txt").write_text("two words")
    (tmp_path / "changed.txt").write_text("two  words")
    assert read_texts([tmp_path / "kept.txt"], normalizing).text.num_bytes == 9
    with pytest.raises(ScoringError, match=r"changed\.txt.*changes this text \(it normalizes\)"):
        read_texts([tmp_path / "changed.txt"], normalizing)


def test_golf_score_without_parameters_takes_those_of_the_default_preset(root: Path) -> None:
    from golf.cli.params import render
    from golf.scoring.files import default_modes
    from golf.scoring.modes import load_modes

    modes = ("roundtrip", "sliding", "streaming", "hedge")
    assert default_modes(modes) == load_modes(root / "params.yaml", modes)
    assert (root / "params.yaml").read_text() == render(root / "conf")
    with pytest.raises(ScoringError, match="ttt: its parameters have no defaults"):
        default_modes(("ttt",))


def test_tokens_of_another_tokenizer_are_refused(project: Path, tmp_path: Path, documents: list[str]) -> None:
    lonely = copy_inputs(project, tmp_path)
    shutil.rmtree(lonely / "artifacts/tokens/val")
    write_tokens(lonely / "artifacts/tokens/val", train_tokenizer(documents, 380), documents)
    with pytest.raises(ScoringError, match=r"made with tokenizer [0-9a-f]{16}, the artifact carries tokenizer"):
        evaluate.run("roundtrip", lonely / "params.yaml", lonely)
    assert not (lonely / "artifacts/evaluate").exists()


def test_byte_counts_that_are_not_of_the_text_are_refused(
    project: Path, tmp_path: Path, documents: list[str], tokenizer: Tokenizer
) -> None:
    lonely = copy_inputs(project, tmp_path)
    shutil.rmtree(lonely / "artifacts/tokens/val")
    kept = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "tokenizer_sha256": tokenizer.sha256}
    writer = ShardWriter(lonely / "artifacts/tokens/val", **kept)
    ids, num_bytes = tokenizer.document(documents[0])
    writer.add(ids, num_bytes + 1)  # one space counted twice
    writer.close()
    with pytest.raises(ScoringError, match=rf"decodes to {num_bytes} bytes, the split says {num_bytes + 1}"):
        evaluate.run("roundtrip", lonely / "params.yaml", lonely)


def test_misspelt_parameter_is_named_before_anything_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("evaluate:\n  roundtrip: {window: 32, bacth: 8, precision: fp32}\n")
    with pytest.raises(ParamsError, match="unknown key `bacth`; did you mean `batch`"):
        evaluate.run("roundtrip", tmp_path / "params.yaml", tmp_path)


def test_command_prints_one_line_for_an_expected_error(
    warm: Warm, root: Path, project: Path, tmp_path: Path
) -> None:
    lonely = copy_inputs(project, tmp_path)
    (lonely / "params.yaml").write_text("evaluate:\n  roundtrip: {window: 9999, batch: 8, precision: fp32}\n")
    files = ["--params", str(lonely / "params.yaml"), "--root", str(lonely)]
    done = warm.python("-m", "stages.evaluate", "roundtrip", *files, cwd=root)
    assert done.returncode == 1
    assert done.stderr.startswith("evaluate: error: window is 9999 tokens, the validation stream has ")
    assert "Traceback" not in done.stderr


def test_b3_a_stage_that_sees_several_gpus_scores_on_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven of eight stood still while they were paid for."""
    import torch

    started: list[list[str]] = []
    params = tmp_path / "params.json"
    params.write_text(json.dumps(PARAMS), encoding="utf-8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(evaluate, "run", lambda mode, params, root: 7)
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments[1:]))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "streaming", "--root", "here"])
    evaluate.main("streaming", params, tmp_path)
    command = "-m torch.distributed.run --standalone --nproc-per-node=8 -m stages.evaluate streaming --root here"
    assert [" ".join(arguments) for arguments in started] == [command]
    for environment in ({"RANK": "0"}, {"GOLF_DEVICE": "cpu"}):
        monkeypatch.setattr(os, "environ", environment)
        assert evaluate.main("streaming", params, tmp_path) == 7
    assert len(started) == 1
