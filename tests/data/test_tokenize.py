"""The tokenize stage from a corpus on disk to its outputs."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corpora import tokenize_config, write_documents
from golf.base.files import read_json, save_numpy
from golf.base.params import ParamsError, from_dict, to_dict
from golf.data.documents import CorpusError
from golf.data.shards import load_split, open_split
from golf.data.tokenize import TokenizeConfig, tokenize_corpus
from golf.data.tokenizer import Tokenizer

CONFIG = tokenize_config(source="jsonl", train_bytes=30_000, val_max_bytes=3_000)


def texts(count: int = 120) -> list[str]:
    rng = random.Random(3)
    words = ["the", "cat", "sat\n", "on", "a", "mat\u2581", "and\t", "", "h\u00f6me", "\U0001f600", "<s>", "\0", "fast"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 120))) for _ in range(count)]


@pytest.fixture
def root(tmp_path) -> Path:
    write(tmp_path, texts())
    return tmp_path


def write(root: Path, documents: list[str]) -> None:
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def documents_of(root: Path, split: str) -> list[str]:
    tokenizer = Tokenizer.from_file(root / "artifacts/tokens/tokenizer.model")
    loaded = load_split(root / "artifacts/tokens" / split)
    pieces = np.split(loaded.tokens, loaded.doc_starts[1:])
    decoded = [tokenizer.decode(piece) for piece in pieces]
    assert [len(data) for data in decoded] == loaded.doc_bytes.tolist()
    return [data.decode() for data in decoded]


def test_every_document_is_in_exactly_one_split_and_comes_back(root):
    manifest = tokenize_corpus(CONFIG, root)
    found = {split: documents_of(root, split) for split in ("train", "holdout", "val")}
    assert manifest["documents"]["over_cap"] > 0 and manifest["splits"]["val"]["bytes"] <= 3_000
    assert sum(map(len, found.values())) + manifest["documents"]["over_cap"] == 120
    order = {text: i for i, text in enumerate(texts())}
    for split, documents in found.items():
        assert [order[text] for text in documents] == sorted(order[text] for text in documents)
        counts = manifest["splits"][split]
        assert counts["documents"] == len(documents)
        assert counts["bytes"] == counts["raw_bytes"] == sum(len(text.encode()) for text in documents)
        data = b"".join(len(text.encode()).to_bytes(8, "little") + text.encode() for text in documents)
        assert counts["text_sha256"] == hashlib.sha256(data).hexdigest()
        assert counts["tokens"] == open_split(root / "artifacts/tokens" / split).num_tokens
    assert manifest["divisor"] == "raw" and manifest == read_json(root / "artifacts/tokens/manifest.json", made_by="")
    metrics = read_json(root / "metrics/tokenize.json", made_by="")
    assert metrics["train_tokens"] == manifest["splits"]["train"]["tokens"]
    assert all(isinstance(value, int | float) for value in metrics.values())


def test_outputs_do_not_depend_on_the_run_or_the_number_of_processes(root):
    tokenize_corpus(CONFIG, root)
    first = tree(root / "artifacts")
    tokenize_corpus(CONFIG, root, processes=2)
    assert tree(root / "artifacts") == first


def test_copies_of_a_document_stay_on_one_side(root):
    write(root, texts() * 2)
    tokenize_corpus(replace(CONFIG, val_max_bytes=0), root)
    found = {split: set(documents_of(root, split)) for split in ("train", "holdout", "val")}
    assert not found["train"] & found["val"] and not found["train"] & found["holdout"]


def test_max_bytes_ends_the_corpus(root):
    everything = sum(len(text.encode()) for text in texts())
    manifest = tokenize_corpus(replace(CONFIG, max_bytes=everything // 2, val_max_bytes=0), root)
    used = sum(counts["bytes"] for counts in manifest["splits"].values())
    assert everything // 2 - 2_000 < used <= everything // 2


def test_a_failed_run_leaves_the_earlier_outputs(root):
    tokenize_corpus(CONFIG, root)
    before = tree(root / "artifacts") | tree(root / "metrics")
    with open(root / "data/d.jsonl", "a") as file:
        file.write("{broken\n")
    with pytest.raises(CorpusError, match=r"d\.jsonl:121: not a JSON line"):
        tokenize_corpus(CONFIG, root)
    assert tree(root / "artifacts") | tree(root / "metrics") == before


def test_empty_corpus_is_named(root):
    write(root, [])
    with pytest.raises(ValueError, match="corpus is empty"):
        tokenize_corpus(CONFIG, root)


def test_corpus_too_small_for_the_vocabulary_is_named(root):
    with pytest.raises(ValueError, match=r"corpus too small for the vocabulary: .* pieces, expected 9000"):
        tokenize_corpus(replace(CONFIG, vocab_size=9000), root)


def test_empty_split_names_its_key(root):
    with pytest.raises(CorpusError, match=r"the val split is empty.*raise tokenize\.val_fraction"):
        tokenize_corpus(replace(CONFIG, val_fraction=1e-9), root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "csv"}, "source: found 'csv', expected one of enwik8, jsonl, text, table, parquet, shards"),
        ({"vocab_size": 200}, "vocab_size: found 200 .*, 261 or more and at most 65,536"),
        ({"vocab_size": 70_000}, "vocab_size: found 70000"),
        ({"val_fraction": 0.9, "holdout_fraction": 0.2}, "val_fraction, holdout_fraction: found .*sum below 1"),
        ({"train_bytes": 0}, "train_bytes: found 0 .*, expected int, 1 or more"),
        ({"max_bytes": -1}, "max_bytes: found -1"),
        ({"source": "shards"}, "tokenizer: found `train`, expected the path of the .model"),
        ({"source": "shards", "tokenizer": "t", "val_path": "v"}, "val_path: found v, expected none: shards bring"),
    ],
)
def test_impossible_parameters_are_named(change, message):
    with pytest.raises(ParamsError, match=message):
        from_dict(TokenizeConfig, to_dict(CONFIG) | change)


@pytest.fixture
def shards(root) -> tuple[Path, TokenizeConfig, list[list[int]]]:
    """Competition shards made from the same documents, with the tokenizer trained on them."""
    tokenize_corpus(CONFIG, root)
    (root / "given.model").write_bytes((root / "artifacts/tokens/tokenizer.model").read_bytes())
    tokenizer = Tokenizer.from_file(root / "given.model")
    ids = [tokenizer.encode(text) for text in texts()]
    write_documents(root / "data/fineweb_val_000000.bin", ids[:20])
    write_documents(root / "data/fineweb_train_000000.bin", ids[20:])
    config = replace(CONFIG, source="shards", tokenizer="given.model", val_max_bytes=0)
    return root, config, ids


def test_competition_shards_keep_their_sides_ids_and_bytes(shards):
    root, config, _ = shards
    tokenize_corpus(config, root)
    assert documents_of(root, "val") == texts()[:20]
    assert sorted(documents_of(root, "train") + documents_of(root, "holdout")) == sorted(texts()[20:])


def test_a_training_copy_of_a_scored_document_in_shards_is_dropped_and_counted(shards):
    root, config, ids = shards
    before = tokenize_corpus(config, root)
    write_documents(root / "data/fineweb_train_000000.bin", [*ids[20:], ids[7]])
    manifest = tokenize_corpus(config, root)
    assert manifest["documents"]["copies"] == 1
    assert manifest["splits"] == before["splits"]


def test_stage_runs_from_the_command_line_without_torch(root):
    (root / "params.json").write_text(json.dumps({"tokenize": CONFIG.__dict__}))
    code = (
        "import sys, pathlib, stages.tokenize as s\n"
        "s.run(*map(pathlib.Path, sys.argv[1:])); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(root / "params.json"), str(root)]
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=repository, env={"GOLF_PROCESSES": "1", "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("read 1 files of data\n") and "\ntrain: " in done.stdout
    assert (root / "artifacts/tokens/val").is_dir()


def test_stage_error_is_one_line(root):
    (root / "params.json").write_text(json.dumps({"tokenize": CONFIG.__dict__ | {"path": "gone"}}))
    command = [sys.executable, "-m", "stages.tokenize", "--params", str(root / "params.json"), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 1
    assert done.stderr.startswith("tokenize: error: ") and "gone: not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_shard_is_not_read_as_tokens(root):
    tokenize_corpus(CONFIG, root)
    path = root / "artifacts/tokens/val/shard_000000.safetensors"
    tensors = {"tokens": np.array([1], np.int32)}
    save_numpy(path, tensors, {"vocab_size": 300, "bos_id": 1, "tokenizer_sha256": ""})
    with pytest.raises(ValueError, match="tensor `tokens` is not uint16"):
        open_split(root / "artifacts/tokens/val")
