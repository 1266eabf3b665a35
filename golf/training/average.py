"""Averaged weights, and what averaging is worth on held-out text of the training side.

Shapes: ``B`` windows, ``L`` tokens of a window. Public logs of the snapshot average (parameter-golf PR #895) compare it
with earlier raw validation losses, never with the final raw weights; here all three are scored on the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from golf.base.errors import GolfError
from golf.base.files import FileError, require
from golf.base.params import Natural, Size
from golf.base.progress import bar
from golf.models.base import LanguageModel
from golf.models.registry import load_weights, model_of
from golf.training.compiling import autocast

__all__ = [
    "AverageConfig",
    "Trained",
    "average_weights",
    "available_kinds",
    "heldout_loss",
    "least_loss",
    "load_model",
    "mean_of",
    "snapshot_paths",
]

_MADE_BY = "`python -m stages.train`"


@dataclass(frozen=True)
class AverageConfig:
    """Which weights go on to the quantizer."""

    kind: Literal["best", "mean", "ema", "raw"]  # least held-out loss, mean of the snapshots, moving average, final
    last: Natural  # snapshots averaged, counted from the last; 0: all


@dataclass(frozen=True)
class Trained:
    """What is read of the metadata of trained weights, beside what describes the model."""

    sequence_length: Size  # tokens of a sequence in training


def snapshot_paths(folder: str | Path, last: int = 0) -> list[Path]:
    """The last ``last`` (0: all) snapshot files of a training run, oldest first.

    Raises ``FileError`` when there are none, ``GolfError`` when fewer than ``last``.
    """
    paths = sorted(require(folder, made_by=_MADE_BY).glob("snapshot_*.safetensors"))
    if not paths:
        raise FileError(
            f"{folder}: found no snapshot_*.safetensors; train with train.snapshot_below above 0 or set average.kind"
        )
    if last > len(paths):
        raise GolfError(f"average.last: found {last}, expected at most {len(paths)}, the snapshots in {folder}")
    return paths[-last:] if last else paths


def mean_of(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Mean of equally shaped weight files, summed in float64 and returned as float32."""
    total: dict[str, Tensor] = {}
    for path in paths:
        tensors, _ = load_weights(path, made_by=_MADE_BY)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        if total and shapes != {name: tensor.shape for name, tensor in total.items()}:
            raise FileError(f"{path}: not the tensors of {paths[0].name}; re-run {_MADE_BY}")
        for name, tensor in tensors.items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(paths)).float() for name, tensor in total.items()}


def average_weights(folder: str | Path, kind: str, last: int = 0) -> dict[str, Tensor]:
    """Weights of ``kind`` (``mean``, ``ema`` or ``raw``) from the outputs of ``train``, float32.

    Raises ``FileError`` naming the parameter that makes a missing file.
    """
    if kind == "mean":
        return mean_of(snapshot_paths(folder, last))
    name = "ema" if kind == "ema" else "final"
    made_by = f"{_MADE_BY} (the moving average needs train.ema_decay above 0)" if kind == "ema" else _MADE_BY
    return load_weights(Path(folder) / f"{name}.safetensors", made_by=made_by)[0]


def available_kinds(folder: str | Path) -> list[str]:
    """Of ``raw``, ``mean`` and ``ema``, in this order, the weights that the outputs of ``train`` can give."""
    folder = Path(folder)
    return ["raw"] + ["mean"] * any(folder.glob("snapshot_*")) + ["ema"] * (folder / "ema.safetensors").exists()


def least_loss(losses: Mapping[str, float]) -> str:
    """The kind of weights with the least held-out loss; of equals the first. Raises ``GolfError`` for none finite."""
    finite = {kind: loss for kind, loss in losses.items() if np.isfinite(loss)}
    if not finite:
        raise GolfError(f"average.kind best: found held-out losses {dict(losses)}, expected one that is finite")
    return min(finite, key=finite.__getitem__)


def load_model(meta: Mapping[str, Any], weights: Mapping[str, Tensor], path: str | Path = "weights") -> LanguageModel:
    """The model of the ``meta`` of the file ``path`` with ``weights`` loaded, at full depth, for scoring."""
    return model_of(meta, weights, path=path, made_by=_MADE_BY).eval().requires_grad_(False)


@torch.no_grad()
def heldout_loss(
    model: LanguageModel,
    tokens: np.ndarray,
    *,
    length: int,
    batch: int = 32,
    precision: Literal["bf16", "fp32"] = "fp32",
) -> float:
    """Mean nats per token of ``tokens`` (N,) in windows of ``length`` tokens, every token but the first a target once.

    Raises ``GolfError`` when there is no target.
    """
    if len(tokens) < 2:
        raise GolfError(f"the held-out split has {len(tokens)} tokens, expected at least 2; raise holdout_fraction")
    stream = torch.from_numpy(tokens.astype(np.int64))
    device = model.token_embedding.device
    whole = (len(stream) - 1) // length * length
    inputs, targets = stream[:whole].view(-1, length), stream[1 : whole + 1].view(-1, length)
    pieces = list(zip(inputs.split(batch), targets.split(batch), strict=True)) if whole else []
    if whole < len(stream) - 1:
        pieces.append((stream[None, whole:-1], stream[None, whole + 1 :]))
    total = torch.zeros((), dtype=torch.float64, device=device)  # read once, at the end
    with bar(what="held-out loss", total=len(stream) - 1, unit="tok") as shown, autocast(precision, device):
        for ids, wanted in pieces:
            total += model.loss(ids.to(device), wanted.to(device)).double() * wanted.numel()
            shown.update(wanted.numel())
    return float(total) / (len(stream) - 1)
