"""The competition's own tokenizer and validation text, where they are at hand."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from corpora import write_bin
from golf.data.competition import CompetitionShards
from golf.data.documents import Document, Position
from golf.data.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(shared_data: Path) -> Tokenizer:
    return Tokenizer.from_file(shared_data / "fineweb" / "fineweb_1024_bpe.model")


@pytest.fixture(scope="module")
def documents(shared_data: Path, tokenizer: Tokenizer, tmp_path_factory) -> list[Document]:
    folder = tmp_path_factory.mktemp("shards")
    (folder / "fineweb_val_000000.bin").symlink_to(shared_data / "fineweb" / "fineweb_val_000000.head.bin")
    write_bin(folder / "fineweb_train_000000.bin", [1, 500])
    corpus = CompetitionShards(folder, vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id)
    return [document for document in corpus.documents(Position()) if document.side == "val"]


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    with lzma.open(shared_data / "fineweb" / "fineweb_val.jsonl.xz", "rt") as file:
        return [json.loads(line)["text"] for line in file]


def test_head_of_the_validation_shard_has_the_published_counts(documents):
    assert len(documents) == 901 + 1  # the last one is cut off
    assert sum(1 + len(document.ids) for document in documents) == 1_040_297 + 1
    assert len(documents[-1].ids) == 237


def test_the_model_normalizes_and_reencoding_gives_the_published_ids(tokenizer, documents, texts):
    assert not tokenizer.lossless and tokenizer.divisor == "decoded"
    assert sum(len(text.encode()) for text in texts) == 2_504_310
    decoded_bytes = 0
    for document, text in zip(documents, texts, strict=False):
        tokens, num_bytes = tokenizer.document(text)  # proves table == decoded text
        assert np.array_equal(tokens[1:], document.ids)
        assert tokenizer.imported_document(document.ids)[1] == num_bytes
        decoded_bytes += num_bytes
    assert decoded_bytes == 2_504_310  # these texts are already in the model's normal form


def test_ledger_of_the_whole_stream_is_the_sum_of_the_documents(tokenizer, documents):
    stream = np.concatenate([np.concatenate([[tokenizer.bos_id], document.ids]) for document in documents])
    total = sum(tokenizer.imported_document(document.ids)[1] for document in documents)
    assert tokenizer.table.num_bytes(stream) == total
    assert (total, len(stream) - 1) == (2_504_867, 1_040_297)
    assert tokenizer.table.num_bytes(stream[:-1]) == 2_504_866  # the last of the 1,040,297 targets left out
