"""Whatever the script, whoever made the tokenizer: the bytes counted are those of the text, or it is refused."""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import other_model
from golf.data.tokenizer import Tokenizer, TokenizerError, train_tokenizer

SPACE = "\u2581"
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "then",
    "it",
    "went",
    "to",
    "see",
    "what",
    "its",
    "old",
    "friend",
]
WORDS += ["had", "done", "with", "1234", "bones"]
LOSSLESS = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}


def chinese(share_of_spaces: float, documents: int = 40) -> list[str]:
    out = []
    for seed in range(documents):
        rng = random.Random(seed)
        chars = (" " if rng.random() < share_of_spaces else chr(0x4E00 + rng.randrange(150)) for _ in range(600))
        out.append("".join(chars) + "\u3002\n")
    return out


def english(documents: int = 40, between: str = " ") -> list[str]:
    return [between.join(random.Random(seed).choices(WORDS, k=150)) for seed in range(documents)]


CORPORA = {
    "chinese": chinese(0.0),
    "chinese, a space in 5000": chinese(0.0002),
    "chinese, 1 % spaces": chinese(0.01),
    "thai": ["\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22\u0e40\u0e1b\u0e47\u0e19" * 20 + str(i) for i in range(40)],
    "one character": ["a" * 500] * 20,
    "no spaces": english(between=""),
    "tabs": english(between="\t"),
    "newlines": english(between="\n"),
    "ideographic spaces": english(between="\u3000"),
    "runs of spaces": english(between="   "),
    "no-break spaces": english(between="\u00a0"),
    "literal U+2581": english(between=SPACE),
    "emoji": ["\U0001f600\U0001f468\u200d\U0001f469" * 50 + str(i) for i in range(40)],
}
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
SPACED = st.text(alphabet=f"ab \t\n\r\u3000\u00a0{SPACE}\u8a9e\u0e20\U0001f600", max_size=40)


@lru_cache
def trained_on(name: str) -> Tokenizer:
    size = {"one character": 262, "emoji": 280}.get(name, 500 if "chinese" in name else 300)
    return train_tokenizer(CORPORA[name], size)


@pytest.mark.parametrize("name", CORPORA)
def test_our_tokenizer_is_lossless_on_every_script_and_has_a_piece_for_the_bare_space(name):
    tokenizer = trained_on(name)
    assert tokenizer.lossless and tokenizer.token_bytes.count(b" ") == 2  # the piece, and the byte piece <0x20>
    assert len(tokenizer.encode("a b")) < len(tokenizer.encode("a")) + len(tokenizer.encode("b")) + 3


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(CORPORA)), ANY_TEXT | SPACED)
def test_our_tokenizer_counts_the_bytes_of_any_text_after_any_training_text(name, text):
    tokenizer = trained_on(name)
    tokens, num_bytes = tokenizer.document(text)
    official = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    assert num_bytes == len(text.encode()) and official.decode(tokens[1:].tolist()) == text


def test_a_second_reading_of_the_texts_happens_only_where_spaces_are_missing():
    class Texts(list):
        readings = 0

        def __iter__(self):
            self.readings += 1
            return super().__iter__()

    spaced, unspaced = Texts(english()), Texts(chinese(0.0))
    train_tokenizer(spaced, 300)
    train_tokenizer(unspaced, 500)
    assert (spaced.readings, unspaced.readings) == (1, 2)
    assert train_tokenizer(iter(chinese(0.0)), 500).lossless  # an iterator cannot be read twice


MODELS = {
    "as sentencepiece trains by default": {},
    "unigram": {"model_type": "unigram", "vocab_size": 290},
    "characters": {"model_type": "char", "byte_fallback": False, "vocab_size": 25},
    "words": {"model_type": "word", "byte_fallback": False, "vocab_size": 20},
    "lossless": LOSSLESS,
    "dummy prefix alone": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "case folded": {"normalization_rule_name": "nmt_nfkc_cf"},
    "space behind the word": {"treat_whitespace_as_suffix": True},
    "user-defined space runs": {"user_defined_symbols": ["  ", "    ", "\n\n"], **LOSSLESS},
    "user-defined words": {"user_defined_symbols": ["cat", " the", "a b", "<tag>", f"x{SPACE}"], **LOSSLESS},
    "user-defined, normalizing": {"user_defined_symbols": ["\ufb01", "<|end|>", "\u3000"]},
    "control symbols": {"control_symbols": ["<mask>", "a"], **LOSSLESS},
}


@lru_cache
def imported(name: str, unspaced: bool) -> Tokenizer | None:
    """None where SentencePiece itself trains no such model, or where it is refused."""
    texts = english(between="") if unspaced else english()
    try:
        return Tokenizer(other_model(texts, **({"vocab_size": 340} | MODELS[name])), name=name)
    except RuntimeError:
        return None


