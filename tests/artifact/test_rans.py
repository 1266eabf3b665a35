from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.artifact.bytes import ArtifactError
from golf.artifact.coders import CODERS, SideInfo, encode_smallest
from golf.artifact.rans import build_table, decode, encode, normalize
from golf.quantize.rounding import entropy_bits
from golf.report.baselines import integer_sizes, packed_bits

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "rans.json"


def info(rows: int, columns: int) -> SideInfo:
    return SideInfo("w", rows, columns, np.ones(rows, np.float16), None)


def golden_values(seed: int, count: int, width: int) -> np.ndarray:
    """A bell of integers from a 32-bit linear congruence: the same numbers wherever the test runs."""
    state, out = seed, np.zeros(count, np.int64)
    for i in range(count):
        for _ in range(4):
            state = (state * 1664525 + 1013904223) % 2**32
            out[i] += (state >> 16) % width
    return (out - 2 * width).astype(np.int16)


@pytest.mark.parametrize("width", [2, 16, 100, 600])
def test_golden_bytes(width: int) -> None:
    """The bytes of format version 1: if this fails, old artifacts no longer decode."""
    values = golden_values(width, 4000, width).reshape(40, 100)
    coder = CODERS[1]
    side, payload = coder.encode(values, info(40, 100))
    found = {
        "side": hashlib.sha256(side).hexdigest(),
        "payload": hashlib.sha256(payload).hexdigest(),
        "first_words": payload[:16].hex(),
        "payload_bytes": len(payload),
    }
    assert found == json.loads(GOLDEN.read_text())[str(width)]
    assert (coder.decode(side, payload, info(40, 100)) == values).all()


@given(
    st.lists(st.integers(-32768, 32767), min_size=0, max_size=120),
    st.integers(0, 3),
    st.sampled_from(["raw", "rans"]),
)
def test_every_coder_gives_the_integers_back(values: list[int], shrink: int, name: str) -> None:
    flat = np.array(values, np.int16) >> (4 * shrink)
    shaped = flat.reshape(len(values), 1)
    coded = encode_smallest(shaped, info(len(values), 1), coders=[name])
    again = CODERS[coded.coder].decode(coded.side, coded.payload, info(len(values), 1))
    assert again.dtype == np.int16 and (again == shaped).all()


def test_raw_pieces_join_at_whole_bytes() -> None:
    values = (np.arange((1 << 20) + 13) % 37 - 18).astype(np.int16).reshape(1, -1)
    coded = encode_smallest(values, info(*values.shape), coders=["raw"])
    assert len(coded.payload) == (values.size * 6 + 7) // 8
    assert (CODERS[0].decode(coded.side, coded.payload, info(*values.shape)) == values).all()


def test_big_tensor_costs_at_most_a_thousandth_above_entropy() -> None:
    values = np.rint(np.random.default_rng(1).normal(0, 2.4, (1000, 400))).astype(np.int16)
    coded = encode_smallest(values, info(1000, 400), coders=["rans", "raw"])
    assert coded.coder == 1
    assert coded.num_bytes <= 1.001 * entropy_bits(values) / 8


def test_outliers_are_kept_exactly_and_cost_little() -> None:
    values = np.rint(np.random.default_rng(2).normal(0, 2.4, (500, 100))).astype(np.int16)
    plain = encode_smallest(values, info(500, 100), coders=["rans"]).num_bytes
    values[3, 7], values[400, 0] = 32767, -32768
    coded = encode_smallest(values, info(500, 100), coders=["rans"])
    assert coded.num_bytes < plain + 40
    assert (CODERS[1].decode(coded.side, coded.payload, info(500, 100)) == values).all()


def test_uniform_noise_falls_back_to_packed_bits() -> None:
    values = np.random.default_rng(3).integers(-32768, 32768, (50, 40)).astype(np.int16)
    assert encode_smallest(values, info(50, 40), coders=["rans", "raw"]).coder == 0


def test_constant_tensor_needs_no_payload() -> None:
    assert encode_smallest(np.full((9, 9), 5, np.int16), info(9, 9), coders=["rans"]).payload == b""
    with pytest.raises(ArtifactError, match="a constant tensor needs none"):
        decode(b"\1\0\0\0", 81, np.array([65536]), what="w")


def test_unknown_coder_is_named() -> None:
    with pytest.raises(ValueError, match=r"found \['huffman'\], expected at least one of raw, rans"):
        encode_smallest(np.zeros((1, 1), np.int16), info(1, 1), coders=["huffman"])


def test_damaged_words_are_noticed() -> None:
    values = golden_values(5, 2000, 16)
    table = build_table(values)
    symbols = values.astype(np.int32) - table.offset
    words = encode(symbols, table.frequencies)
    for damaged, message in (
        (words[:-4], "does not end|last of"),
        (words + b"\1\0\0\0", "does not end"),
        (words[:-1], "expected a multiple of 4"),
        (words[:-4] + b"\0\0\0\0", "last of .* is 0"),
    ):
        try:
            again = decode(damaged, 2000, table.frequencies, what="w")
        except ArtifactError as error:
            assert error.cause == "payload"
            assert re.search(message, str(error))
        else:  # a truncated stream may end in an empty state by chance, never with the same symbols
            assert not (again == symbols).all()


def test_strided_input_is_fine() -> None:
    values = np.arange(20, dtype=np.int32)[::2] % 4
    frequencies = normalize(np.bincount(values, minlength=4))
    assert (decode(encode(values, frequencies), 10, frequencies, what="w") == values).all()


def test_comparison_table_reads_one_byte_per_symbol() -> None:
    rng = np.random.default_rng(4)
    narrow = np.rint(rng.normal(0, 6, (200, 100))).astype(np.int16)
    wide = narrow * 50
    sizes = integer_sizes([narrow], threads=2)
    assert set(sizes) >= {"raw", "zlib", "zstd", "xz"}
    assert sizes["raw"] == 200 * 100 * 6 // 8
    assert all(entropy_bits(narrow) / 8 < size < narrow.size for size in sizes.values())
    assert integer_sizes([narrow, wide])["xz"] > sizes["xz"]
    assert packed_bits([wide]) > packed_bits([narrow])
