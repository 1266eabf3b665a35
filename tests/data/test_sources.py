"""Corpus sources: what they yield, and that each fault names itself and the way out."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest

from corpora import write_bin
from golf.data.competition import CompetitionShards, map_shard
from golf.data.documents import CorpusError, Position
from golf.data.readers import open_corpus, source_sha256

PROSE = "A cat is a small animal that lives with people and hunts mice. " * 30


def texts(corpus) -> list[str | None]:
    return [document.text for document in corpus.documents(Position())]


def page(title: str, text: str) -> str:
    return f'  <page>\n    <title>{title}</title>\n      <text xml:space="preserve">{text}</text>\n  </page>\n'


def write_dump(path: Path, *pages: str, tail: str = "</mediawiki>\n") -> Path:
    path.write_bytes(gzip.compress(("<mediawiki>\n" + "".join(pages) + tail).encode(), mtime=0))
    return path


def test_enwik8_keeps_articles_only_and_drops_the_cut_off_page(tmp_path):
    dump = write_dump(
        tmp_path / "e.gz",
        page("Cat", f"'''{PROSE}'''\n\nsecond &amp;amp; line &lt;!-- no --&gt;"),
        page("Pussy", "#REDIRECT [[Cat]]"),
        page("Talk:Cat", PROSE),
        page("Stub", "Short."),
        page("Dog", PROSE.replace("cat", "dog")),
        tail='<page><title>Cut</title>\n<text xml:space="preserve">' + PROSE,
    )
    corpus = open_corpus("enwik8", dump)
    found = texts(corpus)
    assert [text.split()[1] for text in found] == ["cat", "dog"]
    assert found[0].endswith("second & line")
    assert texts(corpus) == found  # can be read again
    position = Position()
    list(corpus.documents(position))
    assert 0 < position.num_bytes <= dump.stat().st_size


def test_enwik8_missing_names_the_command_that_gets_it(tmp_path):
    with pytest.raises(CorpusError, match=r"enwik8\.gz: not found; `golf fetch enwik8` gets it"):
        open_corpus("enwik8", tmp_path / "enwik8.gz")


def test_enwik8_damaged_names_the_command_that_gets_it(tmp_path):
    dump = write_dump(tmp_path / "e.gz", *[page(f"Cat {i}", PROSE + str(hash(i) ** 3)) for i in range(40)])
    dump.write_bytes(dump.read_bytes()[:-300])
    with pytest.raises(CorpusError, match=r"e\.gz: damaged after page \d+, unpacked byte \d+ .*`golf fetch enwik8`"):
        texts(open_corpus("enwik8", dump))
    dump.write_bytes(b"not gzip")
    with pytest.raises(CorpusError, match="e.gz: damaged after page 0, unpacked byte 0"):
        texts(open_corpus("enwik8", dump))
    dump.write_bytes(gzip.compress(b"no markup here\n"))
    with pytest.raises(CorpusError, match="expected a MediaWiki XML dump"):
        texts(open_corpus("enwik8", dump))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz"])
def test_jsonl_keeps_every_character(tmp_path, suffix):
    expected = [" a\u2028b\r\n\t", "\0\u2581\ufeff", "x"]
    lines = "".join(json.dumps({"text": text, "id": 3}) + "\n" for text in [*expected, ""]) + "\n"
    pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.xz": lzma.compress}[suffix]
    (tmp_path / f"b{suffix}").write_bytes(pack(lines.encode()))
    (tmp_path / "a.jsonl").write_text('{"text": "first"}')
    assert texts(open_corpus("jsonl", tmp_path)) == ["first", *expected]
    assert texts(open_corpus("jsonl", tmp_path / f"b{suffix}")) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{nope", r"c\.jsonl:2: not a JSON line"),
        (b'{"txt": "a"}', r"c\.jsonl:2: found .* expected an object with a string under `text`"),
        (b"[1]", r"c\.jsonl:2: found '\[1\]'"),
        (b'{"text": "\\ud800"}', r"c\.jsonl:2: `text` holds a lone surrogate at character 0"),
        (b'{"text": "\xff"}', r"c\.jsonl:2 \(document 2\): invalid UTF-8 at byte offset 25 \(0xff\)"),
    ],
)
def test_bad_json_line_is_named(tmp_path, line, message):
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "ok"}\n' + line + b"\n")
    with pytest.raises(CorpusError, match=message):
        texts(open_corpus("jsonl", tmp_path))


def test_truncated_xz_is_named(tmp_path):
    path = tmp_path / "c.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"text": "ok"}\n' * 99)[:-20])
    with pytest.raises(CorpusError, match=r"c\.jsonl\.xz: damaged after line"):
        texts(open_corpus("jsonl", path))


def test_text_folder_is_taken_byte_for_byte(tmp_path):
    expected = {"a.txt": b"\xef\xbb\xbfBOM\r\nand\rCR\n", "sub/b.txt": b"b", "c.txt": b""}
    for name, data in expected.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert [text.encode() for text in texts(open_corpus("text", tmp_path))] == [
        expected["a.txt"],
        expected["sub/b.txt"],
    ]


def test_invalid_utf8_names_file_document_and_offset(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine")
    (tmp_path / "b.txt").write_bytes(b"ab\xc3\xa9\xc3(")
    with pytest.raises(CorpusError, match=r"b\.txt \(document 2\): invalid UTF-8 at byte offset 4 \(0xc3\)"):
        texts(open_corpus("text", tmp_path))


@pytest.mark.parametrize("kind", ["jsonl", "text", "shards"])
def test_missing_and_empty_folders_are_named(tmp_path, kind):
    with pytest.raises(CorpusError, match="none: not found"):
        open_corpus(kind, tmp_path / "none")
    with pytest.raises(CorpusError, match=r"found no .*set tokenize\.path"):
        open_corpus(kind, tmp_path)


def test_competition_documents_straddle_shards(tmp_path):
    write_bin(tmp_path / "fineweb_train_000000.bin", [1, 5, 6, 1, 7])
    write_bin(tmp_path / "fineweb_train_000001.bin", [8, 9, 1, 1, 10])
    write_bin(tmp_path / "fineweb_val_000000.bin", [1, 11])
    documents = list(CompetitionShards(tmp_path, vocab_size=12, bos_id=1).documents(Position()))
    assert [(d.side, d.ids.tolist()) for d in documents] == [
        ("val", [11]),  # validation first, so that training documents can be checked against it
        ("train", [5, 6]),
        ("train", [7, 8, 9]),
        ("train", [10]),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": 20240521}, "magic number is 20240521, expected 20240520"),
        ({"version": 2}, "version is 2, expected 1"),
        ({"count": 3}, "found 1028 bytes, its header of 3 tokens wants 1030"),
        ({"count": 1}, "found 1028 bytes, its header of 1 tokens wants 1026"),
    ],
)
def test_wrong_shard_header_is_named(tmp_path, change, message):
    path = write_bin(tmp_path / "fineweb_val_000000.bin", [1, 5], **change)
    with pytest.raises(CorpusError, match=rf"fineweb_val_000000\.bin: {message}"):
        map_shard(path)


def test_short_shard_missing_bos_and_id_out_of_range_are_named(tmp_path):
    path = tmp_path / "fineweb_train_000000.bin"
    corpus = CompetitionShards(tmp_path, vocab_size=12, bos_id=1)
    write_bin(tmp_path / "fineweb_val_000000.bin", [1, 7])
    path.write_bytes(b"abc")
    with pytest.raises(CorpusError, match="found 3 bytes, expected at least the header of 1024"):
        list(corpus.documents(Position()))
    write_bin(path, [5, 1, 6])
    with pytest.raises(CorpusError, match=r"token 0 is 5, expected BOS \(1\)"):
        list(corpus.documents(Position()))
    write_bin(path, [1, 5, 12])
    with pytest.raises(CorpusError, match="token 2 has id 12, outside the vocabulary of 12"):
        list(corpus.documents(Position()))


def test_source_hash_sees_content_and_names(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("y")
    corpus = open_corpus("text", tmp_path)
    first = source_sha256(corpus)
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert source_sha256(corpus) != first
