from __future__ import annotations

import contextlib
import io
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.artifact.bytes import ArtifactError, Reader, join_pieces, pack_block, split_pieces, unpack_block


@pytest.fixture(scope="module")
def model() -> bytes:
    import sentencepiece

    text = [f"the quick brown fox number {i} jumps over {i * i} lazy dogs\n\twith spaces" for i in range(300)]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=out,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        user_defined_symbols=["\n", "\t"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return out.getvalue()


def test_a_sentencepiece_model_comes_back_exactly_and_halves(model: bytes) -> None:
    split = split_pieces(model)
    assert split[0] == 1 and join_pieces(split) == model
    plain, ours = pack_block(model), pack_block(split, try_lzma=True)
    assert len(ours) < 0.7 * len(plain)
    reader = Reader(ours, "b")
    assert unpack_block(reader, "tokenizer") == split


@given(st.binary(max_size=60))
def test_any_other_file_comes_back_too(data: bytes) -> None:
    assert join_pieces(split_pieces(data)) == data


def test_every_truncation_comes_back_too(model: bytes) -> None:
    for cut in range(0, len(model), 97):
        assert join_pieces(split_pieces(model[:cut])) == model[:cut]


def test_a_changed_score_or_type_is_kept(model: bytes) -> None:
    at = model.index("▁quick".encode()) + len("▁quick".encode())
    assert model[at] == 0x15
    changed = model[: at + 1] + b"\1\2\3\4" + model[at + 5 :]
    split = split_pieces(changed)
    assert split[0] == 1 and join_pieces(split) == changed


@given(st.binary(min_size=1, max_size=40))
def test_parts_that_do_not_fit_are_the_named_error(data: bytes) -> None:
    with contextlib.suppress(ArtifactError):
        join_pieces(b"\1" + data)
    with pytest.raises(ArtifactError, match="form 9 is unknown"):
        join_pieces(b"\x09" + data)


def test_the_competition_tokenizer(shared_data: Path) -> None:
    path = shared_data / "fineweb" / "fineweb_1024_bpe.model"
    if not path.is_file():
        pytest.skip("no competition tokenizer here")
    data = path.read_bytes()
    split = split_pieces(data)
    assert join_pieces(split) == data
    assert len(pack_block(split, try_lzma=True)) < len(lzma.compress(data, preset=9))


def test_damaged_lzma_blocks_are_the_named_error(model: bytes) -> None:
    block = pack_block(model, try_lzma=True)
    assert block[0] == 2
    with pytest.raises(ArtifactError, match="unpack"):
        unpack_block(Reader(block[:9] + b"\xff" * (len(block) - 9), "b"), "b")
