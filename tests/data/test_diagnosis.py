"""`tokenize` says what it read and left out, and the one thing that helps where a split or the text is missing."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from corpora import other_model, tokenize_config
from golf.base.files import read_json
from golf.data.documents import CorpusError
from golf.data.tokenize import summary, tokenize_corpus
from golf.data.tokenizer import TokenizerError

CONFIG = tokenize_config()


def words(seed: int, count: int = 200) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choice("abcdefghij") for _ in range(rng.randint(2, 7))) for _ in range(count))


def write(root: Path, count: int = 40, folder: str = "data", first: int = 0) -> None:
    (root / folder).mkdir(exist_ok=True)
    for number in range(first, first + count):
        (root / folder / f"d{number:02}.txt").write_text(words(number))


def test_what_was_read_and_skipped_is_said_and_in_the_manifest(tmp_path):
    write(tmp_path)
    (tmp_path / "data/empty.txt").write_bytes(b"")
    (tmp_path / "data/._d00.txt").write_bytes(b"\0\5\x16\7Mac OS X\xb0")
    (tmp_path / "data/notes.md").write_text("no text of the corpus")
    (tmp_path / "data/old.txt.7z").write_bytes(b"7z\xbc\xaf")
    manifest = tokenize_corpus(replace(CONFIG, holdout_max_bytes=1500), tmp_path)
    source, left_out = manifest["source"], manifest["documents"]
    assert source["files"] == 41
    assert source["skipped_files"] == {
        "hidden": {"count": 1, "first": "._d00.txt"},
        "ending in .md": {"count": 1, "first": "notes.md"},
        "ending in .7z": {"count": 1, "first": "old.txt.7z"},
    }
    assert left_out["skipped"] == {"without text": 1} and left_out["over_cap"] > 0 and left_out["copies"] == 0
    assert sum(split["documents"] for split in manifest["splits"].values()) + left_out["over_cap"] == 40
    lines = summary(manifest)
    assert lines[0] == "read 41 files of data"
    assert (
        lines[1]
        == "skipped files: 1 ending in .7z, as 'old.txt.7z'; 1 ending in .md, as 'notes.md'; 1 hidden, as '._d00.txt'"
    )
    assert lines[2] == f"documents left out: 1 without text, {left_out['over_cap']} over a cap"
    metrics = read_json(tmp_path / "metrics/tokenize.json", made_by="")
    assert (metrics["files_skipped"], metrics["documents_skipped"]) == (3, 1)


def test_lines_in_other_compressions_are_read_and_other_files_counted(tmp_path):
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"text": words(number)}) + "\n" for number in range(40)]
    (tmp_path / "data/a.jsonl").write_text("".join(lines[:20]))
    (tmp_path / "data/b.jsonl.gz").write_bytes(gzip.compress("".join(lines[20:]).encode()))
    (tmp_path / "data/c.json.gz").write_bytes(gzip.compress(b"[]"))
    manifest = tokenize_corpus(replace(CONFIG, source="jsonl"), tmp_path)
    assert sum(split["documents"] for split in manifest["splits"].values()) == 40
    assert manifest["source"]["skipped_files"] == {"ending in .json.gz": {"count": 1, "first": "c.json.gz"}}


@pytest.mark.parametrize("fraction", [0.2, 0.01])
def test_one_big_file_is_said_to_be_one_document(tmp_path, fraction):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/input.txt").write_text("\n\n".join(map(words, range(50))))
    config = replace(CONFIG, val_fraction=fraction, holdout_fraction=fraction)
    with pytest.raises(
        CorpusError,
        match=r"split is empty: 1 documents for three splits, and a document is never divided; read 1 files with 1 "
        r"documents .*cut it into several files \(text\) or lines \(jsonl\)",
    ):
        tokenize_corpus(config, tmp_path)


def test_a_cap_below_the_shortest_document_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(
        CorpusError,
        match=r"val split is empty: its shortest document has [\d,]+ bytes; .*raise tokenize\.val_max_bytes \(9 now\)",
    ):
        tokenize_corpus(replace(CONFIG, val_max_bytes=9), tmp_path)


def test_a_fraction_too_small_for_the_corpus_is_named(tmp_path):
    write(tmp_path, 20)
    with pytest.raises(
        CorpusError, match=r"holdout split is empty: 0\.001 of 20 documents is 0\.0; .*raise tokenize\.holdout_fraction"
    ):
        tokenize_corpus(replace(CONFIG, holdout_fraction=0.001), tmp_path)


def test_no_training_text_names_where_the_documents_went(tmp_path):
    write(tmp_path, 5)
    with pytest.raises(
        CorpusError,
        match=r"train split is empty; read 5 files with 5 documents \(0 train, \d holdout, \d val\); lower tokenize",
    ):
        tokenize_corpus(replace(CONFIG, val_fraction=0.5, holdout_fraction=0.4999), tmp_path)


def test_documents_without_text_are_counted_where_nothing_else_is_there(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_text('{"text": null}\n{"text": ""}\n')
    with pytest.raises(
        CorpusError, match=r"corpus is empty: found no document with text; .*2 without text\); set tokenize\.path"
    ):
        tokenize_corpus(replace(CONFIG, source="jsonl"), tmp_path)
    (tmp_path / "data/a.jsonl").write_text('{"text": "a text"}\n')
    with pytest.raises(CorpusError, match=r"corpus is empty: .*raise tokenize\.max_bytes"):
        tokenize_corpus(replace(CONFIG, source="jsonl", max_bytes=2), tmp_path)


def test_validation_documents_of_their_own(tmp_path):
    write(tmp_path, 30)
    write(tmp_path, 6, folder="scored", first=50)
    (tmp_path / "scored/copy.txt").write_text(words(7))  # stands in the training folder too
    manifest = tokenize_corpus(replace(CONFIG, val_path="scored"), tmp_path)
    assert manifest["splits"]["val"]["documents"] == 7 and manifest["documents"]["copies"] == 1
    assert manifest["splits"]["train"]["documents"] + manifest["splits"]["holdout"]["documents"] == 29
    assert manifest["source"]["files"] == 37
    raw = sum(path.stat().st_size for path in (tmp_path / "scored").iterdir())
    assert manifest["splits"]["val"]["bytes"] == raw
    with pytest.raises(CorpusError, match="elsewhere: not found"):
        tokenize_corpus(replace(CONFIG, val_path="elsewhere"), tmp_path)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path)
    assert tokenize_corpus(replace(CONFIG, path="~/data"), tmp_path / "elsewhere")["source"]["files"] == 40


def test_an_imported_model_without_a_space_piece_stops_the_stage(tmp_path):
    write(tmp_path)
    lossless = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
    unspaced = [words(number).replace(" ", "") for number in range(40)]
    (tmp_path / "t.model").write_bytes(other_model(unspaced, 350, **lossless))
    with pytest.raises(CorpusError, match=r"d\d\d\.txt \(document \d+\): .*t\.model: has no piece for a space"):
        tokenize_corpus(replace(CONFIG, tokenizer="t.model"), tmp_path)
    assert not (tmp_path / "artifacts/tokens").exists()


def test_a_normalizer_that_makes_the_text_longer_is_refused(tmp_path):
    """U+FDFA is one character of 3 bytes, and 18 of 33 in NFKC: bits per byte of it would be too few by a factor."""
    (tmp_path / "data").mkdir()
    for number in range(40):
        (tmp_path / "data" / f"d{number}.txt").write_text(f"{words(number)} {chr(0xFDFA) * 90}", encoding="utf-8")
    (tmp_path / "t.model").write_bytes(other_model([words(number) for number in range(40)], 350))
    with pytest.raises(CorpusError, match=r"tokens of \w+ decode to [\d,]+ bytes, the text has [\d,]+; bits per byte"):
        tokenize_corpus(replace(CONFIG, tokenizer="t.model"), tmp_path)


def test_a_chinese_corpus_is_tokenized_to_its_own_bytes(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(40):
        rng = random.Random(number)
        text = "".join(chr(0x4E00 + rng.randrange(150)) + ("\u3002\n" if k % 40 == 39 else "") for k in range(600))
        (tmp_path / "data" / f"d{number}.txt").write_text(text, encoding="utf-8")
    manifest = tokenize_corpus(replace(CONFIG, vocab_size=600), tmp_path)
    assert manifest["divisor"] == "raw"
    assert all(split["bytes"] == split["raw_bytes"] for split in manifest["splits"].values())


def test_a_reserved_character_in_every_document_does_not_empty_the_corpus(tmp_path):
    write(tmp_path)
    for path in (tmp_path / "data").iterdir():
        path.write_text(path.read_text() + " \u2585\u2585 50 %", encoding="utf-8")
    assert tokenize_corpus(CONFIG, tmp_path)["splits"]["train"]["documents"] > 10


def test_a_worker_that_dies_is_one_line(tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool

    from golf.data.documents import ordered_map

    class Dead:
        def submit(self, function, item):
            raise BrokenProcessPool("terminated abruptly")

    with pytest.raises(CorpusError, match="a worker process died, perhaps for want of memory; lower GOLF_PROCESSES"):
        list(ordered_map(str, [1, 2], Dead()))  # type: ignore[arg-type]


def test_checks_do_not_depend_on_assertions(tmp_path):
    """python -O changes nothing: the module is free of assert statements."""
    import ast

    import golf.data

    for path in Path(golf.data.__file__).parent.glob("*.py"):
        asserts = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Assert)
        ]
        assert not asserts, f"{path}: {asserts}"


def test_an_imported_model_that_is_damaged_is_one_error(tmp_path):
    write(tmp_path)
    (tmp_path / "t.model").write_bytes(b"{}")
    with pytest.raises(TokenizerError, match=r"t\.model: found JSON"):
        tokenize_corpus(replace(CONFIG, tokenizer="t.model"), tmp_path)
