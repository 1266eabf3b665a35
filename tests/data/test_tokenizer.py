"""The lossless tokenizer: every text comes back byte for byte, and equal input gives equal model bytes."""

from __future__ import annotations

import random

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golf.data.tokenizer import PROBE, Tokenizer, TokenizerError, train_tokenizer

WORDS = "the cat sat on a mat and then it went to see what its old friend, the dog, had done with 1234 bones.\n\n"


def corpus(documents: int = 60) -> list[str]:
    rng = random.Random(5)
    words = WORDS.split(" ")
    return [" ".join(rng.choice(words) + rng.choice(["", "s", "ing", "ed  "]) for _ in range(200))
            for _ in range(documents)]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(corpus(), 400)


def trained(**options) -> Tokenizer:
    """A tokenizer with settings of other people's models."""
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, model_type="bpe", minloglevel=3, **options
    )
    return Tokenizer(model.getvalue(), name="other.model")


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
@example("\n\n \n")
@example("a   b    ")
@example("  lead")
@example("\t\0\r")
@example("\u2581")
@example("a \u2581 b\u2581c \u2581\u2581")
@example("<s></s><unk><pad>")
@example("<0x41><0xE2>")
@example("\U0001f600\U0001f468\u200d\U0001f469")
@example("\u10a0\u16a0\u8a9e\U00013000")
@example("e\u0301\u0327 \ufb01 \u2460 \uff21")
@example("\ufeffBOM")
@example("\u2028\u2029\x85\x0b\x0c")
@example("\u2585\u2047")
@example("")
@example(PROBE)
def test_decode_of_encode_is_the_text_byte_for_byte(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.encode()
    tokens, num_bytes = tokenizer.document(text)
    assert tokens[0] == tokenizer.bos_id and tokens[1:].tolist() == ids
    assert num_bytes == len(text.encode()) == tokenizer.table.num_bytes(tokens)
    assert not {0, 1, 2, 3} & set(ids)  # pad, bos, eos, unk are never made from text


@given(st.text(alphabet="thecatso \n.,12\u00e9\u8a9e", max_size=200))
def test_coding_word_by_word_gives_the_ids_of_the_whole_text(tokenizer, text):
    whole = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model).encode(text)
    assert tokenizer.encode(text) == whole


def test_a_literal_u2581_is_coded_by_bytes_and_not_as_a_space(tokenizer):
    assert tokenizer.encode("a\u2581b") != tokenizer.encode("a b")
    fallback = [tokenizer.token_bytes.index(bytes([byte])) for byte in "\u2581".encode()]
    assert tokenizer.encode("\u2581") == fallback


def test_ids_of_the_control_pieces_are_the_competitions(tokenizer):
    sp = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    assert (sp.pad_id(), sp.bos_id(), sp.eos_id(), sp.unk_id()) == (0, 1, 2, 3)
    assert tokenizer.vocab_size == 400 and tokenizer.lossless and tokenizer.divisor == "raw"


def test_training_twice_gives_the_same_model_bytes(tokenizer):
    assert train_tokenizer(iter(corpus()), 400).model == tokenizer.model
    assert train_tokenizer(corpus(61), 400).model != tokenizer.model


def test_the_vocabulary_learns_pieces_with_spaces_and_newlines(tokenizer):
    learned = tokenizer.token_bytes[260:]
    assert b" the" in learned and any(piece.count(b"\n") == 2 for piece in learned)
    assert len(tokenizer.encode(corpus()[0])) < len(corpus()[0]) / 2


@pytest.mark.parametrize("texts", [["abc abd abe"] * 3, ["a"]])
def test_corpus_too_small_for_the_vocabulary_is_named(texts):
    with pytest.raises(TokenizerError, match=r"corpus too small for the vocabulary: its text gives \d+ pieces, "
                       r"expected 1024; give more text .* or lower tokenize\.vocab_size"):  # fmt: skip
        train_tokenizer(texts, 1024)


def test_empty_corpus_is_named():
    with pytest.raises(TokenizerError, match="corpus is empty: no text to train a tokenizer on"):
        train_tokenizer([], 1024)


def test_vocabulary_too_small_for_the_characters_is_named():
    with pytest.raises(TokenizerError, match=r"vocabulary too small for the corpus: .*raise tokenize\.vocab_size"):
        train_tokenizer(["".join(chr(0x4E00 + i) for i in range(500)) * 3], 300)


def test_damaged_model_is_named(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(b"no model")
    with pytest.raises(TokenizerError, match=r"x\.model: not a readable SentencePiece model"):
        Tokenizer.from_file(path)
    with pytest.raises(ValueError, match=r"none\.model: not found"):
        Tokenizer.from_file(tmp_path / "none.model")


@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "nmt_nfkc", "add_dummy_prefix": False},
        {"normalization_rule_name": "identity"},  # dummy prefix, spaces collapsed
        {"normalization_rule_name": "identity", "add_dummy_prefix": False},  # runs of spaces collapsed
    ],
)
def test_a_normalizing_model_is_found_out_and_its_divisor_is_the_decoded_text(options):
    tokenizer = trained(vocab_size=400, byte_fallback=True, **options)
    assert not tokenizer.lossless and tokenizer.divisor == "decoded"
    text = "  the   cat sat on\u2581a mat  "
    tokens, num_bytes = tokenizer.document(text)
    decoded = tokenizer.decode(tokens)
    assert decoded == b"the cat sat on a mat"
    assert num_bytes == len(decoded) < len(text.encode())


def test_a_model_without_byte_fallback_refuses_what_it_cannot_code():
    tokenizer = trained(vocab_size=100, normalization_rule_name="identity", add_dummy_prefix=False)
    assert not tokenizer.lossless
    with pytest.raises(TokenizerError, match="other.model: has no piece for a character"):
        tokenizer.document("the \u8a9e cat")


def test_an_existing_lossless_model_is_found_to_be_so(tokenizer, tmp_path):
    path = tmp_path / "given.model"
    path.write_bytes(tokenizer.model)
    given = Tokenizer.from_file(path)
    assert given.lossless and given.sha256 == tokenizer.sha256


def test_a_text_that_a_seemingly_lossless_model_changes_is_refused(tokenizer, monkeypatch):
    broken = Tokenizer(tokenizer.model, name="t.model")
    monkeypatch.setattr(broken, "_encode_exact", lambda text: tokenizer.encode(text.replace("q", "p")))
    with pytest.raises(TokenizerError, match=r"t\.model: changes this text: at byte 2 found b'p', expected b'q'"):
        broken.document("a q")
