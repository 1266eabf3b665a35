"""Averages and held-out losses against naive references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from golf.base.files import FileError, save_torch
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.training.average import (
    available_kinds,
    average_weights,
    heldout_loss,
    least_loss,
    load_model,
    snapshot_paths,
)


def write_snapshots(folder: Path, count: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    tensors = [torch.randn(5, 3) for _ in range(count)]
    for index, tensor in enumerate(tensors):
        save_torch(folder / f"snapshot_{index:03d}.safetensors", {"w": tensor}, {})
    return tensors


@pytest.mark.parametrize("last", [0, 1, 3])
def test_mean_of_the_last_snapshots(tmp_path: Path, last: int) -> None:
    tensors = write_snapshots(tmp_path, 12)  # more than ten: names must sort as numbers
    got = average_weights(tmp_path, "mean", last)["w"]
    want = torch.stack(tensors[-last:] if last else tensors).double().mean(0)
    assert got.dtype == torch.float32 and torch.allclose(got.double(), want, atol=1e-7)


def test_missing_weights_name_the_key_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="train.snapshot_below above 0"):
        average_weights(tmp_path, "mean")
    with pytest.raises(FileError, match="train.ema_decay above 0"):
        average_weights(tmp_path, "ema")
    write_snapshots(tmp_path, 2)
    with pytest.raises(ValueError, match="average.last: found 3, expected at most 2"):
        snapshot_paths(tmp_path, 3)


def test_the_best_weights_are_those_of_the_least_loss(tmp_path: Path) -> None:
    assert least_loss({"raw": 3.5943, "mean": 3.5994, "ema": 3.6518}) == "raw"
    assert least_loss({"raw": 3.6, "mean": 3.5, "ema": 3.5}) == "mean"  # of equals the first
    assert least_loss({"raw": float("nan"), "ema": 4.0}) == "ema"
    with pytest.raises(ValueError, match="average.kind best: found held-out losses .* expected one that is finite"):
        least_loss({"raw": float("inf")})
    assert available_kinds(tmp_path) == ["raw"]
    write_snapshots(tmp_path, 1)
    save_torch(tmp_path / "ema.safetensors", {"w": torch.zeros(1)}, {})
    assert available_kinds(tmp_path) == ["raw", "mean", "ema"]


@pytest.fixture
def model(sections: dict) -> LanguageModel:
    torch.manual_seed(0)
    built = build_model(config_from_dict(sections["model"]), 64)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


@pytest.mark.parametrize("num_tokens", [2, 9, 17, 18, 50])
def test_heldout_loss_scores_every_token_but_the_first_once(model: LanguageModel, num_tokens: int) -> None:
    tokens = np.random.default_rng(1).integers(0, 64, num_tokens).astype(np.uint16)
    total = 0.0
    for start in range(0, num_tokens - 1, 8):
        window = torch.from_numpy(tokens[start : start + 9].astype(np.int64))[None]
        with torch.no_grad():
            logits = model.logits(model.hidden(window[:, :-1]))[0]
            total += float(F.cross_entropy(logits, window[0, 1:], reduction="sum"))
    assert heldout_loss(model, tokens, length=8, batch=3) == pytest.approx(total / (num_tokens - 1), rel=1e-5)


def test_an_empty_heldout_split_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="held-out split has 1 tokens"):
        heldout_loss(model, np.zeros(1, dtype=np.uint16), length=8)


def test_load_model_restores_weights_and_leaves_the_random_state_alone(model: LanguageModel, sections: dict) -> None:
    meta = {"model": sections["model"], "vocab_size": 64}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loaded = load_model(meta, model.state_dict())
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert loaded.depth == loaded.max_depth
