"""Everything that changes while training, and its way into a checkpoint and back without losing a bit.

Tensors go into the checkpoint under ``model.NAME``, ``ema.NAME`` and ``optimizer.NAME``; the rest (``Events``) is JSON,
whose floats round-trip exactly.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.models.base import LanguageModel
from golf.training.optimizers import Optimizers

__all__ = ["HISTORY_COLUMNS", "Events", "TrainState"]

HISTORY_COLUMNS = ("step", "progress", "loss", "lr_multiplier", "depth", "tokens")


@dataclass
class Events:
    """What happened so far, in plain numbers; step numbers count updates from 1."""

    step: int = 0  # finished updates
    progress: float = 0.0  # in [0, 1]
    elapsed: float = 0.0  # seconds of training, all sessions
    tokens: int = 0  # training tokens consumed
    phases: list[list[int]] = field(default_factory=list)  # [first step, repeats]
    phase_seconds: list[float] = field(default_factory=list)  # seconds in each phase
    warmdown_start: int | None = None  # first step with a multiplier below 1
    first_multiplier: float = 1.0
    last_multiplier: float = 1.0
    snapshot_steps: list[int] = field(default_factory=list)
    ema_updates: int = 0
    qat_start: int | None = None  # first step at quantized weights
    fake_quantizations: dict[str, int] = field(default_factory=dict)  # updates at quantized weights, per tensor
    data_order: str = ""  # hex SHA-256 chain over the window numbers of every step
    history: list[list[float]] = field(default_factory=list)  # rows of HISTORY_COLUMNS
    pending: list[float] = field(default_factory=list)  # losses (nats per token) since the last history row

    def begin_step(self, depth: int, multiplier: float) -> None:
        """Note what update ``step + 1`` runs with."""
        if not self.phases or self.phases[-1][1] != depth:
            self.phases.append([self.step + 1, depth])
            self.phase_seconds.append(0.0)
        if self.step == 0:
            self.first_multiplier = multiplier
        if multiplier < 1.0 and self.warmdown_start is None:
            self.warmdown_start = self.step + 1
        self.last_multiplier = multiplier

    def chain_order(self, windows: np.ndarray) -> None:
        """Add the window numbers of one step to the hash of the data order."""
        data = bytes.fromhex(self.data_order) + np.ascontiguousarray(windows, dtype="<i8").tobytes()
        self.data_order = hashlib.sha256(data).hexdigest()


class TrainState:
    """Model, optimizers, moving average and events of one run."""

    def __init__(self, model: LanguageModel, optimizers: Optimizers, *, ema_decay: float) -> None:
        self.model, self.optimizers = model, optimizers
        self.ema_decay = ema_decay
        self.weights = dict(model.state_dict())
        self.initial = {name: tensor.detach().cpu().clone() for name, tensor in self.weights.items()}
        self.ema = {name: tensor.detach().clone() for name, tensor in self.weights.items()} if ema_decay > 0 else {}
        self.clipped = torch.zeros((), device=next(iter(self.weights.values())).device)  # steps with a clipped gradient
        self.events = Events()

    @torch.no_grad()
    def update_ema(self) -> None:
        """Move the average towards the weights.

        Free of bias: after ``n`` updates the weights of update ``i`` count ``(1-d) d^(n-i) / (1 - d^n)``, the initial
        ones nothing.
        """
        if not self.ema:
            return
        self.events.ema_updates += 1
        share = (1.0 - self.ema_decay) / (1.0 - self.ema_decay**self.events.ema_updates)
        torch._foreach_lerp_(list(self.ema.values()), [self.weights[name] for name in self.ema], share)

    def to_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and meta that ``restore`` takes back."""
        tensors = {f"model.{name}": tensor for name, tensor in self.weights.items()}
        tensors.update({f"ema.{name}": tensor for name, tensor in self.ema.items()})
        tensors.update({f"optimizer.{name}": tensor for name, tensor in self.optimizers.state_tensors().items()})
        tensors["clipped"] = self.clipped
        return tensors, {"events": dataclasses.asdict(self.events)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Continue from a checkpoint made by ``to_checkpoint`` of an equal run."""
        self.events = Events(**meta["events"])
        for name, tensor in self.weights.items():
            tensor.copy_(tensors[f"model.{name}"])
        for name, tensor in self.ema.items():
            tensor.copy_(tensors[f"ema.{name}"])
        self.clipped.copy_(tensors["clipped"])
        prefix = "optimizer."
        self.optimizers.load_state_tensors(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )
