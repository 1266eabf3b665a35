"""A tiny split, model and parameter file for training tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf.base.files import write_json
from golf.data.shards import ShardWriter
from tiny import recurrent

MODEL = recurrent(xsa_last=2)
TRAIN = {
    "seed": 1, "iterations": 24, "budget_seconds": 0.0, "tokens_per_step": 64, "sequence_length": 16,
    "micro_batch_tokens": 64, "depth_phases": [[0.5, 1], [1.0, 2]], "warmdown": 0.5, "warmdown_shape": "linear",
    "matrix_lr": 0.02, "embedding_lr": 0.02, "control_lr": 0.02, "weight_decay": 0.04, "momentum": 0.95,
    "momentum_start": 0.85, "momentum_warmup_steps": 4, "grad_clip": 0.3, "snapshot_every": 0.05, "snapshot_below": 0.6,
    "ema_decay": 0.9, "muon_coefficients": "quintic", "muon_row_norm": False, "newton_schulz_precision": "auto",
    "qat": {"below": 0.0, "clip": 12.85, "levels": {"embedding": 31, "attention": 31, "mlp": 31}}, "live": False,
    "context_phases": [], "warmdown_floor": 0.0, "adam": {"beta2": 0.95, "embedding_decay": 0.0, "control_decay": 0.0},
    "precision": "bf16", "compile": False, "allow_slow": False, "checkpoint_seconds": 60.0, "log_seconds": 60.0,
}  # fmt: skip


@pytest.fixture
def sections() -> dict[str, dict[str, Any]]:
    """Fresh parameter sections that a test may change."""
    return {"model": dict(MODEL), "train": copy.deepcopy(TRAIN), "average": {"kind": "mean", "last": 0}}


def _write_split(folder: Path, documents: int) -> None:
    rng = np.random.default_rng(documents)
    writer = ShardWriter(folder, vocab_size=64, bos_id=1, tokenizer_sha256="none")
    for _ in range(documents):
        writer.add([1, *(np.cumsum(rng.integers(0, 3, 120)) % 60 + 4).tolist()], 200)
    writer.close()


@pytest.fixture
def workspace(tmp_path: Path, sections: dict[str, dict[str, Any]]) -> Callable[[], Path]:
    """A function that writes the sections to ``params.json`` of a folder with token shards and returns the folder."""
    for name, documents in (("train", 20), ("holdout", 2)):
        _write_split(tmp_path / "artifacts/tokens" / name, documents)
    write_json(tmp_path / "artifacts/tokens/manifest.json", {"vocab_size": 64})

    def write() -> Path:
        write_json(tmp_path / "params.json", sections)
        return tmp_path

    return write
