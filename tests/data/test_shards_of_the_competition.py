"""Token shards of the competition: which files they are, that none is missing, whose ids and whose bytes they hold."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from corpora import other_model, tokenize_config, write_bin, write_documents
from golf.data.byte_table import ByteTable
from golf.data.competition import CompetitionShards
from golf.data.documents import CorpusError, Position
from golf.data.encode_ids import document_bytes
from golf.data.tokenize import tokenize_corpus

CONFIG = tokenize_config(source="shards", tokenizer="t.model")


def words(seed: int, letters: str = "abcdefghij", length: tuple[int, int] = (2, 7)) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choice(letters) for _ in range(rng.randint(*length))) for _ in range(200))


TEXTS = [words(seed) for seed in range(40)]
MODEL = other_model(TEXTS, 400)
PROCESSOR = sentencepiece.SentencePieceProcessor(model_proto=MODEL)
IDS = [PROCESSOR.encode(text) for text in TEXTS]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Shards of 15 scored and 25 training documents, and the model that made them."""
    (tmp_path / "data").mkdir()
    (tmp_path / "t.model").write_bytes(MODEL)
    write_documents(tmp_path / "data/fineweb_val_000000.bin", IDS[:15])
    write_documents(tmp_path / "data/fineweb_train_000000.bin", IDS[15:])
    return tmp_path


def stream(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in [1, *document]]


def test_the_bytes_are_those_of_the_decoded_text(root):
    manifest = tokenize_corpus(CONFIG, root)
    val = manifest["splits"]["val"]
    assert val["documents"] == 15 and val["bytes"] == sum(len(text) for text in TEXTS[:15])
    assert val["raw_bytes"] is None and val["text_sha256"] is None  # nobody here knows the raw text


def test_a_sidecar_of_bytes_is_no_shard(root):
    before = tokenize_corpus(CONFIG, root)
    sizes = [0 if token == 1 else len(PROCESSOR.id_to_piece(token)) for token in stream(IDS[:15])]
    write_bin(root / "data/fineweb_val_bytes_000000.bin", sizes)
    manifest = tokenize_corpus(CONFIG, root)
    assert manifest["splits"] == before["splits"]
    skipped = manifest["source"]["skipped_files"]["named otherwise than a shard"]
    assert skipped == {"count": 1, "first": "fineweb_val_bytes_000000.bin"}


@pytest.mark.parametrize("name", ["fineweb_val_a.bin", "fineweb_val_000001.bin.part", "sub/fineweb_val_000001.bin"])
def test_other_names_are_no_shards_and_are_said(root, name):
    (root / "data" / name).parent.mkdir(exist_ok=True)
    write_documents(root / "data" / name, IDS[:2])
    manifest = tokenize_corpus(CONFIG, root)
    assert manifest["splits"]["val"]["documents"] == 15
    assert [of["first"] for of in manifest["source"]["skipped_files"].values()] == [name]


def test_ids_of_transformed_text_are_refused_by_their_sidecar(root):
    """Case operators are pieces of their own: the pieces' bytes are more than the text's, and the sidecar tells."""
    sizes = [0 if token == 1 else max(0, len(PROCESSOR.id_to_piece(token)) - 1) for token in stream(IDS[:15])]
    write_bin(root / "data/fineweb_val_bytes_000000.bin", sizes)
    with pytest.raises(
        CorpusError, match=r"fineweb_val, document 1: the pieces decode to \d+ bytes, the sidecar states \d+"
    ):
        tokenize_corpus(CONFIG, root)
    write_bin(root / "data/fineweb_val_bytes_000000.bin", sizes[:-1])
    with pytest.raises(
        CorpusError, match=r"fineweb_val_bytes_000000\.bin: states the bytes of \d+ tokens, the shard has"
    ):
        tokenize_corpus(CONFIG, root)


def test_a_missing_shard_is_named(root):
    tokens = stream(IDS[:15])
    third = len(tokens) // 3
    for number in (0, 2):
        write_bin(root / f"data/fineweb_val_{number:06d}.bin", tokens[number * third : (number + 1) * third])
    with pytest.raises(CorpusError, match=r"fineweb_val_000001\.bin is missing, shards 0 to 2 are here"):
        tokenize_corpus(CONFIG, root)
    write_bin(root / "data/fineweb_val_000001.bin", tokens[third : 2 * third])
    write_bin(root / "data/fineweb_val_000002.bin", tokens[2 * third :])
    assert tokenize_corpus(CONFIG, root)["splits"]["val"]["documents"] == 15


