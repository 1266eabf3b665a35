"""Token shards: what is written is read back, and damage is named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.base.files import FileError, load_numpy, save_numpy
from golf.data.shards import ShardWriter, documents_of, load_split, open_split

META = {"vocab_size": 300, "bos_id": 1, "tokenizer_sha256": "ab"}


def write(folder: Path, documents: list[list[int]], limit: int = 100) -> ShardWriter:
    writer = ShardWriter(folder, vocab_size=300, bos_id=1, tokenizer_sha256="ab", tokens_per_shard=limit)
    for i, ids in enumerate(documents):
        writer.add([1, *ids], num_bytes=i)
    writer.close()
    return writer


@given(
    st.lists(st.lists(st.integers(4, 299), max_size=9), min_size=1, max_size=30),
    st.integers(10, 40),
    st.lists(st.integers(0, 30), max_size=5),
)
def test_documents_that_come_together_are_written_as_those_that_come_one_by_one(
    tmp_path_factory, documents, limit, cuts
):
    folder = tmp_path_factory.mktemp("split")
    writer = write(folder / "one", documents, limit)
    together = ShardWriter(folder / "many", vocab_size=300, bos_id=1, tokenizer_sha256="ab", tokens_per_shard=limit)
    bounds = sorted({0, len(documents), *(cut for cut in cuts if cut < len(documents))})
    for first, last in pairwise(bounds):
        parts = [[1, *ids] for ids in documents[first:last]]
        starts = np.cumsum([0, *map(len, parts)])[:-1]
        together.extend(np.concatenate(parts).astype(np.uint16), starts, np.arange(first, last))
    together.close()
    found = [[path.read_bytes() for path in sorted((folder / name).glob("*"))] for name in ("one", "many")]
    assert found[0] == found[1]
    assert (together.num_documents, together.num_tokens, together.num_bytes) == (
        writer.num_documents,
        writer.num_tokens,
        writer.num_bytes,
    )


@pytest.mark.parametrize(
    ("ids", "starts", "message"),
    [
        ([1, 5, 1, 300], [0, 2], r"document 1: token 1 has id 300, outside the vocabulary of 300"),
        ([1, 5, 7, 5], [0, 2], r"document 1: found no BOS \(1\) in front"),
        ([1, 5, *[1] * 9], [0, 2], r"document 1: found 9 tokens, expected at most 8 in one document"),
    ],
)
def test_the_document_that_is_wrong_among_many_is_named(tmp_path, ids, starts, message):
    writer = ShardWriter(tmp_path, vocab_size=300, bos_id=1, tokenizer_sha256="ab", tokens_per_shard=8)
    with pytest.raises(FileError, match=message):
        writer.extend(np.array(ids, np.uint16), np.array(starts), np.zeros(len(starts), np.int64))


@given(
    st.lists(st.lists(st.integers(4, 299), max_size=9), min_size=1, max_size=30),
    st.integers(10, 40),
    st.data(),
)
def test_documents_survive_and_never_straddle(tmp_path_factory, documents, limit, data):
    folder = tmp_path_factory.mktemp("split")
    writer = write(folder, documents, limit)
    stream = [t for ids in documents for t in [1, *ids]]
    split = load_split(folder)
    assert split.tokens.tolist() == stream and split.tokens.dtype == np.uint16
    ends = [*split.doc_starts.tolist()[1:], len(stream)]
    found = [split.tokens[a + 1 : b].tolist() for a, b in zip(split.doc_starts.tolist(), ends, strict=True)]
    assert found == documents
    assert split.doc_bytes.tolist() == list(range(len(documents)))
    reader = open_split(folder)
    paths = sorted(folder.glob("shard_*"))
    assert len(paths) == writer.num_shards
    for path in paths:
        shard = load_numpy(path, made_by="")[0]["tokens"]
        assert len(shard) <= limit and shard[0] == 1  # each shard starts with a document
    start = data.draw(st.integers(0, len(stream)))
    length = data.draw(st.integers(0, len(stream) - start))
    assert reader.read(start, length).tolist() == stream[start : start + length]


def test_reader_names_a_shard_without_tokens(tmp_path):
    for tensors in ({"ids": np.array([1], np.uint16)}, {"tokens": np.array([1], np.int64)}):
        save_numpy(tmp_path / "shard_000000.safetensors", tensors, META)
        with pytest.raises(FileError, match=r"shard_000000.safetensors: tensor `tokens` is not uint16 \(n,\)"):
            open_split(tmp_path)


def test_id_outside_the_vocabulary_is_named(tmp_path):
    writer = ShardWriter(tmp_path, vocab_size=300, bos_id=1, tokenizer_sha256="ab")
    with pytest.raises(FileError, match="token 2 has id 300, outside the vocabulary of 300"):
        writer.add([1, 299, 300], num_bytes=2)
    tensors = {
        "tokens": np.array([1, 301], np.uint16),
        "doc_starts": np.array([0], np.int64),
        "doc_bytes": np.array([1], np.int64),
    }
    save_numpy(tmp_path / "shard_000000.safetensors", tensors, META)
    for read in (lambda: load_split(tmp_path), lambda: open_split(tmp_path).read(0, 2)):
        with pytest.raises(FileError, match=r"id 301, outside the vocabulary of 300.*stages\.tokenize"):
            read()


def test_missing_bos_is_named(tmp_path):
    writer = ShardWriter(tmp_path, vocab_size=300, bos_id=1, tokenizer_sha256="ab")
    with pytest.raises(FileError, match=r"document 0: found no BOS \(1\)"):
        writer.add([5], num_bytes=1)
    tensors = {
        "tokens": np.array([1, 5, 6], np.uint16),
        "doc_starts": np.array([0, 1], np.int64),
        "doc_bytes": np.array([1, 1], np.int64),
    }
    save_numpy(tmp_path / "shard_000000.safetensors", tensors, META)
    with pytest.raises(FileError, match="does not begin with BOS"):
        load_split(tmp_path)


def test_range_outside_the_stream_is_named(tmp_path):
    write(tmp_path, [[5, 6]])
    with pytest.raises(FileError, match="tokens 2:4 asked for, the split has 3"):
        open_split(tmp_path).read(2, 2)


def test_missing_folder_and_truncated_shard_are_named(tmp_path):
    with pytest.raises(FileError, match=r"none: not found; it is made by `python -m stages\.tokenize`"):
        load_split(tmp_path / "none")
    with pytest.raises(FileError, match="found no shard_"):
        open_split(tmp_path)
    write(tmp_path, [[5, 6, 7]])
    path = tmp_path / "shard_000000.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FileError, match="shard_000000.safetensors: not a readable safetensors file"):
        open_split(tmp_path)


def test_shards_of_different_tokenizers_do_not_mix(tmp_path):
    write(tmp_path, [[5, 6, 7]])
    tensors = {
        "tokens": np.array([1, 5], np.uint16),
        "doc_starts": np.array([0], np.int64),
        "doc_bytes": np.array([1], np.int64),
    }
    save_numpy(tmp_path / "shard_000001.safetensors", tensors, META | {"tokenizer_sha256": "cd"})
    with pytest.raises(FileError, match="tokenizer_sha256 is 'cd', shard_000000.safetensors has 'ab'"):
        load_split(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": "300"}, "vocab_size is '300', expected int"),
        ({"bos_id": True}, "bos_id is True, expected int"),
        ({"tokenizer_sha256": None}, "tokenizer_sha256 is None, expected str"),
        ({"vocab_size": 1 << 20}, "bos_id is 1 and vocab_size 1048576, expected the first below"),
        ({"bos_id": 300}, "bos_id is 300 and vocab_size 300, expected the first below"),
        ({"bos_id": -1}, "bos_id is -1 and vocab_size 300"),
    ],
)
def test_untrue_metadata_of_a_shard_is_named_by_every_reader(tmp_path, change, message):
    tensors = {
        "tokens": np.array([1, 5], np.uint16),
        "doc_starts": np.array([0], np.int64),
        "doc_bytes": np.array([1], np.int64),
    }
    save_numpy(tmp_path / "shard_000000.safetensors", tensors, META | change)
    for read in (load_split, open_split, lambda folder: list(documents_of(folder))):
        with pytest.raises(FileError, match=rf"shard_000000\.safetensors: {message}.*stages\.tokenize"):
            read(tmp_path)


def test_documents_of_a_split_are_checked(tmp_path):
    write(tmp_path, [[5, 6], [7]])
    assert [document.tolist() for document in documents_of(tmp_path)] == [[1, 5, 6], [1, 7]]
    tensors = {
        "tokens": np.array([1, 5, 6], np.uint16),
        "doc_starts": np.array([0, 7], np.int64),
        "doc_bytes": np.array([1, 1], np.int64),
    }
    save_numpy(tmp_path / "shard_000000.safetensors", tensors, META)
    with pytest.raises(FileError, match="document starts or byte counts are inconsistent"):
        list(documents_of(tmp_path))
