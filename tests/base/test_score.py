"""Bits per byte: one formula, and no score without text or with an impossible code length."""

from __future__ import annotations

import math

import pytest

from golf.base.score import bits_per_byte


def test_one_nat_per_byte_is_one_over_ln2_bits() -> None:
    assert bits_per_byte(1000.0, 1000) == pytest.approx(1.4426950408889634, rel=1e-15)


def test_published_numbers_of_pr_895() -> None:
    # loss 1.96078305 nats at 2.4359302 bytes per token is the published round trip of 1.16128616
    assert bits_per_byte(1.96078305 * 62_021_632, 151_080_364) == pytest.approx(1.16128616, abs=2e-6)


@pytest.mark.parametrize("num_bytes", [0, -1])
def test_no_text_has_no_score(num_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"bits per byte of {num_bytes} bytes of text is undefined"):
        bits_per_byte(1.0, num_bytes)


@pytest.mark.parametrize("nats", [math.nan, math.inf, -1e-9])
def test_impossible_code_lengths_are_refused(nats: float) -> None:
    with pytest.raises(ValueError, match="a code length is a finite number >= 0"):
        bits_per_byte(nats, 10)
