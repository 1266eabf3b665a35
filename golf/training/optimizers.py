"""Which optimizer trains which tensor, and one object that steps, scales, saves and restores them together.

Groups follow ``model.role``: matrices of role attention and mlp go to Muon, embedding tables and control tensors
(vectors, scales, mixes, depth tables) to two AdamW groups with beta1 0.9, eps 1e-8 and a decay each, by default none.
Source: openai/parameter-golf PR #895.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from golf.base.errors import GolfError
from golf.models.base import LanguageModel
from golf.training.muon import Coefficients, Muon

__all__ = ["Group", "OptimizerConfig", "OptimizerSizes", "Optimizers", "group_ledger"]

Group = Literal["muon", "embedding", "control"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of both optimizers; learning rates are those at multiplier 1.

    Raises ``ValueError`` naming the key for a negative rate or decay, or a momentum outside [0, 1).
    """

    matrix_lr: float = 0.02
    embedding_lr: float = 0.02
    control_lr: float = 0.02
    weight_decay: float = 0.04  # of the matrices, per step and unit of learning rate
    momentum: float = 0.95
    coefficients: Coefficients = "quintic"
    row_norm: bool = False
    newton_schulz_steps: int = 5
    newton_schulz_precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    beta2: float = 0.95  # of AdamW
    embedding_decay: float = 0.0  # of the tables, as weight_decay
    control_decay: float = 0.0  # of all that is neither matrix nor table, as weight_decay

    def __post_init__(self) -> None:
        for name in ("matrix_lr", "embedding_lr", "control_lr", "weight_decay", "embedding_decay", "control_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected 0 or more")
        for name in ("momentum", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected 0 up to, not including, 1")


@dataclass(frozen=True)
class OptimizerSizes:
    """Bytes on every rank, gradients in float32 included."""

    master_bytes: int
    gradient_bytes: int
    muon_bytes: int
    adamw_bytes: int

    def describe(self, ema: bool) -> str:
        """The sizes in words, with those of a moving average."""
        named = {
            "masters": self.master_bytes, "gradients": self.gradient_bytes, "Muon": self.muon_bytes,
            "AdamW": self.adamw_bytes, "moving average": self.master_bytes if ema else 0,
        }  # fmt: skip
        return f"memory: {', '.join(f'{name} {size / 1e6:.1f} MB' for name, size in named.items())} (all float32)"


def group_ledger(model: LanguageModel) -> dict[str, Group]:
    """The optimizer group of every trainable tensor, by name; tied storage appears once."""
    ledger: dict[str, Group] = {}
    for name in model.unique_parameters():
        role = model.role(name)
        ledger[name] = "embedding" if role == "embedding" else "control" if role == "control" else "muon"
    return ledger


class Optimizers:
    """Muon and AdamW over one model.

    ``rank`` and ``world`` spread Muon's Newton-Schulz over an initialized process group.
    """

    def __init__(self, model: LanguageModel, config: OptimizerConfig, *, rank: int = 0, world: int = 1) -> None:
        self.config, self.ledger = config, group_ledger(model)
        self._parameters = model.unique_parameters()
        members: dict[Group, list[Tensor]] = {"muon": [], "embedding": [], "control": []}
        for name, parameter in self._parameters.items():
            members[self.ledger[name]].append(parameter)
        self._base_lr: dict[Group, float] = {
            "muon": config.matrix_lr,
            "embedding": config.embedding_lr,
            "control": config.control_lr,
        }
        precision = {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}[config.newton_schulz_precision]
        self.muon = Muon(
            [{"params": members["muon"], "name": "muon"}],  # type: ignore[list-item]
            lr=config.matrix_lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            coefficients=config.coefficients,
            steps=config.newton_schulz_steps,
            row_norm=config.row_norm,
            precision=precision,
            rank=rank,
            world=world,
        )
        decays: dict[Group, float] = {"embedding": config.embedding_decay, "control": config.control_decay}
        self.adamw = torch.optim.AdamW(
            [
                {"params": members[group], "lr": self._base_lr[group], "name": group, "weight_decay": decay}
                for group, decay in decays.items()
            ],
            betas=(0.9, config.beta2),
            eps=1e-8,
            fused=True,
        )

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.muon.zero_grad(set_to_none=True)
        self.adamw.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One update of every tensor that has a gradient."""
        self.muon.step()
        self.adamw.step()

    def set_lr_multiplier(self, multiplier: float) -> None:
        """Every group's learning rate becomes its configured one times ``multiplier``."""
        for group in (*self.muon.param_groups, *self.adamw.param_groups):
            group["lr"] = self._base_lr[group["name"]] * multiplier

    def set_momentum(self, momentum: float) -> None:
        """Muon's momentum from the next step on."""
        for group in self.muon.param_groups:
            group["momentum"] = momentum

    def state_tensors(self) -> dict[str, Tensor]:
        """All state as ``muon.momentum.NAME``, ``adamw.{first,second,steps}.NAME``; empty before the first step.

        Learning rate and momentum are not state: they follow from the schedule at the resumed step.
        """
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            if self.ledger[name] == "muon":
                for key, tensor in self.muon.state.get(parameter, {}).items():
                    tensors[f"muon.{_MUON_KEYS[key]}.{name}"] = tensor
            else:
                for key, tensor in self.adamw.state.get(parameter, {}).items():
                    tensors[f"adamw.{_ADAMW_KEYS[key]}.{name}"] = tensor
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``state_tensors`` gave, bit for bit. Raises ``ValueError`` for a missing or foreign tensor."""
        expected: dict[str, tuple[torch.optim.Optimizer, str, str]] = {}
        for name, group in self.ledger.items():
            keys, optimizer = (_MUON_KEYS, self.muon) if group == "muon" else (_ADAMW_KEYS, self.adamw)
            prefix = "muon" if group == "muon" else "adamw"
            for key, short in keys.items():
                expected[f"{prefix}.{short}.{name}"] = (optimizer, name, key)
        for problem, names in (("missing", expected.keys() - tensors.keys()), ("unknown", tensors.keys() - expected)):
            if names and tensors:
                raise GolfError(f"optimizer state: {problem} tensor `{min(names)}`, expected one state per parameter")
        self.muon.state.clear()
        self.adamw.state.clear()
        for full_name, tensor in tensors.items():
            owner, name, key = expected[full_name]
            parameter = self._parameters[name]
            wanted = () if key == "step" else tuple(parameter.shape)
            if tuple(tensor.shape) != wanted:
                raise GolfError(f"optimizer state: `{full_name}` has shape {tuple(tensor.shape)}, expected {wanted}")
            owner.state[parameter][key] = tensor.detach().to(parameter.device, torch.float32, copy=True)

    def sizes(self) -> OptimizerSizes:
        """Bytes of masters, gradients and states on this rank, before or after the first step."""
        muon = sum(p.numel() for name, p in self._parameters.items() if self.ledger[name] == "muon")
        adam = [p.numel() for name, p in self._parameters.items() if self.ledger[name] != "muon"]
        total = muon + sum(adam)
        return OptimizerSizes(
            master_bytes=4 * total,
            gradient_bytes=4 * total,
            muon_bytes=4 * muon,
            adamw_bytes=8 * sum(adam) + 4 * len(adam),
        )


_MUON_KEYS = {"momentum_buffer": "momentum"}
_ADAMW_KEYS = {"exp_avg": "first", "exp_avg_sq": "second", "step": "steps"}
