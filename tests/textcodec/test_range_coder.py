"""The range coder against exact integer arithmetic, at its edges, and its loss."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.textcodec.range_coder import STRIPPED_WORDS, RangeDecoder, RangeEncoder, RangeError, frequencies


def naive_encode(rows: list[np.ndarray], symbols: list[int], bits: int) -> bytes:
    """The same intervals in Python's unbounded integers: low is never cut into words, so no carry exists."""
    low, width, shift = 0, (1 << 64) - 1, 64
    for counts, symbol in zip(rows, symbols, strict=True):
        below = sum(int(c) for c in counts[:symbol])
        start = width * below >> bits
        width = (width * (below + int(counts[symbol])) >> bits) - start
        low += start
        while width < 1 << 32:
            low, width, shift = low << 32, width << 32, shift + 32
    for length in range(shift // 8 + 1):
        unit = 1 << (shift - 8 * length)
        value = -(-low // unit) * unit
        if length * 8 >= shift - 64 and value < low + width:
            break
    code = value.to_bytes(shift // 8 + 1, "big")[1:].rstrip(b"\0")
    return code.ljust(4 * max(0, (shift - 64) // 32 - STRIPPED_WORDS), b"\0")


def encode(rows: list[np.ndarray], symbols: list[int], bits: int = 24) -> bytes:
    encoder = RangeEncoder(bits=bits)
    for counts, symbol in zip(rows, symbols, strict=True):
        encoder.encode(counts, symbol)
    return encoder.finish()


def decode(rows: list[np.ndarray], code: bytes, bits: int = 24) -> list[int]:
    decoder = RangeDecoder(code, bits=bits)
    symbols = [decoder.decode(counts) for counts in rows]
    decoder.finish()
    return symbols


def some_rows(seed: int, length: int, size: int, sharpness: float, bits: int) -> tuple[list[np.ndarray], list[int]]:
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((length, size))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    symbols = [int(rng.choice(size, p=p)) if rng.random() < 0.9 else int(rng.integers(size)) for p in probs]
    return [frequencies(p, bits=bits) for p in probs], symbols


@given(
    st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 50), st.sampled_from([0.1, 3.0, 30.0]),
    st.sampled_from([16, 24, 30]),
)  # fmt: skip
def test_round_trip_and_the_same_bytes_as_exact_arithmetic(
    seed: int, length: int, size: int, sharpness: float, bits: int
) -> None:
    rows, symbols = some_rows(seed, length, size, sharpness, bits)
    code = encode(rows, symbols, bits)
    assert code == naive_encode(rows, symbols, bits)
    assert decode(rows, code, bits) == symbols


def test_carry_runs_through_many_words() -> None:
    """The last symbol of a nearly full interval keeps low at 0xFFFF...; a carry then ripples through every word."""
    tiny = np.array([(1 << 24) - 1, 1], dtype=np.uint64)
    half = np.array([1 << 23, 1 << 23], dtype=np.uint64)
    for prefix in range(6):
        for tail in ([0], [1], [1, 1, 1, 1, 1, 1, 1, 1]):
            rows = [half] * prefix + [tiny] * 40 + [half] * len(tail)
            symbols = [1] * prefix + [1] * 40 + tail
            code = encode(rows, symbols)
            assert code == naive_encode(rows, symbols, 24)
            assert decode(rows, code) == symbols


def test_golden_bytes() -> None:
    """Powers of two give the bits of the prefix code 0, 10, 110, 111: 111 110 10 0 0 10 110 111, three times."""
    counts = frequencies(np.array([0.5, 0.25, 0.125, 0.125]))
    assert counts.tolist() == [1 << 23, 1 << 22, 1 << 21, 1 << 21]
    assert encode([counts] * 24, [3, 2, 1, 0, 0, 1, 2, 3] * 3).hex() == "fa2dfe8b7fa2dc"


@given(st.integers(0, 10**6), st.integers(1, 300), st.sampled_from([0.0, 1.0, 200.0]), st.sampled_from([24, 30]))
def test_frequencies_are_positive_and_sum_exactly(seed: int, size: int, sharpness: float, bits: int) -> None:
    logits = sharpness * np.random.default_rng(seed).standard_normal(size)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    counts = frequencies(probs, bits=bits)
    assert int(counts.min()) >= 1
    assert sum(map(int, counts)) == 1 << bits
    wanted = np.floor(probs * ((1 << bits) - size)) + 1
    others = np.arange(size) != int(probs.argmax())
    np.testing.assert_array_equal(counts[others], wanted[others].astype(np.uint64))


def test_a_sum_just_above_one_takes_from_the_most_likely() -> None:
    probs = np.array([0.7, 0.2, 0.1]) * (1 + 5e-6)
    assert int(frequencies(probs).sum()) == 1 << 24


def test_24_bits_cost_under_a_hundredth_of_a_percent() -> None:
    rng = np.random.default_rng(1)
    logits = 2.5 * rng.standard_normal((4000, 1024))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    encoder, bits = RangeEncoder(), 0.0
    for row in probs:
        symbol = int(rng.choice(1024, p=row))
        encoder.encode(frequencies(row), symbol)
        bits -= math.log2(row[symbol])
    assert len(encoder.finish()) * 8 <= bits * 1.0001 + 16


@pytest.mark.parametrize(
    ("row", "shown"),
    [([0.5, math.nan], "nan"), ([1.5, -0.5], "nan"), ([0.5, 0.4], "0.9"), ([math.inf, 0.0], "nan")],
)
def test_no_distribution_is_refused(row: list[float], shown: str) -> None:
    with pytest.raises(RangeError, match=f"sums to {shown}"):
        frequencies(np.array(row))


def test_too_few_bits_are_refused() -> None:
    with pytest.raises(RangeError, match="8 bits for 200 symbols"):
        frequencies(np.full(200, 1 / 200), bits=8)


def test_damage_is_refused_or_decodes_to_something_else() -> None:
    rows, symbols = some_rows(3, 200, 30, 2.0, 24)
    code = encode(rows, symbols)
    with pytest.raises(RangeError, match="bytes are left behind the last symbol"):
        decode(rows, code + bytes([7] * 12))
    with pytest.raises(RangeError, match="does not end as an encoder ends it"):
        decode(rows, code + b"\0")
    with pytest.raises(RangeError, match="no symbol has this code"):
        decode(rows, b"\xff" * len(code))
    for at in range(0, len(code), 7):
        broken = bytearray(code)
        broken[at] ^= 0x10
        with contextlib.suppress(RangeError):
            assert decode(rows, bytes(broken)) != symbols


@given(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=80))
def test_codes_that_end_in_zeros_come_back(symbols: list[int]) -> None:
    """Symbol 0 of a sixteenth leaves the low end where it is: whole words of zeros, two of which are left out."""
    counts = frequencies(np.array([1 / 16, 15 / 16]))
    rows = [counts] * (len(symbols) + 60)
    code = encode(rows, [*symbols, *[0] * 60])
    assert code == naive_encode(rows, [*symbols, *[0] * 60], 24)
    assert decode(rows, code) == [*symbols, *[0] * 60]
    with pytest.raises(RangeError, match="go on behind its end|no symbol has this code|does not end as an"):
        decode(rows, code.rstrip(b"\0") if code.endswith(b"\0") else code + b"\0")


def test_a_decoder_stops_behind_the_end_of_its_code() -> None:
    """It once read zeros for ever, and 452 bytes decoded for as long as a header wished."""
    counts = frequencies(np.array([0.5, 0.5]))
    decoder = RangeDecoder(b"\x12\x34")
    with pytest.raises(RangeError, match="the symbols go on behind its end: damaged"):
        for _ in range(300):
            decoder.decode(counts)


def test_what_a_kernel_would_index_is_checked() -> None:
    counts = frequencies(np.array([0.5, 0.5]))
    for symbol in (-1, 2):
        with pytest.raises(RangeError, match=f"symbol {symbol}, expected 0 to 1"):
            RangeEncoder().encode(counts, symbol)
    with pytest.raises(RangeError, match="expected equal shapes"):
        frequencies(np.full(4, 0.25), out=np.empty(3, np.uint64))
