"""The byte ledger: one test per way in which published byte counts were wrong."""

from __future__ import annotations

import numpy as np
import pytest

from golf.data.byte_table import byte_table, piece_bytes
from golf.files import load_numpy

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
def normalising():
    return byte_table(Model(), lossless=False)


@pytest.fixture
def lossless():
    return byte_table(Model(), lossless=True)


def count(table, *tokens: int) -> int:
    return table.num_bytes(np.array([BOS, *tokens], dtype=np.uint16))


def test_leading_space_is_counted_once(normalising, lossless):
    for table in (normalising, lossless):
        assert count(table, A, THE) == len("a the")
        assert int(table.base_bytes[THE]) == 3 and bool(table.has_leading_space[THE])


def test_leading_space_after_bos_is_dropped_by_a_normalising_model_only(normalising, lossless):
    assert count(normalising, THE, THE) == len("the the")
    assert count(lossless, THE, THE) == len(" the the")


def test_byte_fallback_is_one_byte_not_three_and_not_six(normalising, lossless):
    for table in (normalising, lossless):
        assert count(table, A, BYTE) == 2
    assert piece_bytes(Model(), BYTE) == b"\xc3"


def test_bare_space_piece_is_one_byte(normalising, lossless):
    for table in (normalising, lossless):
        assert count(table, A, SPACE) == 2


def test_a_run_of_space_marks_is_spaces_not_three_bytes_each(normalising, lossless):
    for table in (normalising, lossless):
        assert count(table, A, TWO, A) == len("a  a")


def test_characters_are_counted_in_bytes(lossless):
    assert count(lossless, E_ACUTE) == 2


@pytest.mark.parametrize("token", [0, BOS, EOS, UNK, UNUSED])
def test_control_unknown_and_unused_are_no_text(normalising, lossless, token):
    for table in (normalising, lossless):
        assert count(table, A, token) == 1
    assert piece_bytes(Model(), token) == b""


@pytest.mark.parametrize("token", [0, BOS, EOS, UNK, UNUSED])
def test_control_unknown_and_unused_are_boundaries(normalising, token):
    assert bool(normalising.is_boundary[token])
    assert count(normalising, A, token, THE) == len("a") + len("the")


def test_second_document_of_a_stream_starts_anew(normalising):
    assert count(normalising, THE, A, BOS, THE) == len("thea") + len("the")


def test_token_bytes_belong_to_the_targets(normalising):
    tokens = np.array([BOS, THE, THE, BYTE, E_ACUTE], dtype=np.uint16)
    assert normalising.token_bytes(tokens).tolist() == [3, 4, 1, 2]


def test_tables_are_saved_with_their_types(normalising, tmp_path):
    assert normalising.base_bytes.dtype == np.int16
    normalising.save(tmp_path / "t.safetensors")
    arrays, _ = load_numpy(tmp_path / "t.safetensors", made_by="test")
    assert arrays["base_bytes"].tolist() == normalising.base_bytes.tolist()
    assert arrays["is_boundary"].tolist() == normalising.is_boundary.astype(int).tolist()
