"""Hessians: sums over uses, the inverse factor, files and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from golf.base.files import FileError
from golf.quantize.hessian import HessianError, HessianSums, factorize, importance_of, load_hessians, save_hessians


def _hessian(channels: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((4 * channels, channels)) @ rng.standard_normal((channels, channels))
    return inputs.T @ inputs / len(inputs)


def test_sums_cover_all_uses_and_leading_axes() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 5, 7)), rng.standard_normal((30, 7))
    sums = HessianSums()
    sums.add("shared", first, chunk=4)
    sums.add("shared", second)  # the second use of a weight shared between depths
    flat = np.concatenate([first.reshape(-1, 7), second])
    assert sums.samples() == {"shared": 40}
    np.testing.assert_allclose(sums.means()["shared"], flat.T @ flat / 40, rtol=1e-5, atol=1e-6)


def test_sums_refuse_another_width_and_nan() -> None:
    sums = HessianSums()
    sums.add("w", np.ones((2, 3)))
    with pytest.raises(HessianError, match="w: found 4 input channels, expected 3"):
        sums.add("w", np.ones((2, 4)))
    with pytest.raises(HessianError, match="w: its input activations hold NaN"):
        sums.add("w", np.full((1, 3), np.nan))


@pytest.mark.parametrize("channels", [1, 2, 31, 33, 130, 257])
def test_factor_is_the_upper_cholesky_factor_of_the_inverse(channels: int) -> None:
    h = _hessian(channels)
    factor = factorize(h, damping=0.02)
    damped = h + 0.02 * np.diag(h).mean() * np.eye(channels)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    np.testing.assert_allclose(factor.importance, 1 / np.diag(upper), rtol=1e-5)
    np.testing.assert_allclose(factor.feedback, np.triu(upper / np.diag(upper)[:, None], 1), rtol=1e-4, atol=1e-5)
    assert factor.order.tolist() == list(range(channels)) and not factor.dead.any()


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("channels", [1, 33, 257])
def test_importance_alone_has_the_bits_of_that_of_the_whole_factor(channels: int, act_order: bool) -> None:
    h = _hessian(channels)
    if channels > 1:
        h[1, :] = h[:, 1] = 0.0
    whole = factorize(h, damping=0.02, act_order=act_order).importance_in_storage_order()
    alone = importance_of(h, damping=0.02, act_order=act_order)
    assert alone.dtype == np.float32 and alone.tobytes() == whole.tobytes()


def test_identity_has_no_feedback() -> None:
    factor = factorize(np.eye(40), damping=0.01)
    assert not factor.feedback.any()
    np.testing.assert_allclose(factor.importance, np.sqrt(1.01), rtol=1e-6)


def test_act_order_puts_the_largest_diagonal_first() -> None:
    h = _hessian(20)
    factor = factorize(h, act_order=True)
    assert (np.diff(np.diag(h)[factor.order]) <= 0).all()
    plain = factorize(h[np.ix_(factor.order, factor.order)])
    np.testing.assert_array_equal(factor.feedback, plain.feedback)
    np.testing.assert_array_equal(factor.importance_in_storage_order()[factor.order], factor.importance)


def test_dead_channels_are_marked_and_leave_the_others_alone() -> None:
    h = _hessian(6)
    h[2, :] = h[:, 2] = 0
    factor = factorize(h, damping=0.01)
    alive = [0, 1, 3, 4, 5]
    assert factor.dead.tolist() == [False, False, True, False, False, False]
    assert not factor.feedback[2].any() and not factor.feedback[:, 2].any()
    small = factorize(h[np.ix_(alive, alive)], damping=0.01)
    np.testing.assert_allclose(factor.importance[alive], small.importance, rtol=1e-6)


@pytest.mark.parametrize(
    ("h", "damping", "message"),
    [
        (np.ones((2, 3)), 0.01, "layer: found shape \\(2, 3\\), expected a square matrix"),
        (np.full((2, 2), np.inf), 0.01, "layer: holds NaN or infinity; re-run calibrate"),
        (np.zeros((2, 2)), 0.01, "layer: no input channel was ever active"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), 0.01, "layer: not positive definite; raise the damping"),
        (np.eye(2), -0.1, "damping: found -0.1"),
    ],
)
def test_errors_name_the_hessian(h: np.ndarray, damping: float, message: str) -> None:
    with pytest.raises(HessianError, match=message):
        factorize(h, damping=damping, name="layer")


def test_files_round_trip_with_the_same_bytes(tmp_path: Path) -> None:
    hessians = {"b": _hessian(3), "a": _hessian(4)}
    for name in ("one", "two"):
        save_hessians(tmp_path / name, hessians, {"samples": {"a": 5, "b": 6}, "text": "train"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded, meta = load_hessians(tmp_path / "one")
    assert meta == {"samples": {"a": 5, "b": 6}, "text": "train"}
    for name, h in hessians.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], h.astype(np.float32))


def test_file_errors(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="it is made by stage calibrate"):
        load_hessians(tmp_path / "none")
    with pytest.raises(HessianError, match="w: found shape \\(2, 3\\)"):
        save_hessians(tmp_path / "bad", {"w": np.ones((2, 3))}, {})
