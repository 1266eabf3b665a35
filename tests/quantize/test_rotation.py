"""Rotation keeps the logits of a small transformer-like model, and says what forbids it."""

from __future__ import annotations

import numpy as np
import pytest

from golf.quantize.rotation import RotationError, Side, blocking_scales, eigenbasis, fold_gain, rotate

WIDTH, HIDDEN, VOCAB = 24, 40, 50
SIDES: dict[str, Side] = {"embedding": "reads", "up": "reads", "query": "reads", "down": "writes", "out": "writes"}


def _model(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "embedding": (VOCAB, WIDTH), "up": (HIDDEN, WIDTH), "query": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN),
        "out": (WIDTH, HIDDEN),
    }  # fmt: skip
    model = {name: (rng.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    model["embedding"] *= np.exp2(rng.normal(0, 1, WIDTH)).astype(np.float32)
    return model


def _logits(
    model: dict[str, np.ndarray], gain: np.ndarray | float = 1.0, scale: np.ndarray | float = 1.0
) -> np.ndarray:
    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    x = model["embedding"][np.arange(0, VOCAB, 3)].astype(np.float64)
    x = x + scale * (np.maximum(norm(x) * gain @ model["up"].T, 0) ** 2 @ model["down"].T)
    mixed = np.tanh(norm(x) * gain @ model["query"].T)
    x = x + mixed[::-1].cumsum(0) @ model["out"].T  # mixes positions, as attention does
    return norm(x) @ model["embedding"].T


def test_logits_are_equal_and_the_embedding_is_decorrelated() -> None:
    model = _model()
    basis = eigenbasis(model["embedding"])
    rotated = rotate(model, SIDES, basis)
    np.testing.assert_allclose(_logits(rotated), _logits(model), rtol=1e-4, atol=1e-4)
    gram = rotated["embedding"].T @ rotated["embedding"]
    off = np.abs(gram - np.diag(np.diag(gram))).max()
    assert off < 1e-4 * np.diag(gram).max() and (np.diff(np.diag(gram)) <= 0).all()


def test_a_forgotten_writer_changes_the_logits() -> None:
    model = _model()
    sides = {name: side for name, side in SIDES.items() if name != "down"}
    broken = rotate(model, sides, eigenbasis(model["embedding"]))
    assert np.abs(_logits(broken) - _logits(model)).max() > 0.1


def test_a_norm_gain_is_folded_first() -> None:
    model, gain = _model(), np.linspace(0.5, 2, WIDTH)
    folded = model | {name: fold_gain(model[name], gain) for name in ("up", "query")}
    np.testing.assert_allclose(_logits(folded), _logits(model, gain), rtol=1e-4, atol=1e-4)
    rotated = rotate(folded, SIDES, eigenbasis(model["embedding"]))
    np.testing.assert_allclose(_logits(rotated), _logits(model, gain), rtol=1e-4, atol=1e-4)


def test_a_channel_scale_on_the_stream_blocks_the_rotation_unless_constant() -> None:
    model = _model()
    rotated = rotate(model, SIDES, eigenbasis(model["embedding"]))
    varied, constant = np.linspace(0.5, 2, WIDTH), np.full(WIDTH, 0.7)
    assert np.abs(_logits(rotated, scale=varied) - _logits(model, scale=varied)).max() > 0.05
    np.testing.assert_allclose(_logits(rotated, scale=constant), _logits(model, scale=constant), rtol=1e-4, atol=1e-4)
    mix = np.stack([constant, varied])
    scales = {"attn_scale": constant, "mlp_scale": varied, "resid_mix": mix}
    assert blocking_scales(scales) == ["mlp_scale", "resid_mix"]
    assert blocking_scales({"resid_mix": np.stack([constant, 2 * constant])}) == []


def test_the_basis_is_orthogonal_and_has_fixed_signs() -> None:
    embedding = _model()["embedding"]
    basis = eigenbasis(embedding)
    np.testing.assert_allclose(basis.T @ basis, np.eye(WIDTH), atol=1e-12)
    assert (basis[np.abs(basis).argmax(0), np.arange(WIDTH)] > 0).all()
    np.testing.assert_allclose(eigenbasis(-embedding[::-1]), basis, atol=1e-8)


def test_errors_name_the_tensor() -> None:
    model, basis = _model(), np.eye(WIDTH)
    with pytest.raises(RotationError, match="gone: reads the stream"):
        rotate(model, {"gone": "reads"}, basis)
    with pytest.raises(RotationError, match="up: found shape \\(40, 24\\), wanted 24 channels on the side that writes"):
        rotate(model, {"up": "writes"}, basis)
    with pytest.raises(RotationError, match="wanted an orthogonal"):
        rotate(model, SIDES, 2 * basis)
    with pytest.raises(RotationError, match="embedding: shape"):
        eigenbasis(np.full((3, 2), np.nan))
    with pytest.raises(RotationError, match="gain: found shape"):
        fold_gain(model["up"], np.ones(3))
