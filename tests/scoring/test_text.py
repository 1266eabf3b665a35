"""The scored text: divisor, document bounds, and everything that must not be scored."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from golf.base.files import FileError
from golf.data.shards import ShardWriter
from golf.scoring.results import document_nats, make_score
from golf.scoring.text import ScoringError, ValidationText, decode_documents, load_text

BOS = 1


def write_split(folder: Path, documents: list[list[int]], num_bytes: list[int], *, sha: str = "a" * 64) -> None:
    writer = ShardWriter(folder, vocab_size=16, bos_id=BOS, tokenizer_sha256=sha, tokens_per_shard=6)
    for ids, size in zip(documents, num_bytes, strict=True):
        writer.add([BOS, *ids], size)
    writer.close()


def test_load_joins_shards_and_counts_targets_by_document(tmp_path: Path) -> None:
    write_split(tmp_path, [[5, 6, 7], [], [8, 9, 10, 11]], [3, 0, 9])
    text = load_text(tmp_path, vocab_size=16, tokenizer_sha256="a" * 64)
    assert text.tokens.tolist() == [BOS, 5, 6, 7, BOS, BOS, 8, 9, 10, 11]
    assert text.num_targets == 9
    assert text.num_bytes == 12, "BOS adds no byte"
    assert text.doc_tokens.tolist() == [3, 1, 5], "every BOS but the stream's first is a target"
    nats = np.arange(1.0, 10.0)
    assert document_nats(text, nats).tolist() == [6.0, 4.0, 35.0]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, max_value=1e300, min_value=-1e300), max_size=60))
@example([5e-324, 1e300, -1e300, 2.0**-1022, -1e-308])
@example([1.0, 2.0**-53, 2.0**-106])
def test_the_sum_of_a_document_is_rounded_once(values: list[float]) -> None:
    nats, starts = np.array([*values, 1.0, np.inf, *values, 2.0]), np.array([0, len(values) + 1, len(values) + 3])
    text = ValidationText(np.ones(len(nats) + 1, np.int64), starts, np.ones(3, np.int64), 2)
    found, bounds = document_nats(text, nats), text.target_bounds
    for sum_of_one, a, b in zip(found, bounds[:-1], bounds[1:], strict=True):
        expected = math.fsum(nats[a:b])
        assert sum_of_one == expected or (math.isnan(sum_of_one) and not math.isfinite(expected))


def test_stream_of_one_empty_document_first(tmp_path: Path) -> None:
    write_split(tmp_path, [[], [5, 6]], [0, 2])
    text = load_text(tmp_path, vocab_size=16, tokenizer_sha256="a" * 64)
    assert text.doc_tokens.tolist() == [0, 3]
    score = make_score("roundtrip", text, np.array([np.log(2.0)] * 3))
    assert score.bits_per_byte == pytest.approx(1.5, abs=1e-15)
    metrics = score.metrics(seconds=2.0)
    assert metrics["roundtrip_nats_per_token"] == pytest.approx(np.log(2.0))
    assert (metrics["tokens"], metrics["bytes"], metrics["roundtrip_tokens_per_second"]) == (3, 2, 1.5)


def test_tokens_of_another_tokenizer_are_refused_naming_both(tmp_path: Path) -> None:
    write_split(tmp_path, [[5]], [1], sha="b" * 64)
    with pytest.raises(ScoringError, match=r"tokenizer b{16}, the artifact carries tokenizer a{16}"):
        load_text(tmp_path, vocab_size=16, tokenizer_sha256="a" * 64)


def test_token_outside_the_models_vocabulary_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, [[5, 9]], [1])
    with pytest.raises(ScoringError, match=r"token 2 of the stream has id 9, outside the model's vocabulary of 8"):
        load_text(tmp_path, vocab_size=8, tokenizer_sha256="a" * 64)


def test_missing_split_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"stages\.tokenize"):
        load_text(tmp_path / "val", vocab_size=8, tokenizer_sha256="a" * 64)


def test_stream_without_targets_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, [[]], [0])
    with pytest.raises(ScoringError, match="has 1 tokens, expected at least 2"):
        load_text(tmp_path, vocab_size=16, tokenizer_sha256="a" * 64)


@pytest.mark.parametrize("starts", [[1], [0, 0], [0, 9], []])
def test_documents_that_do_not_tile_the_stream_are_refused(starts: list[int]) -> None:
    with pytest.raises(ScoringError, match="do not tile"):
        ValidationText(np.array([1, 2, 3]), np.array(starts, dtype=np.int64), np.zeros(len(starts), dtype=np.int64), 4)


def test_divisor_that_is_not_the_decoded_length_is_refused() -> None:
    text = ValidationText(np.array([BOS, 5, 6, BOS, 7]), np.array([0, 3]), np.array([2, 1]), 16)
    assert decode_documents(text, lambda ids: bytes(ids)) == bytes([5, 6, 7])
    with pytest.raises(ScoringError, match=r"document 0 decodes to 4 bytes, the split says 2"):
        decode_documents(text, lambda ids: bytes(ids) * 2)
