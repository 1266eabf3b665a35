"""Bytes, splits, divisor and size: true statements pass, the field's miscounts are caught."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from corpora import other_model
from golf.base.files import FileError
from golf.data.byte_table import ByteTable
from golf.data.shards import ShardWriter, documents_of
from golf.data.tokenizer import Tokenizer, train_tokenizer
from golf.verify import text

TEXTS = ["the cat sat on the mat, the cat ran " * 20, "caf\u00e9 \u8a9e\U0001f600 \n\n  the end ", "", " the mat"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat, the cat ran. " * 50, *TEXTS], 300)


@pytest.fixture(scope="module")
def documents(tokenizer: Tokenizer) -> list[np.ndarray]:
    return [tokenizer.document(one)[0] for one in TEXTS]


DOC_BYTES = np.array([len(one.encode()) for one in TEXTS])


def test_true_bytes_pass(tokenizer: Tokenizer, documents: list[np.ndarray]) -> None:
    official = text.official_decoder(tokenizer.model)
    result = text.check_bytes(tokenizer.table.token_bytes, official, iter(documents), DOC_BYTES)
    assert (result.verdict, result.value) == ("PASS", 0.0)
    assert f"table {DOC_BYTES.sum():,}, decoded {DOC_BYTES.sum():,}, divisor {DOC_BYTES.sum():,}" in result.text


def space_twice(tokenizer: Tokenizer) -> ByteTable:
    table = tokenizer.table
    return ByteTable(table.base_bytes + table.has_leading_space, table.has_leading_space, table.is_boundary)


def byte_pieces_as(size: int) -> Callable[[Tokenizer], ByteTable]:
    def wrong(tokenizer: Tokenizer) -> ByteTable:
        table, base = tokenizer.table, tokenizer.table.base_bytes.copy()
        base[4:260] = size  # ids of the 256 byte pieces: behind pad, bos, eos, unk
        return ByteTable(base, table.has_leading_space, table.is_boundary)

    return wrong


def bos_as_text(tokenizer: Tokenizer) -> ByteTable:
    base = tokenizer.table.base_bytes.copy()
    base[[2, 3]] = 3
    return ByteTable(base, np.ones_like(tokenizer.table.has_leading_space), tokenizer.table.is_boundary)


@pytest.mark.parametrize(
    "wrong", [space_twice, byte_pieces_as(3), byte_pieces_as(6), bos_as_text], ids=["space", "byte_3", "byte_6", "all"]
)
def test_miscounted_bytes_are_caught(
    wrong: Callable[[Tokenizer], ByteTable], tokenizer: Tokenizer, documents: list[np.ndarray]
) -> None:
    official = text.official_decoder(tokenizer.model)
    result = text.check_bytes(wrong(tokenizer).token_bytes, official, iter(documents), DOC_BYTES)
    assert result.verdict == "FAIL" and result.value >= 1.0


@pytest.mark.parametrize("stated", [DOC_BYTES + [0, 0, 0, 1], DOC_BYTES[:3], np.append(DOC_BYTES, 5)])
def test_a_divisor_that_is_not_the_texts_is_caught(
    stated: np.ndarray, tokenizer: Tokenizer, documents: list[np.ndarray]
) -> None:
    official = text.official_decoder(tokenizer.model)
    assert text.check_bytes(tokenizer.table.token_bytes, official, iter(documents), stated).verdict == "FAIL"


def test_a_document_on_both_sides_is_caught(documents: list[np.ndarray]) -> None:
    scored, other = documents[:2], [documents[3], documents[2]]
    apart = text.check_disjoint(iter([*scored, documents[2]]), {"train": iter(other)})
    assert (apart.verdict, apart.value) == ("PASS", 0.0)  # an empty document is no document
    shared = text.check_disjoint(iter(scored), {"train": iter(other), "holdout": iter([documents[1]])})
    assert (shared.verdict, shared.value) == ("FAIL", 1.0)
    assert shared.text == "2 scored documents against 2 of train, 1 of holdout: 1 in holdout"


def test_documents_come_back_from_shards(tmp_path: Path, documents: list[np.ndarray], tokenizer: Tokenizer) -> None:
    writer = ShardWriter(
        tmp_path,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        tokenizer_sha256=tokenizer.sha256,
        tokens_per_shard=max(map(len, documents)) + 1,
    )
    for document, num_bytes in zip(documents, DOC_BYTES, strict=True):
        writer.add(document, int(num_bytes))
    writer.close()
    assert writer.num_shards > 1
    found = list(documents_of(tmp_path))
    assert [one.tolist() for one in found] == [one.tolist() for one in documents]


def as_read(texts: list[str]) -> dict[str, object]:
    data = b"".join(len(one.encode()).to_bytes(8, "little") + one.encode() for one in texts)
    return {"splits": {"val": {"raw_bytes": len(data), "text_sha256": hashlib.sha256(data).hexdigest()}}}


def test_the_decoded_text_must_be_the_text_that_was_read(tokenizer: Tokenizer, documents: list[np.ndarray]) -> None:
    official = text.official_decoder(tokenizer.model)

    def verdict(manifest: dict[str, object]) -> bool | None:
        return text.check_text(official, iter(documents), manifest, found="raw", split="val").verdict

    assert verdict(as_read(TEXTS)) == "PASS"
    assert verdict(as_read([*TEXTS[:-1], " the mat."])) == "FAIL"  # another text
    assert verdict(as_read([TEXTS[0] + TEXTS[1], *TEXTS[2:]])) == "FAIL"  # other documents of the same text
    assert verdict({"splits": {"val": {"raw_bytes": 1}}}) == "FAIL"  # bytes without the text's hash
    assert verdict({"splits": {"val": {"raw_bytes": None}}}) == "NOTE"  # ids were read and no text


def test_a_space_counted_as_three_bytes_fails_though_table_and_decoder_agree() -> None:
    """A model without a piece for the space codes it as the bytes of U+2581: every count agrees, and is 3 for 1."""
    lossless = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
    texts = ["the cat sat on the mat " * 20, "and the dog " * 30]
    model = other_model([one.replace(" ", "") for one in texts], 290, **lossless)
    tokenizer, official = Tokenizer(model), text.official_decoder(model)
    ids = [sentencepiece.SentencePieceProcessor(model_proto=model).encode(one) for one in texts]
    documents = [np.array([1, *one], dtype=np.uint16) for one in ids]
    counted = np.array([tokenizer.table.num_bytes(one) for one in documents])
    assert counted.sum() > 1.3 * sum(map(len, texts))
    assert text.check_bytes(tokenizer.table.token_bytes, official, iter(documents), counted).verdict == "PASS"
    result = text.check_text(official, iter(documents), {}, found=tokenizer.divisor, split="val")
    assert (result.verdict, result.value, result.text) == ("FAIL", 2.0, "2 of 2 hold U+2581")
    manifest = {"splits": {"val": {"raw_bytes": sum(map(len, texts)), "bytes": int(counted.sum()), "tokens": 9}}}
    stated = text.check_divisor(
        manifest | {"divisor": "decoded", "tokenizer_sha256": "ab"},
        found="decoded",
        tokenizer_sha256="ab",
        num_bytes=int(counted.sum()),
        num_tokens=9,
        split="val",
    )
    assert stated.verdict == "FAIL" and "divided by more" in stated.text


MANIFEST = {
    "divisor": "raw",
    "tokenizer_sha256": "ab",
    "splits": {"val": {"bytes": 90, "raw_bytes": 90, "tokens": 40}},
}


@pytest.mark.parametrize(
    ("found", "num_bytes", "num_tokens", "sha", "wrong"),
    [
        ("raw", 90, 40, "ab", 0),
        ("decoded", 90, 40, "ab", 1),
        ("raw", 91, 40, "ab", 2),
        ("raw", 90, 39, "ab", 1),
        ("raw", 90, 40, "cd", 1),
    ],
)
def test_the_divisor_must_be_stated_and_true(found: str, num_bytes: int, num_tokens: int, sha: str, wrong: int) -> None:
    result = text.check_divisor(
        MANIFEST, found=found, tokenizer_sha256=sha, num_bytes=num_bytes, num_tokens=num_tokens, split="val"
    )
    assert result.value == wrong
    assert result.verdict == ("FAIL" if wrong else "PASS")


def test_a_manifest_that_states_nothing_fails() -> None:
    result = text.check_divisor({}, found="raw", tokenizer_sha256="ab", num_bytes=1, num_tokens=1, split="val")
    assert result.value == 4 and "divisor: None, found 'raw'" in result.text


def test_size_is_that_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 70)
    (tmp_path / "b").write_bytes(b"x" * 30)
    assert text.check_size(tmp_path / "a", tmp_path / "b", limit_bytes=100).verdict == "PASS"
    assert text.check_size(tmp_path / "a", tmp_path / "b", limit_bytes=99).verdict == "FAIL"
    with pytest.raises(FileError, match=r"missing: not found; it is made by `python -m stages.compress`"):
        text.check_size(tmp_path / "a", tmp_path / "missing", limit_bytes=99)
