"""The event ledger: what training really did, and whether that is what the plan said.

Log lines prove nothing; public runs printed "SWA enabled" and never averaged. The ledger counts executed events and the
distance that each tensor moved. It holds no wall-clock value, so equal runs write equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from golf.base.errors import GolfError
from golf.training.plan import Plan, PlanCase
from golf.training.state import TrainState

__all__ = ["LedgerError", "check_ledger", "make_ledger"]

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
    if case.warmdown_start is not None and ledger["lr_multiplier_last"] > _FINAL_MULTIPLIER:
        last = ledger["lr_multiplier_last"]
        wrong.append(f"warmdown: last multiplier {last:.3f}, expected {_FINAL_MULTIPLIER} or less: too few steps")
    if len(case.snapshot_steps) > 1 and len(ledger["snapshot_steps"]) < 2:
        wrong.append(f"snapshots: planned at least 2, happened {len(ledger['snapshot_steps'])}; raise snapshot_below")
    return wrong
