"""Case operators: every text comes back, every byte is counted, and the tokenizer says which form it has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from corpora import other_model, tokenize_config
from golf.base.files import read_json
from golf.data.case import OPERATORS, Case, apply_case, case_of, restore_case, tag, visible
from golf.data.shards import load_split
from golf.data.tokenize import tokenize_corpus
from golf.data.tokenizer import PROBE, Tokenizer, TokenizerError, train_tokenizer
from golf.verify.text import check_bytes, check_text, official_decoder

FORMS: tuple[Case, ...] = ("caseops", "caseops_merged")
TITLE, CAPITALS, NEXT, ESCAPE = OPERATORS
WORDS = "the cat Sat on a Mat AND then NASA went to see what McDonald's iPhone, the Dog. It had 1234 Bones.\n\n"

CONFIG = tokenize_config(source="jsonl", vocab_size=340)

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
hard_text = st.text(alphabet=f"aBcD  É\u00fc\u2581\u2585.\n{''.join(OPERATORS)}", max_size=24)
texts = any_text | hard_text


@pytest.fixture(scope="module", params=FORMS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer([WORDS * 40], 340, request.param)


def write(root: Path, documents: list[str]) -> None:
    (root / "data").mkdir()
    (root / "data" / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def shown(text: str) -> str:
    """Operators as in the vectors: T A C E."""
    return text.translate(str.maketrans("".join(OPERATORS), "TACE"))


def plain_case(text: str, *, before_space: bool = False) -> str:
    """The rules again, a character at a time."""
    out, at = "", 0
    while at < len(text):
        end = at
        while end < len(text) and text[end] in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
            end += 1
        run = text[at:end]
        if not run:
            out += ESCAPE * (text[at] in OPERATORS) + text[at]
            at += 1
            continue
        capitals = len(run) > 1 and all(letter.isupper() for letter in run)
        mark = CAPITALS if capitals else TITLE if run[0].isupper() else ""
        if before_space and mark and out.endswith(" "):
            out = out[:-1] + mark + " "
        else:
            out += mark
        for place, letter in enumerate(run):
            out += NEXT * (place > 0 and letter.isupper() and not capitals) + letter.lower()
        at = end
    return out


@pytest.mark.parametrize(
    ("text", "published", "merged"),
    [
        ("the_NASA", "the_Anasa", "the_Anasa"),
        ("The NASA Launch", "Tthe Anasa Tlaunch", "TtheA nasaT launch"),
        ("iPhone OpenAI", "iCphone TopenCaCi", "iCphoneT openCaCi"),
        ("McDonald's", "TmcCdonald's", "TmcCdonald's"),
        ("A", "Ta", "Ta"),
        ("I am", "Ti am", "Ti am"),
        ("HTML5", "Ahtml5", "Ahtml5"),
        ("USA's", "Ausa's", "Ausa's"),
        ("don'T STOP", "don'Tt Astop", "don'TtA stop"),
        ("x \ue001 y", "x ET y", "x ET y"),
        ("\u00dcnder \u00c9COLE", "\u00dcnder \u00c9Acole", "\u00dcnder \u00c9Acole"),
        ("The_quick-Brown FOX", "Tthe_quick-Tbrown Afox", "Tthe_quick-TbrownA fox"),
        ("eBay", "eCbay", "eCbay"),
        ("AB", "Aab", "Aab"),
        ("ABc", "TaCbc", "TaCbc"),
        ("aBC", "aCbCc", "aCbCc"),
        ("\u00c9", "\u00c9", "\u00c9"),
        ("a  The\nThe", "a  Tthe\nTthe", "a T the\nTthe"),
        ("\ue004\ue004B \ue003", "EEEETb EC", "EEEETb EC"),
    ],
)
def test_vectors(text: str, published: str, merged: str) -> None:
    assert shown(apply_case(text, "caseops")) == published
    assert shown(apply_case(text, "caseops_merged")) == merged


@given(texts)
@example("A \ue001")
@example("\ue004\ue004\ue004")
@example("ABC\ue002def Gh")
def test_both_forms_follow_the_rules_and_come_back(text: str) -> None:
    for form in FORMS:
        marked = apply_case(text, form)
        assert marked == plain_case(text, before_space=form == "caseops_merged")
        assert not any("A" <= letter <= "Z" for letter in marked)
        assert restore_case(marked.encode(), form).decode() == text


@given(hard_text, st.integers(0, 200))
def test_a_cut_off_text_restores_to_its_beginning(text: str, cut: int) -> None:
    for form in FORMS:
        part = apply_case(text, form)[:cut]
        assert text.startswith(restore_case(part.encode(), form).decode())


def test_a_long_word_takes_no_longer_than_a_short_one_for_each_letter() -> None:
    """A pattern that begins anew at each letter of a word would take hours here."""
    assert apply_case("a" * 300_000, "caseops") == "a" * 300_000
    marked = apply_case("a" * 100_000 + "B" * 100_000, "caseops")
    assert restore_case(marked.encode(), "caseops").decode() == "a" * 100_000 + "B" * 100_000


@given(texts)
@example(PROBE)
@example("\ufb01ne \u2460 \uff21")
@example("two  spaces\nNew line\tTab ")
@example("x \ue001 y")
@example("The end\ue001")
@example("\ue004\ue004\ue001\ue002A \ue003B\ue004")
@example("\u00b10.3\u00baC Measurement")
def test_ids_come_back_and_their_bytes_are_those_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    data = text.encode()
    ids, num_bytes = tokenizer.document(text)  # asks the table and SentencePiece's own decoder
    assert tokenizer.decode(ids) == data == official_decoder(tokenizer.model)(ids[1:].tolist())
    assert num_bytes == len(data) == int(tokenizer.table.token_bytes(ids).sum())
    assert int(tokenizer.table.with_space[ids].sum()) == num_bytes  # what bounds a decoder
    assert not {0, 1, 2, 3} & set(ids[1:].tolist())
    assert tokenizer.made(ids[1:])


@given(texts)
def test_coding_word_by_word_gives_the_ids_of_the_whole_text(tokenizer: Tokenizer, text: str) -> None:
    text = "".join(letter for letter in text if letter not in (*OPERATORS, "\u2581"))
    whole = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model).encode(apply_case(text, tokenizer.case))
    assert tokenizer.encode(text) == whole


def test_operators_count_no_byte_and_an_escaped_one_its_own(tokenizer: Tokenizer) -> None:
    def counted(text: str) -> list[int]:
        return list(tokenizer.table.token_bytes(tokenizer.document(text)[0]))

    assert counted("A") == [0, 1]
    assert counted("x\ue001y") == [1, 0, 1, 1, 1, 1]
    assert [count for count in counted("a\ue004") if count] == [1, 1, 1, 1]


def test_operators_are_pieces_that_merge_in_the_second_form_alone(tokenizer: Tokenizer) -> None:
    sp = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    pieces = [sp.id_to_piece(token) for token in range(sp.get_piece_size())]
    longer = [piece for piece in pieces if len(piece) > 1 and set(piece) & set(OPERATORS)]
    assert set(OPERATORS) <= set(pieces)
    assert not any("A" <= letter <= "Z" for piece in pieces[260:] for letter in piece if not piece.startswith("<0x"))
    if tokenizer.case == "caseops":
        assert [sp.piece_to_id(operator) for operator in OPERATORS] == [4, 5, 6, 7] and not longer
        assert [sp.is_byte(token) for token in (8, 263, 264)] == [True, True, False]
    else:
        assert longer and all(piece[-1] in OPERATORS for piece in longer if "\u2581" in piece)


def test_a_run_of_capitals_ends_with_its_document(tokenizer: Tokenizer) -> None:
    stream = np.concatenate([tokenizer.document(text)[0] for text in ("see NASA", "then", "The", "end")])
    assert tokenizer.decode(stream) == b"see NASAthenTheend"


def test_the_model_says_which_form_it_has(tokenizer: Tokenizer) -> None:
    assert case_of(tokenizer.model) == tokenizer.case and Tokenizer(tokenizer.model).case == tokenizer.case
    assert case_of(train_tokenizer([WORDS * 40], 340).model) == "none"
    with pytest.raises(TokenizerError, match=r"t\.model: was trained with case operators, but it changes text"):
        Tokenizer(other_model([WORDS * 40], 320) + tag(tokenizer.case), name="t.model")


def test_a_foreign_model_with_operators_of_its_own_stays_what_it_is() -> None:
    foreign = Tokenizer(other_model([WORDS * 40], 340, user_defined_symbols=list(OPERATORS)))
    assert foreign.case == "none" and not foreign.lossless


@pytest.mark.parametrize("form", FORMS)
def test_a_corpus_keeps_its_bytes(tmp_path: Path, form: Case) -> None:
    documents = [f"Document {i} of NASA: {WORDS * (1 + i % 3)} \ue001 McX{'y' * i}" for i in range(40)]
    write(tmp_path, documents)
    manifest = tokenize_corpus(replace(CONFIG, case=form), tmp_path)
    folder = tmp_path / "artifacts/tokens"
    assert manifest["divisor"] == "raw" and read_json(folder / "manifest.json", made_by="x")["config"]["case"] == form
    tokenizer, val = Tokenizer.from_file(folder / "tokenizer.model"), load_split(folder / "val")
    parts = np.split(val.tokens, val.doc_starts[1:])
    assert tokenizer.case == form
    decode = official_decoder(tokenizer.model)
    assert check_bytes(tokenizer.table.token_bytes, decode, iter(parts), val.doc_bytes).passed
    assert check_text(decode, iter(parts), manifest, found="raw", split="val").passed
    given = replace(CONFIG, tokenizer="artifacts/tokens/tokenizer.model")
    with pytest.raises(TokenizerError, match=rf"tokenizer\.model: was trained with case {form}; set tokenize\.case to"):
        tokenize_corpus(given, tmp_path)


def test_without_operators_nothing_says_so(tmp_path: Path) -> None:
    """Outputs of the default are what they were before there were operators."""
    write(tmp_path, [f"Document {i} of NASA: {WORDS} {'y' * i}" for i in range(40)])
    manifest = tokenize_corpus(CONFIG, tmp_path)
    assert "case" not in manifest["config"]
    assert Tokenizer.from_file(tmp_path / "artifacts/tokens/tokenizer.model").case == "none"


def test_operators_are_arrows_for_people() -> None:
    assert visible(" the\ue001".encode()).decode() == " the\u2191" and visible(b"\xee\x80") == b"\xee\x80"
