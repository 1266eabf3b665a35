"""What belongs to a corpus, what is skipped and said, and that every fault of a reader has its place."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from golf.data import documents
from golf.data.documents import CorpusError, Position, find_files
from golf.data.readers import Options, open_corpus

ZSTD = zstandard.ZstdCompressor(write_checksum=True)  # as the command zstd does
PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": ZSTD.compress}
PROSE = "A cat is a small animal that lives with people and hunts mice. " * 30


def texts(kind: str, path: Path, **options: str) -> list[str | None]:
    return [document.text for document in open_corpus(kind, path, Options(**options)).documents(Position())]


def lines(*values: object) -> bytes:
    return "".join(json.dumps({"text": value}) + "\n" for value in values).encode()


def test_one_rule_for_what_belongs_to_a_corpus(tmp_path):
    for name in (
        "b.txt",
        "A.TXT",
        "sub/c.txt",
        "._d.txt",
        ".git/e.txt",
        ".ipynb_checkpoints/b.txt",
        "f.md",
        "g",
        "h.txt.zip",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "i.txt.gz").write_bytes(gzip.compress(b"i"))
    (tmp_path / "j.txt").symlink_to(tmp_path / "f.md")
    (tmp_path / "k.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "l.txt").symlink_to(tmp_path / "sub")
    os.mkfifo(tmp_path / "m.txt")
    files = find_files(tmp_path, (".txt", ".txt.gz"))
    assert [str(path.relative_to(tmp_path)) for path in files.paths] == [
        "A.TXT",
        "b.txt",
        "i.txt.gz",
        "j.txt",
        "sub/c.txt",
    ]
    assert files.skipped == {
        "hidden": ["._d.txt", ".git", ".ipynb_checkpoints"],
        "ending in .md": ["f.md"],
        "without ending": ["g"],
        "ending in .zip": ["h.txt.zip"],
        "dangling link": ["k.txt"],
        "link to a folder": ["l.txt"],
        "no regular file": ["m.txt"],
    }


def test_a_file_named_as_the_corpus_is_taken_whatever_its_name(tmp_path):
    (tmp_path / ".notes").write_text("hidden, but asked for")
    assert texts("text", tmp_path / ".notes") == ["hidden, but asked for"]


def test_a_folder_with_other_files_only_says_what_they_are(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(b"")
    (tmp_path / "b.json.gz").write_bytes(b"")
    with pytest.raises(
        CorpusError, match=r"found no file that ends in \.jsonl, .*skipped: 2 ending in \.json\.gz, as 'a"
    ):
        open_corpus("jsonl", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="pipe: neither a file nor a folder"):
        open_corpus("jsonl", tmp_path / "pipe")


@pytest.mark.parametrize("suffix", PACK)
def test_every_reader_takes_every_compression(tmp_path, suffix):
    pack = PACK[suffix]
    (tmp_path / f"a.txt{suffix}").write_bytes(pack(b"one text"))
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(lines("a", "b")))
    (tmp_path / f"a.csv{suffix}").write_bytes(pack(b'n,text\n1,"a, ""b""\nc"\n2,d\n'))
    (tmp_path / f"a.tsv{suffix}").write_bytes(pack(b"text\tn\na, b\t1\n"))
    page = f"<title>Cat</title>\n<text>{PROSE}</text>\n"
    (tmp_path / f"a.xml{suffix}").write_bytes(pack(page.encode()))
    assert texts("text", tmp_path) == ["one text"]
    assert texts("jsonl", tmp_path) == ["a", "b"]
    assert texts("table", tmp_path) == ['a, "b"\nc', "d", "a, b"]
    assert len(texts("enwik8", tmp_path / f"a.xml{suffix}")) == 1


def wiki(count: int = 40) -> bytes:
    rng = random.Random(1)
    words = ("".join(rng.choices("abcdefgh", k=6)) for _ in range(300 * count))
    return "".join(
        f"<title>A {i}</title>\n<text>{' '.join(next(words) for _ in range(300))}</text>\n" for i in range(count)
    ).encode()


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("damage", ["a flipped byte", "the end cut off", "garbage behind"])
def test_damaged_files_are_named_by_every_reader(tmp_path, suffix, damage):
    for kind, name, data in (
        ("jsonl", "a.jsonl", lines(*(str(random.Random(i).random()) for i in range(3000)))),
        ("text", "a.txt", random.Random(2).randbytes(20_000).hex().encode()),
        ("table", "a.csv", b"text\n" + "\n".join(str(random.Random(i).random()) for i in range(3000)).encode()),
        ("enwik8", "a.xml", wiki()),
    ):
        packed = bytearray(PACK[suffix](data))
        if damage == "a flipped byte":
            packed[len(packed) // 2] ^= 255
        packed = packed[:-9] if damage == "the end cut off" else packed
        packed += b"garbage!" if damage == "garbage behind" else b""
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(bytes(packed))
        try:
            found = texts(kind, path)
        except CorpusError as error:
            assert str(error).startswith(str(path)) and (
                "damaged" in str(error) or "not " in str(error) or "invalid" in str(error)
            )
        else:  # bzip2 and xz end at garbage as their own tools do, with a warning
            assert damage == "garbage behind" and suffix in (".bz2", ".xz", ".gz") and found


def test_members_one_after_another_are_one_file(tmp_path):
    for suffix, pack in PACK.items():
        (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(lines("a")) + pack(lines("b")))
        assert texts("jsonl", tmp_path / f"a.jsonl{suffix}") == ["a", "b"]


def test_a_byte_order_mark_in_front_of_lines_is_dropped(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.jsonl").write_bytes(mark + lines("a", "\ufeffb"))
    (tmp_path / "a.csv").write_bytes(mark + b"text\r\na\r\n")
    assert texts("jsonl", tmp_path) == ["a", "\ufeffb"]
    assert texts("table", tmp_path) == ["a"]
    (tmp_path / "b.jsonl").write_bytes(mark + lines("a") + b'{"text": "\xff"}')
    with pytest.raises(CorpusError, match=r"b\.jsonl:2 \(document 2\): invalid UTF-8 at byte offset 27 \(0xff\)"):
        texts("jsonl", tmp_path)


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        ("text".encode("utf-16"), "UTF-16 text; convert it: iconv"),
        (gzip.compress(b"text", mtime=0), r"a gzip file; its name must end in \.gz"),
        (zstandard.compress(b"text"), r"a zstd file; its name must end in \.zst"),
        (b"PK\x03\x04\xff", "a zip archive; unpack it"),
    ],
)
def test_what_is_no_utf8_is_named_where_it_is_known(tmp_path, data, looks):
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.jsonl").write_bytes(data)
    for kind in ("text", "jsonl"):
        with pytest.raises(CorpusError, match=rf"invalid UTF-8 at byte offset \d+ .*this looks like {looks}"):
            texts(kind, tmp_path)


def test_null_and_empty_texts_are_counted_and_other_types_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines("a", None, "", "b") + b"\n \n")
    position = Position()
    found = list(open_corpus("jsonl", tmp_path).documents(position))
    assert [document.text for document in found] == ["a", "b"] and position.skipped == {"without text": 2}
    (tmp_path / "a.jsonl").write_bytes(lines("a", 7))
    with pytest.raises(CorpusError, match=r"a\.jsonl:2: found 7 under `text`, expected a string"):
        texts("jsonl", tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"[" * 200_000)
    with pytest.raises(CorpusError, match=r"a\.jsonl:1: not a JSON line"):
        texts("jsonl", tmp_path)


def test_the_key_of_the_text_can_be_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "no", "content": "yes"}\n')
    (tmp_path / "a.csv").write_bytes(b"content,text\nyes,no\n")
    assert texts("jsonl", tmp_path, text_key="content") == texts("table", tmp_path, text_key="content") == ["yes"]
    for kind, what in (
        ("jsonl", "an object with a string under"),
        ("table", r"columns \['content', 'text'\], expected one named"),
    ):
        with pytest.raises(CorpusError, match=rf"{what} `story`; set tokenize\.text_key"):
            texts(kind, tmp_path, text_key="story")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"text,n\na,1\nb\n", r"a\.csv:3: a row of 1 fields, the first row has 2"),
        (b'text\n"a"b\n', r"a\.csv:2: not a row of a table"),
        (b'text\n"open\n' + b"x\n" * 3000, r"a\.csv:\d+: not a row of a table"),
        (b"text\na\xff\n", r"a\.csv:2: invalid UTF-8 at byte offset 6 \(0xff\)"),
        (b"text,text\na,b\n", r"a\.csv:1: found the columns \['text', 'text'\], expected one named `text`"),
    ],
)
def test_bad_rows_of_a_table_are_named(tmp_path, data, message):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        texts("table", tmp_path)


def test_parquet_columns_of_strings_are_read_and_others_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(name: str, **columns: list) -> None:
        parquet.write_table(pyarrow.table(columns), tmp_path / name)

    write("a.parquet", text=["a", None, "", "b\r\n"], n=[1, 2, 3, 4])
    (tmp_path / "README.md").write_text("a dataset's card")
    position = Position()
    corpus = open_corpus("parquet", tmp_path)
    assert [document.text for document in corpus.documents(position)] == ["a", "b\r\n"]
    assert position.skipped == {"without text": 2} and corpus.files().skipped == {"ending in .md": ["README.md"]}
    with pytest.raises(CorpusError, match=r"a.parquet: found the columns \['text', 'n'\], expected one named `story`"):
        texts("parquet", tmp_path, text_key="story")
    with pytest.raises(CorpusError, match="a.parquet, row 1: found 1 under `n`, expected a string"):
        texts("parquet", tmp_path, text_key="n")
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "a.parquet").write_bytes(bytes(damaged[: len(damaged) // 2]))
    with pytest.raises(CorpusError, match="a.parquet: damaged after row 0"):
        texts("parquet", tmp_path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CorpusError, match=r"parquet files need pyarrow: pip install 'golf\[parquet\]'"):
        texts("parquet", tmp_path)


@pytest.fixture
def limit(monkeypatch) -> int:
    """A document of at most 5,000 bytes."""
    for module in ("documents", "readers", "enwik8", "competition"):
        monkeypatch.setattr(f"golf.data.{module}.MAX_DOCUMENT_BYTES", 5000, raising=False)
    return 5000


@pytest.mark.parametrize("suffix", PACK)
def test_a_document_beyond_the_limit_is_refused_before_it_is_held(tmp_path, limit, suffix):
    """What looks small may unpack to gigabytes; no reader holds more of it than the limit and a block."""
    bomb = "x" * 5_000_000
    pack = PACK[suffix]
    page = f"<title>A</title>\n<text>{bomb}</text>"
    for kind, name, data in (
        ("text", "a.txt", bomb.encode()),
        ("jsonl", "a.jsonl", lines("a", bomb)),
        ("table", "a.csv", f"text\na\n{bomb}".encode()),
        ("enwik8", "a.xml", page.encode()),
    ):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(pack(data))
        with pytest.raises(CorpusError, match=rf"{name}{suffix}.*longer than 5,000 bytes, the limit of one document"):
            texts(kind, path)


def test_the_limit_counts_bytes_and_not_characters(tmp_path, limit):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"\\u8a9e" * 700 + b'"}\n')
    assert texts("jsonl", tmp_path) == ["\u8a9e" * 700]
    (tmp_path / "a.csv").write_text(
        'text\n"' + "\u8a9e\n" * 1300 + '"\n', encoding="utf-8"
    )  # 5,200 bytes of short lines
    with pytest.raises(CorpusError, match=r"a\.csv:1302: longer than 5,000 bytes"):
        texts("table", tmp_path)
    assert documents.MAX_DOCUMENT_BYTES == 5000


def test_memory_of_a_bomb_is_bounded_by_the_limit(tmp_path, monkeypatch):
    """10 kB of zstd hold a line of 300 MB."""
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 1 << 22)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "' + b"x" * 300_000_000))
    assert path.stat().st_size < 50_000
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=r"a\.jsonl\.zst:1: longer than 4,194,304 bytes"):
            texts("jsonl", path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80_000_000  # a block of 1 kB of zstd unpacks to at most 32 MiB


def test_pages_on_one_line_are_found_at_their_tags(tmp_path):
    (tmp_path / "a.xml").write_bytes(wiki().replace(b"\n", b" "))
    (tmp_path / "b.xml").write_bytes(wiki())
    assert len(texts("enwik8", tmp_path / "a.xml")) == 40
    assert texts("enwik8", tmp_path / "a.xml") == texts("enwik8", tmp_path / "b.xml")


@pytest.mark.parametrize("block", [1, 7, 8, 9, 64, 1000])
def test_pages_do_not_depend_on_where_the_reader_stops(tmp_path, monkeypatch, block):
    data = b"<mediawiki>" + wiki(4) + b'<title>Empty</title><text xml:space="preserve" /><title>Cut</title><text>abc'
    (tmp_path / "a.xml").write_bytes(data)
    expected = texts("enwik8", tmp_path / "a.xml")
    monkeypatch.setattr("golf.data.enwik8._READ_BYTES", block)
    position = Position()
    found = list(open_corpus("enwik8", tmp_path / "a.xml").documents(position))
    assert [document.text for document in found] == expected and len(found) == 4
    assert position.skipped == {"cut off by the end of the file": 1}
    assert [document.where.rpartition(" ")[2] for document in found] == ["1", "2", "3", "4"]