MODEL_TEXT = st.text(alphabet=f"thecatsondb  \n\t\u3000{SPACE}\ufb01\u8a9e<tag>|x", max_size=30) | st.lists(
    st.sampled_from([*WORDS, "", "\n", " ", "a b", "<tag>", "\ufb01"]), max_size=12
).map(" ".join)


def test_every_kind_of_imported_model_is_tried():
    assert all(imported(name, unspaced=False) for name in MODELS)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.booleans(), MODEL_TEXT)
def test_an_imported_model_counts_the_bytes_of_what_it_decodes_or_refuses(name, unspaced, text):
    tokenizer = imported(name, unspaced)
    if tokenizer is None:
        return
    try:
        tokens, num_bytes = tokenizer.document(text)
    except TokenizerError as error:
        assert str(error).startswith(name)
        return
    official = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    decoded = official.decode(tokens[1:].tolist())
    assert num_bytes == len(decoded.encode()) == tokenizer.table.num_bytes(tokens)
    if tokenizer.lossless:
        assert decoded == text
    else:
        assert SPACE not in decoded  # no space is counted as the three bytes of its mark


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_an_imported_model_without_a_space_piece_is_refused(model_type):
    texts = english(between="")
    tokenizer = Tokenizer(other_model(texts, 290, model_type=model_type, **LOSSLESS), name="t.model")
    assert not tokenizer.lossless
    with pytest.raises(TokenizerError, match=r"t\.model: has no piece for a space .* three bytes; use a model with"):
        tokenizer.document("the cat sat")
    ids = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model).encode("the cat sat")
    with pytest.raises(TokenizerError, match="has no piece for a space"):  # and so are shards that it made
        tokenizer.imported_document(np.array(ids))


def test_a_model_whose_decoder_gives_another_text_than_the_pieces_is_refused(monkeypatch):
    tokenizer = trained_on("tabs")
    monkeypatch.setattr(tokenizer, "_official", lambda ids: b"another text")
    with pytest.raises(TokenizerError, match="SentencePiece decodes the ids to another text: at byte 0"):
        tokenizer.document("the cat")
    assert tokenizer.document("the cat", official=False)[1] == 7


def test_a_reserved_character_in_every_training_text_is_cut_out_and_nothing_else():
    """SentencePiece drops a whole training text that holds U+2585, as progress bars in logs do."""
    texts = english()
    marked = [text + " \u2585\u2585 50 %" for text in texts]
    tokenizer = train_tokenizer(marked, 300)
    assert b" the" in tokenizer.token_bytes and tokenizer.lossless
    tokens, num_bytes = tokenizer.document(marked[0])
    assert num_bytes == len(marked[0].encode()) and tokenizer.decode(tokens) == marked[0].encode()
    with pytest.raises(TokenizerError, match=r"3 training documents hold nothing but newlines and U\+2585"):
        train_tokenizer(["\u2585", "\n", "\u2585\u2585"], 300)


def test_a_damaged_model_is_named_whatever_byte_is_wrong():
    model = bytearray(other_model(english(), 300))
    rng = random.Random(1)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(model)
        damaged[rng.randrange(min(len(model), 8000))] ^= 1 << rng.randrange(8)
        try:
            Tokenizer(bytes(damaged), name="t.model").document("the cat")
            outcomes.add("fine")
        except TokenizerError as error:
            assert str(error).startswith("t.model: ")
            outcomes.add("refused")
    assert outcomes == {"fine", "refused"}


def test_a_piece_that_is_no_utf8_is_named():
    model = other_model(english(), 300).replace("\u2581the".encode(), b"\xff\xfe\xffthe", 1)
    with pytest.raises(TokenizerError, match=r"t\.model: not a readable SentencePiece model"):
        Tokenizer(model, name="t.model")


def test_millions_of_empty_pieces_are_refused_before_they_are_allocated(monkeypatch):
    monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", None)  # not even asked
    with pytest.raises(TokenizerError, match="found more than 65,536 pieces"):
        Tokenizer(b"\x0a\x00" * 5_500_000)
    with pytest.raises(TokenizerError, match="found more than 65,536 pieces"):  # with other fields in between
        Tokenizer(b"\x0a\x00\x08\x01\x11" + b"x" * 8 + b"\x0a\x00\x15aaaa" * 70_000)


def test_a_tokenizer_of_another_kind_is_named():
    for data in (b'{"model": {"type": "BPE"}}', b"[1]"):
        with pytest.raises(TokenizerError, match=r"t\.json: found JSON, expected a SentencePiece .*byte-level, GPT-2"):
            Tokenizer(data, name="t.json")
