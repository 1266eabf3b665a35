"""The byte ledger: one test per way in which published byte counts were wrong."""

from __future__ import annotations

import numpy as np
import pytest

from golf.base.files import load_numpy
from golf.data.byte_table import byte_table, piece_bytes

BOS, EOS, UNK, UNUSED, BYTE, THE, SPACE, TWO, E_ACUTE, A = range(1, 11)
PIECES = ["<pad>", "<s>", "</s>", "<unk>", "<unused>", "<0xC3>", "\u2581the", "\u2581", "\u2581\u2581", "\u00e9", "a"]


class Model:
    """A vocabulary written by hand."""

    def get_piece_size(self) -> int:
        return len(PIECES)

    def id_to_piece(self, id: int) -> str:
        return PIECES[id]

    def is_control(self, id: int) -> bool:
        return id in (0, BOS, EOS)

    def is_unknown(self, id: int) -> bool:
        return id == UNK

    def is_unused(self, id: int) -> bool:
        return id == UNUSED

    def is_byte(self, id: int) -> bool:
        return id == BYTE


@pytest.fixture
def normalizing():
    return byte_table(Model(), lossless=False)


@pytest.fixture
def lossless():
    return byte_table(Model(), lossless=True)


def count(table, *tokens: int) -> int:
    return table.num_bytes(np.array([BOS, *tokens], dtype=np.uint16))


def test_leading_space_is_counted_once(normalizing, lossless):
    for table in (normalizing, lossless):
        assert count(table, A, THE) == len("a the")
        assert int(table.base_bytes[THE]) == 3 and bool(table.has_leading_space[THE])


def test_leading_space_after_bos_is_dropped_by_a_normalizing_model_only(normalizing, lossless):
    assert count(normalizing, THE, THE) == len("the the")
    assert count(lossless, THE, THE) == len(" the the")


def test_byte_fallback_is_one_byte_not_three_and_not_six(normalizing, lossless):
    for table in (normalizing, lossless):
        assert count(table, A, BYTE) == 2
    assert piece_bytes(Model(), BYTE) == b"\xc3"


def test_bare_space_piece_is_one_byte(normalizing, lossless):
    for table in (normalizing, lossless):
        assert count(table, A, SPACE) == 2


def test_a_run_of_space_marks_is_spaces_not_three_bytes_each(normalizing, lossless):
    for table in (normalizing, lossless):
        assert count(table, A, TWO, A) == len("a  a")


def test_characters_are_counted_in_bytes(lossless):
    assert count(lossless, E_ACUTE) == 2


@pytest.mark.parametrize("token", [0, BOS, EOS, UNK, UNUSED])
def test_control_unknown_and_unused_are_no_text(normalizing, lossless, token):
    for table in (normalizing, lossless):
        assert count(table, A, token) == 1
    assert piece_bytes(Model(), token) == b""


@pytest.mark.parametrize("token", [0, BOS, EOS, UNK, UNUSED])
def test_control_unknown_and_unused_are_boundaries(normalizing, token):
    assert bool(normalizing.is_boundary[token])
    assert count(normalizing, A, token, THE) == len("a") + len("the")


def test_second_document_of_a_stream_starts_anew(normalizing):
    assert count(normalizing, THE, A, BOS, THE) == len("thea") + len("the")


def test_token_bytes_belong_to_the_targets(normalizing):
    tokens = np.array([BOS, THE, THE, BYTE, E_ACUTE], dtype=np.uint16)
    assert normalizing.token_bytes(tokens).tolist() == [3, 4, 1, 2]


def test_tables_are_saved_with_their_types(normalizing, tmp_path):
    assert normalizing.base_bytes.dtype == np.int16
    normalizing.save(tmp_path / "t.safetensors")
    arrays, _ = load_numpy(tmp_path / "t.safetensors", made_by="test")
    assert arrays["base_bytes"].tolist() == normalizing.base_bytes.tolist()
    assert arrays["is_boundary"].tolist() == normalizing.is_boundary.astype(int).tolist()
