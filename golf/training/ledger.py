"""The state of training, and the event ledger: what training really did, and whether that is what the plan said.

Log lines prove nothing; public runs printed "SWA enabled" and never averaged. The ledger counts executed events and the
distance that each tensor moved. It holds no wall-clock value, so equal runs write equal bytes.

The state is everything that changes while training. It goes into a checkpoint and back without losing a bit: tensors go
into the checkpoint under ``model.NAME``, ``ema.NAME`` and ``optimizer.NAME``; the rest (``Events``) is JSON, whose
floats round-trip exactly.
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

from golf.base.errors import GolfError
from golf.models.base import LanguageModel
from golf.training.optimizers import Optimizers
from golf.training.plan import Plan, PlanCase

__all__ = ["Events", "HISTORY_COLUMNS", "LedgerError", "TrainState", "check_ledger", "make_ledger"]

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


_FINAL_MULTIPLIER = 0.05  # timed runs: a warmdown that ends above this did not finish


class LedgerError(GolfError):
    """Training did not do what its plan said; the weights are kept."""


def make_ledger(state: TrainState) -> dict[str, Any]:
    """JSON-able ledger of a finished run."""
    events = state.events
    ledger = {
        "steps": events.step,
        "tokens": events.tokens,
        "lr_multiplier_first": events.first_multiplier,
        "lr_multiplier_last": events.last_multiplier,
        "lr_multiplier_min": min([row[3] for row in events.history] + [events.last_multiplier]),
        "warmdown_start_step": events.warmdown_start,
        "depth_phases": events.phases,
        "snapshot_steps": events.snapshot_steps,
        "ema_updates": events.ema_updates,
        "clipped_steps": int(state.clipped),
        "data_order_sha256": events.data_order,
        "parameter_groups": dict(state.optimizers.ledger),
        "distance_from_initial": _distances(state),
    }
    return ledger | ({"qat": _qat(state)} if events.fake_quantizations else {})


def _qat(state: TrainState) -> dict[str, Any]:
    """Executed fake quantizations; ``share`` of the weights that the quantizer will quantize had at least one."""
    events, names = state.events, state.model.quantizable_names()
    sizes = {name: state.weights[name].numel() for name in names}
    covered = sum(sizes[name] for name in names if events.fake_quantizations.get(name))
    return {
        "first_step": events.qat_start,
        "fake_quantizations": {name: events.fake_quantizations.get(name, 0) for name in names},
        "share_of_quantized_weights": covered / max(1, sum(sizes.values())),
    }


def _distances(state: TrainState) -> dict[str, float]:
    """L2 distance of each tensor from its initial value."""
    return {
        name: float(torch.linalg.vector_norm(tensor.detach().cpu().double() - state.initial[name].double()))
        for name, tensor in state.weights.items()
        if tensor.numel()
    }


def check_ledger(ledger: Mapping[str, Any], plan: Plan, *, timed: bool) -> None:
    """Compare the ledger with the plan; a timed run has no fixed steps, so there the same events must have happened.

    Raises ``LedgerError`` with every mismatch.
    """
    wrong = _timed_mismatches(ledger, plan.cases[0]) if timed else _mismatches(ledger, plan.cases[0])
    if ledger["ema_updates"] != (ledger["steps"] if plan.cases[0].ema_horizon is not None else 0):
        wrong.append(f"moving average: {ledger['ema_updates']} updates in {ledger['steps']} steps")
    wrong.extend(_qat_mismatches(ledger, plan.cases[0], timed))
    still = [
        name for name, distance in ledger["distance_from_initial"].items()
        if distance == 0.0 and name in ledger["parameter_groups"]
    ]  # fmt: skip
    if still:
        wrong.append(f"tensors that never moved: {', '.join(still)}")
    missing = sorted(set(ledger["distance_from_initial"]) - set(ledger["parameter_groups"]))
    if missing:
        wrong.append(f"tensors in no optimizer group: {', '.join(missing)}")
    if wrong:
        listed = "\n".join(f"  - {text}" for text in wrong)
        raise LedgerError(f"training did not follow its plan (weights are kept):\n{listed}")


def _qat_mismatches(ledger: Mapping[str, Any], case: PlanCase, timed: bool) -> list[str]:
    if case.qat_start is None:
        return []
    if "qat" not in ledger:
        return ["QAT: planned, never happened; raise train.qat.below"]
    qat, wrong = ledger["qat"], []
    counts = qat["fake_quantizations"]
    wanted = max(counts.values()) if timed else case.qat_steps
    missed = [name for name, count in counts.items() if count != wanted]
    if missed:
        wrong.append(f"QAT: {wanted} updates expected, not so for {', '.join(missed)}")
    if qat["share_of_quantized_weights"] < 1.0:
        wrong.append(f"QAT: covered {qat['share_of_quantized_weights']:.1%} of the weights that will be quantized")
    if not timed and qat["first_step"] != case.qat_start:
        wrong.append(f"QAT: planned from step {case.qat_start}, happened from {qat['first_step']}")
    return wrong


def _mismatches(ledger: Mapping[str, Any], case: PlanCase) -> list[str]:
    planned = {
        "steps": case.steps,
        "depth_phases": [list(phase) for phase in case.phases],
        "warmdown_start_step": case.warmdown_start,
        "lr_multiplier_last": case.final_multiplier,
        "snapshot_steps": list(case.snapshot_steps),
    }
    return [f"{key}: planned {value}, happened {ledger[key]}" for key, value in planned.items() if ledger[key] != value]


def _timed_mismatches(ledger: Mapping[str, Any], case: PlanCase) -> list[str]:
    wrong = []
    depths, planned = [depth for _, depth in ledger["depth_phases"]], [depth for _, depth in case.phases]
    if depths != planned:
        wrong.append(f"depths: planned {planned}, happened {depths}; lower the fractions of train.depth_phases")
    last, most = ledger["lr_multiplier_last"], max(_FINAL_MULTIPLIER, case.floor)
    if case.warmdown_start is not None and last > most:
        wrong.append(f"warmdown: last multiplier {last:.3f}, expected {most} or less: too few steps")
    if len(case.snapshot_steps) > 1 and len(ledger["snapshot_steps"]) < 2:
        wrong.append(f"snapshots: planned at least 2, happened {len(ledger['snapshot_steps'])}; raise snapshot_below")
    return wrong
