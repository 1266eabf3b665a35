"""Integer tables against libm, their symmetry, and their exact content."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from golf.artifact.binary import CDF_LIMIT, CDF_STEPS, normal_cdf, squash_table, stretch_table


def test_stretch_is_the_logit() -> None:
    p = (np.arange(4096) + 0.5) / 4096
    exact = np.clip(256 * np.log(p / (1 - p)), -2047, 2047)
    assert np.abs(stretch_table() - exact).max() <= 0.5 + 1e-9
    assert np.array_equal(stretch_table(), -stretch_table()[::-1])


def test_squash_is_the_logistic_and_a_probability() -> None:
    exact = 65536 / (1 + np.exp(-(np.arange(4096) - 2048) / 256))
    assert np.abs(squash_table() - exact)[1:].max() <= 0.5 + 1e-9
    assert squash_table().min() > 0 and squash_table().max() < 65536 and (np.diff(squash_table()) >= 0).all()


def test_normal_cdf_matches_the_error_function() -> None:
    z = np.arange(2 * CDF_LIMIT * CDF_STEPS + 1) / CDF_STEPS - CDF_LIMIT
    exact = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in z])
    assert np.abs(normal_cdf() / 2**28 - exact).max() < 4e-9
    assert (np.diff(normal_cdf()) >= 0).all() and normal_cdf()[0] == 0 and normal_cdf()[-1] == 2**28


def test_golden_tables() -> None:
    """The tables are part of the format: one changed entry makes every coded artifact unreadable."""
    content = b"".join(t.astype("<i4").tobytes() for t in (stretch_table(), squash_table(), normal_cdf()))
    assert hashlib.sha256(content).hexdigest()[:16] == "2734c3a12139a7c2"