def test_a_missing_first_shard_is_suspected_where_the_next_begins_inside_a_document(root):
    tokens = stream(IDS[:15])
    (root / "data/fineweb_val_000000.bin").unlink()
    write_bin(root / "data/fineweb_val_000001.bin", tokens[5:])
    with pytest.raises(
        CorpusError, match=r"token 0 is \d+, expected BOS \(1\) before a document; is an earlier shard missing\?"
    ):
        tokenize_corpus(CONFIG, root)


def test_two_shards_of_one_number_are_refused(root):
    write_documents(root / "data/fineweb_val_0.bin", IDS[:2])
    with pytest.raises(CorpusError, match=r"fineweb_val_000000\.bin: a second shard 0, beside fineweb_val_0\.bin"):
        tokenize_corpus(CONFIG, root)


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in range(11):  # by name, 10 would come before 2
        write_bin(tmp_path / f"fineweb_val_{number}.bin", [1, 5 + number])
    write_bin(tmp_path / "fineweb_train_0.bin", [1, 4])
    corpus = CompetitionShards(tmp_path, vocab_size=20, bos_id=1)
    assert [int(document.ids[0]) for document in corpus.documents(Position())] == [*range(5, 16), 4]


@pytest.mark.parametrize("side", ["val", "train"])
def test_a_side_without_shards_is_named(root, side):
    (root / f"data/fineweb_{side}_000000.bin").unlink()
    with pytest.raises(CorpusError, match=rf"found no fineweb_{side}_NNNNNN\.bin; set tokenize\.path"):
        tokenize_corpus(CONFIG, root)


def test_a_model_with_as_many_pieces_that_did_not_make_the_ids_is_refused(root):
    other = [words(seed, letters="abcdefghijkl", length=(9, 14)) for seed in range(80)]
    (root / "t.model").write_bytes(other_model(other, 400))
    with pytest.raises(
        CorpusError, match=r"t\.model: did not make these ids: of the first 40 documents \d+ are coded otherwise"
    ):
        tokenize_corpus(CONFIG, root)
    assert not (root / "artifacts/tokens").exists()


def test_a_model_of_another_kind_with_the_same_text_is_refused(root):
    (root / "t.model").write_bytes(other_model(TEXTS, 400, model_type="unigram", hard_vocab_limit=False))
    with pytest.raises(CorpusError, match="did not make these ids|outside the vocabulary|byte table counts"):
        tokenize_corpus(CONFIG, root)


def test_a_training_copy_of_a_scored_document_is_dropped_and_counted(root):
    before = tokenize_corpus(CONFIG, root)
    write_documents(root / "data/fineweb_train_000000.bin", [*IDS[15:], IDS[3], IDS[3]])
    manifest = tokenize_corpus(CONFIG, root)
    assert manifest["documents"]["copies"] == 2 and manifest["splits"] == before["splits"]


def test_shards_of_gpt2_are_said_to_be_not_supported(root):
    write_bin(root / "data/fineweb_val_000000.bin", [50256, 464, 3797])
    with pytest.raises(CorpusError, match="begins with id 50256 as GPT-2 shards do, which are not supported"):
        tokenize_corpus(CONFIG, root)


def test_the_tokenizer_of_the_byte_level_variant_is_said_to_be_not_supported(root):
    (root / "t.json").write_text('{"type": "pure_byte", "vocab_size": 260}')
    with pytest.raises(ValueError, match=r"t\.json: found JSON, expected a SentencePiece \.model; byte-level, GPT-2"):
        tokenize_corpus(replace(CONFIG, tokenizer="t.json"), root)


def test_a_document_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("golf.data.competition.MAX_DOCUMENT_BYTES", 1000)
    monkeypatch.setattr("golf.data.competition._BLOCK", 100)
    write_bin(tmp_path / "fineweb_val_0.bin", [1, *[5] * 5000])
    write_bin(tmp_path / "fineweb_train_0.bin", [1, 4])
    with pytest.raises(CorpusError, match=r"fineweb_val_0\.bin: the document that is open at token \d+: longer than"):
        list(CompetitionShards(tmp_path, vocab_size=20, bos_id=1).documents(Position()))


