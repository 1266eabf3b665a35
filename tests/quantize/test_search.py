"""The search of the step scale: it ends below the target, near it, and says so when it cannot."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.quantize.fit import RANGE_OCTAVES, TOLERANCE, Probe, TargetError, search_scale

WEIGHTS = 1_000_000


def size(octaves: float) -> int:
    """A million weights of unit variance: bits fall linearly, then fade out; and some fixed bytes."""
    return 40_000 + int(WEIGHTS / 8 * math.log2(1 + 2 ** (2 * (4.0 - octaves))) / 2)


@settings(deadline=None, max_examples=60)
@given(share=st.floats(0.03, 0.97), start=st.floats(-2, 2))
def test_it_ends_within_the_tolerance_below_the_target(share: float, start: float) -> None:
    low, high = size(RANGE_OCTAVES), size(-RANGE_OCTAVES)
    target = int(low + share * (high - low))
    found = search_scale(size, target, bytes_per_octave=WEIGHTS / 8, start=start)
    assert target * (1 - TOLERANCE) <= found.best.total_bytes <= target
    assert found.best.total_bytes == size(found.best.octaves)
    assert found.best in found.probes and len(found.probes) <= 12


def test_sizes_that_jump_end_at_the_largest_below() -> None:
    """Where sizes come in steps of 10,000 bytes nothing lies within the tolerance; the nearest step below is taken."""
    found = search_scale(lambda x: size(x) // 10_000 * 10_000, 305_000, bytes_per_octave=WEIGHTS / 8)
    assert found.best.total_bytes == 300_000


def test_noise_does_not_matter() -> None:
    def noisy(octaves: float) -> int:
        return size(octaves) + int(900 * math.sin(1e5 * octaves))

    found = search_scale(noisy, 400_000, bytes_per_octave=WEIGHTS / 8)
    assert 399_200 <= found.best.total_bytes <= 400_000


def test_a_target_below_the_coarsest_is_named() -> None:
    with pytest.raises(TargetError, match=r"target_bytes: found \d+ bytes with steps 32 times .* the coarsest"):
        search_scale(size, 41_000, bytes_per_octave=WEIGHTS / 8)


def test_a_target_that_the_model_cannot_use_is_named() -> None:
    with pytest.raises(TargetError, match=r"found \d+ bytes with steps 1/32 .* this model cannot use so many"):
        search_scale(size, 10_000_000, bytes_per_octave=WEIGHTS / 8)


def test_sizes_that_do_not_fall_are_named() -> None:
    """Not the case of any coder; a search must still end."""
    with pytest.raises(TargetError, match="coarsest tried|do not fall"):
        search_scale(lambda octaves: 1000 + int(octaves * 10), 900, bytes_per_octave=100)


def test_the_first_probe_may_do() -> None:
    found = search_scale(size, size(0.25), bytes_per_octave=WEIGHTS / 8, start=0.25)
    assert found.probes == (Probe(0.25, size(0.25)),)
