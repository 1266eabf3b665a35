"""Damaged corpora and shards of every kind end as documents or as one named error, never as another exception."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from corpora import write_documents
from golf.base.errors import GolfError
from golf.data.documents import Position
from golf.data.readers import Options, open_corpus
from golf.data.shards import ShardWriter, documents_of, load_split, open_split

MUTATIONS = 60  # of each file
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
}
INSERTS = [b"\n", b'"', b"\xef\xbb\xbf", b"\0", b"</text>", b"<text", b"<title>", b"[" * 3000, b"\\ud800"]
INSERTS += [b'{"text": null}\n']
FILES = {
    "jsonl": ("a.jsonl", "".join(json.dumps({"text": f"text {i} \u8a9e"}) + "\n" for i in range(50)).encode()),
    "table": ("a.csv", b"n,text\n" + b"".join(b'%d,"a ""b"" c\n %d"\n' % (i, i) for i in range(50))),
    "text": ("a.txt", "text \u8a9e".encode() * 100),
    "enwik8": ("a.xml", b"".join(b"<title>A %d</title>\n<text>%s</text>\n" % (i, b"word " * 400) for i in range(3))),
}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few bits flipped, bytes set, cut out, repeated or inserted."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(max(1, len(out)))
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at] = rng.choice(b'\0\xff"\n,{}[]<>&\r1')
        elif kind == 2:
            del out[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            out[at:at] = out[at : at + rng.randrange(1, 30)]
        else:
            out[at:at] = rng.choice(INSERTS)
    return bytes(out)


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_corpus_is_documents_or_a_named_error(tmp_path: Path, kind: str, suffix: str) -> None:
    rng = random.Random(f"{kind}{suffix}")
    name, data = FILES[kind]
    path = tmp_path / f"{name}{suffix}"
    packed = PACK[suffix](data)
    refused = 0
    for number in range(MUTATIONS):
        path.write_bytes(PACK[suffix](mutate(data, rng)) if number % 2 else mutate(packed, rng))
        try:
            for document in open_corpus(kind, path).documents(Position()):
                assert document.text
        except GolfError as error:
            assert str(path) in str(error)
            refused += 1
    assert 0 < refused < MUTATIONS or kind in ("text", "enwik8")


def test_damaged_parquet_is_documents_or_a_named_error(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [f"row {i} " * 9 for i in range(200)]}), path)
    data, rng = path.read_bytes(), random.Random(1)
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(data, rng))
        with contextlib.suppress(GolfError):
            list(open_corpus("parquet", path).documents(Position()))


def test_damaged_shards_of_the_competition_are_documents_or_a_named_error(tmp_path: Path) -> None:
    path = write_documents(tmp_path / "fineweb_val_0.bin", [[5, 6, 7]] * 5)
    write_documents(tmp_path / "fineweb_train_0.bin", [[5]])
    data, rng = path.read_bytes(), random.Random(1)
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(data, rng))
        with contextlib.suppress(GolfError):
            list(open_corpus("shards", tmp_path, Options(vocab_size=300)).documents(Position()))


def test_damaged_token_shards_are_tokens_or_a_named_error(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, vocab_size=300, bos_id=1, tokenizer_sha256="ab")
    for _ in range(5):
        writer.add([1, *range(5, 20)], 15)
    writer.close()
    path = tmp_path / "shard_000000.safetensors"
    data, rng = path.read_bytes(), random.Random(1)
    readers: list[Callable[[Path], object]] = [
        load_split,
        lambda folder: open_split(folder).read(0, 5),
        lambda folder: list(documents_of(folder)),
    ]
    refused = 0
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(data, rng))
        for read in readers:
            try:
                read(tmp_path)
            except GolfError as error:
                assert "re-run" in str(error) or "tokens" in str(error)
                refused += 1
    assert refused > MUTATIONS