def test_cutting_does_not_depend_on_the_block(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    tokens = [1, *np.where(rng.random(500) < 0.1, 1, rng.integers(2, 20, 500)).tolist()]
    write_bin(tmp_path / "fineweb_val_0.bin", tokens)
    write_bin(tmp_path / "fineweb_val_bytes_0.bin", [3 * (token != 1) for token in tokens])
    write_bin(tmp_path / "fineweb_train_0.bin", [1, 4])
    expected = [
        part.tolist() for part in np.split(np.array(tokens), np.flatnonzero(np.array(tokens) == 1)) if len(part) > 1
    ]
    for block in (1, 7, 100, 1000):
        monkeypatch.setattr("golf.data.competition._BLOCK", block)
        corpus = CompetitionShards(tmp_path, vocab_size=20, bos_id=1)
        found = [document for document in corpus.documents(Position()) if document.side == "val"]
        assert [[1, *document.ids.tolist()] for document in found] == expected
        stated = [part.stated_bytes for part in corpus.streams(Position()) if part.side == "val"]
        assert np.concatenate(stated).tolist() == [3 * (len(part) - 1) for part in expected]


@given(st.lists(st.lists(st.integers(0, 20).filter(lambda token: token != 1), max_size=6), min_size=1), st.data())
def test_bytes_of_many_documents_are_those_of_each(documents, data):
    flags = st.lists(st.booleans(), min_size=21, max_size=21)
    base, space, boundary = (np.array(data.draw(flags)) for _ in range(3))
    boundary[1], space[1], base[1] = True, False, False  # BOS
    table = ByteTable(3 * base.astype(np.int16), space, boundary)
    parts = [np.array([1, *ids], np.uint16) for ids in documents]
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    found = document_bytes(np.concatenate(parts), starts, table.with_space.astype(np.int64), space, boundary)
    assert found.tolist() == [table.num_bytes(part) for part in parts]


@pytest.mark.parametrize("wrong", [3, 15])  # of the scored documents, the first of the others
def test_bytes_that_the_compiled_count_gets_wrong_are_refused(root, monkeypatch, wrong):
    def faulty(*of):
        counted = document_bytes(*of)
        return counted + (counted == len(TEXTS[wrong]))

    monkeypatch.setattr("golf.data.encode_ids.document_bytes", faulty)
    size = len(TEXTS[wrong])
    with pytest.raises(CorpusError, match=rf"document \d+: {size + 1} bytes were counted, its ids decode to {size};"):
        tokenize_corpus(CONFIG, root)


def test_an_unknown_piece_among_many_documents_is_named(root):
    write_documents(root / "data/fineweb_train_000000.bin", [*IDS[15:20], [*IDS[20], PROCESSOR.unk_id()], *IDS[21:]])
    with pytest.raises(CorpusError, match=r"fineweb_train, document 6: .*t\.model: unknown piece in the ids"):
        tokenize_corpus(CONFIG, root)


def test_the_corpus_ends_before_the_document_that_would_exceed_its_bytes(root, monkeypatch):
    sizes = [len(text) for text in TEXTS]
    for block in (1, 1000, 1 << 19):
        monkeypatch.setattr("golf.data.competition._BLOCK", block)
        for most, documents in ((sum(sizes[:18]), 18), (sum(sizes[:18]) - 1, 17)):
            manifest = tokenize_corpus(replace(CONFIG, max_bytes=most), root)
            assert sum(split["documents"] for split in manifest["splits"].values()) == documents


def test_empty_documents_are_counted_and_keep_their_numbers(tmp_path):
    write_bin(tmp_path / "fineweb_val_0.bin", [1, 5, 1, 1, 6, 1])
    write_bin(tmp_path / "fineweb_train_0.bin", [1, 1, 4])
    position = Position()
    corpus = CompetitionShards(tmp_path, vocab_size=20, bos_id=1)
    found = [(document.where.rsplit("/")[-1], document.ids.tolist()) for document in corpus.documents(position)]
    numbered = [("val, document 1", [5]), ("val, document 3", [6]), ("train, document 2", [4])]
    assert found == [(f"fineweb_{name}", ids) for name, ids in numbered]
    assert position.skipped == {"without text": 3}
