"""Every key under ``train:`` and ``model:`` changes what training produces; a key that does not is dead.

Public runs configured weight averaging, QAT and embedding rates that no code read. Exempt keys carry their reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.base.params import from_dict
from golf.models.registry import build_model, config_from_dict
from golf.training.checkpoint import open_checkpoints
from golf.training.compiling import has_bf16
from golf.training.config import TrainConfig
from golf.training.loop import Trainer
from golf.training.outputs import history_tsv

OTHER_TRAIN: dict[str, Any] = {
    "seed": 2,
    "iterations": 4,
    "budget_seconds": 1e-6,  # ends after one step
    "tokens_per_step": 32,
    "sequence_length": 8,
    "depth_phases": [[0.3, 2], [1.0, 2]],
    "warmdown": 0.6,
    "warmdown_shape": "cosine",
    "matrix_lr": 0.03,
    "embedding_lr": 0.03,
    "control_lr": 0.03,
    "weight_decay": 0.5,
    "momentum": 0.9,
    "momentum_start": 0.5,
    "momentum_warmup_steps": 1,
    "grad_clip": 1e-4,
    "snapshot_every": 0.9,
    "snapshot_below": 0.1,
    "ema_decay": 0.5,
    "precision": "fp32",
    "muon_coefficients": "polar_express",
    "muon_row_norm": True,
    "newton_schulz_precision": "bf16",
    "warmdown_floor": 0.3,
    "adam": {"beta2": 0.9, "embedding_decay": 0.0, "control_decay": 0.0},
    "qat": {"below": 0.7, "clip": 12.85, "levels": {"embedding": 31, "attention": 31, "mlp": 31}},
}
EXEMPT = {
    "micro_batch_tokens": "only splits the batch; test_gradient_accumulation covers it",
    "compile": "the same numbers, sooner; test_failed_compilation covers it",
    "allow_slow": "whether to go on, on GPUs; test_ready covers it",
    "checkpoint_seconds": "when to save, not what is learned; the kill test covers it",
    "log_seconds": "how often to print",
    "live": "where the curves go; test_points_reach_dvclive covers it",
    "context_phases": "of the family record alone; test_every_key_of_the_record_model_acts covers it",
}
OTHER_MODEL: dict[str, Any] = {
    "width": 24,
    "blocks": 1,
    "repeats": 3,
    "heads": 4,
    "kv_heads": 2,
    "mlp_ratio": 3.0,
    "value_tables": 2,
    "cross_repeat_skip": False,
    "xsa_last": 0,
    "negative_slope": 0.1,
    "softcap": 5.0,
    "rope_base": 100.0,
    "qk_gain": 3.0,
    "norm_eps": 1e-2,
}
RECORD_MODEL: dict[str, Any] = {
    "family": "record", "width": 24, "layers": 4, "loop": [1, 1], "repeats": 2, "untied": False, "lanes_from": 3,
    "heads": 2, "kv_heads": 1, "rope_dims": 4, "rope_base": 10000.0, "qk_gain": 1.5, "exclusive": True,
    "layer_scale": True, "skips": True, "gate_width": 4, "smear_width": 4, "hash_rows": 20, "hash_width": 4,
    "mlp_ratio": 2.0, "negative_slope": 0.5, "bos_id": 1, "softcap": 30.0, "norm_eps": 1e-6,
}  # fmt: skip
OTHER_RECORD: dict[str, Any] = {
    "width": 32, "layers": 5, "loop": [1, 2], "repeats": 3, "untied": True, "lanes_from": 4, "heads": 3, "kv_heads": 2,
    "rope_dims": 8, "rope_base": 100.0, "qk_gain": 3.0, "exclusive": False, "layer_scale": False, "skips": False,
    "gate_width": 0, "smear_width": 0, "hash_rows": 10, "hash_width": 5, "mlp_ratio": 3.0, "negative_slope": 0.1,
    "bos_id": 2, "softcap": 4.0, "norm_eps": 1e-2,
}  # fmt: skip
FLAT_MODEL: dict[str, Any] = {
    "family": "transformer", "width": 16, "layers": 3, "heads": 2, "kv_heads": 1, "mlp_ratio": 2.0, "unet_skips": True,
    "negative_slope": 0.0, "softcap": 30.0, "rope_base": 10000.0, "qk_gain": 1.5, "norm_eps": 1e-6,
}  # fmt: skip
OTHER_FLAT: dict[str, Any] = {
    "width": 24, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_ratio": 3.0, "unet_skips": False, "negative_slope": 0.5,
    "softcap": 5.0, "rope_base": 100.0, "qk_gain": 3.0, "norm_eps": 1e-2,
}  # fmt: skip
BASE_TRAIN = {
    "iterations": 5, "tokens_per_step": 64, "depth_phases": [[0.3, 1], [1.0, 2]], "momentum_warmup_steps": 3,
    "snapshot_every": 0.2, "snapshot_below": 0.9, "warmdown": 0.8, "ema_decay": 0.9,
}  # fmt: skip


class Stream:
    """1,000 random tokens."""

    num_tokens = 1000
    tokens = np.random.default_rng(0).integers(0, 64, num_tokens).astype(np.uint16)

    def read(self, start: int, length: int) -> np.ndarray:
        return self.tokens[start : start + length]


@pytest.fixture(scope="module")
def cache() -> dict[str, str]:
    return {}


@pytest.fixture
def fingerprint(sections: dict[str, dict[str, Any]], cache: dict[str, str]) -> Callable[..., str]:
    """Hash of everything a short run produces with some keys changed."""

    def run(train: dict[str, Any], model: dict[str, Any]) -> str:
        key = json.dumps([train, model])
        if key not in cache:
            cache[key] = _run({**sections["train"], **BASE_TRAIN, **train}, {**sections["model"], **model})
        return cache[key]

    return run


def _run(train: dict[str, Any], model: dict[str, Any]) -> str:
    config = from_dict(TrainConfig, train)
    torch.manual_seed(config.seed)
    built = build_model(config_from_dict(model), 64)
    with torch.no_grad():  # the model's zero-initialized scales hide some keys for the first steps
        generator = torch.Generator().manual_seed(9)
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    with tempfile.TemporaryDirectory() as folder, open_checkpoints(Path(folder)) as checkpoints:
        trainer = Trainer(
            built, config, source=Stream(), checkpoints=checkpoints, base_meta={}, log=lambda line: None
        )  # fmt: skip
        state = trainer.run().state
    digest = hashlib.sha256(history_tsv(state.events.history).encode())
    digest.update(json.dumps(state.events.snapshot_steps).encode())
    for tensors in (state.weights, state.ema):
        for name in sorted(tensors):
            digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def test_runs_repeat_exactly(sections: dict[str, dict[str, Any]]) -> None:
    train = {**sections["train"], **BASE_TRAIN}
    assert _run(train, sections["model"]) == _run(train, sections["model"])


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(TrainConfig)])
def test_every_train_key_acts(fingerprint: Callable[..., str], key: str) -> None:
    if key in EXEMPT:
        assert key not in OTHER_TRAIN
        return
    if key == "precision" and not has_bf16(torch.device("cpu")):
        pytest.skip("this CPU has no bf16, both values mean fp32")
    extra = {"micro_batch_tokens": 32} if key == "tokens_per_step" else {}
    assert fingerprint({key: OTHER_TRAIN[key], **extra}, {}) != fingerprint({}, {})


@pytest.mark.parametrize(
    "change",
    [
        {"below": 0.3},
        {"clip": 6.0},
        *({"levels": {**OTHER_TRAIN["qat"]["levels"], role: 15}} for role in ("embedding", "attention", "mlp")),
    ],
    ids=["below", "clip", "levels.embedding", "levels.attention", "levels.mlp"],
)
def test_every_key_of_late_qat_acts(fingerprint: Callable[..., str], change: dict[str, Any]) -> None:
    base = OTHER_TRAIN["qat"]
    assert fingerprint({"qat": {**base, **change}}, {}) != fingerprint({"qat": base}, {})


@pytest.mark.parametrize("change", [{"beta2": 0.9}, {"embedding_decay": 0.5}, {"control_decay": 0.5}], ids=str)
def test_every_key_of_adam_acts(fingerprint: Callable[..., str], change: dict[str, Any]) -> None:
    base = {"beta2": 0.95, "embedding_decay": 0.0, "control_decay": 0.0}
    assert fingerprint({"adam": base | change}, {}) != fingerprint({}, {})


def test_every_model_key_is_tried(sections: dict[str, dict[str, Any]]) -> None:
    assert set(OTHER_MODEL) == set(sections["model"]) - {"family"}


@pytest.mark.parametrize("key", sorted(OTHER_MODEL))
def test_every_model_key_acts(fingerprint: Callable[..., str], key: str) -> None:
    extra = {"heads": 4} if key == "kv_heads" else {}
    phases = {"depth_phases": []} if key == "repeats" else {}
    assert fingerprint(phases, {**extra, key: OTHER_MODEL[key]}) != fingerprint(phases, extra)


def test_every_key_of_the_flat_model_acts(sections: dict[str, dict[str, Any]]) -> None:
    assert set(OTHER_FLAT) == set(FLAT_MODEL) - {"family"}
    train = {**sections["train"], **BASE_TRAIN, "depth_phases": [], "iterations": 3, "momentum_warmup_steps": 2}
    seen = {key: _run(train, {**FLAT_MODEL, key: value}) for key, value in {**OTHER_FLAT, "softcap": 4.0}.items()}
    seen["nothing"] = _run(train, FLAT_MODEL)
    assert len(set(seen.values())) == len(seen)


def test_every_key_of_the_record_model_acts(sections: dict[str, dict[str, Any]]) -> None:
    assert set(OTHER_RECORD) == set(RECORD_MODEL) - {"family"}
    train = {**sections["train"], **BASE_TRAIN, "depth_phases": [], "iterations": 3, "momentum_warmup_steps": 2}
    seen = {key: _run(train, {**RECORD_MODEL, key: value}) for key, value in OTHER_RECORD.items()}
    seen["nothing"] = _run(train, RECORD_MODEL)
    for phases in ([[1.0, 8]], [[0.5, 4], [1.0, 16]]):
        seen[f"context_phases {phases}"] = _run({**train, "context_phases": phases}, RECORD_MODEL)
    assert len(set(seen.values())) == len(seen)


def test_a_context_for_a_family_that_has_none_is_refused(sections: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"train.context_phases: expected \[\], Transformer attends to the whole"):
        _run({**sections["train"], **BASE_TRAIN, "depth_phases": [], "context_phases": [[1.0, 8]]}, FLAT_MODEL)
