"""The event ledger: what training really did, and whether that is what the plan said.

Log lines prove nothing; public runs printed "SWA enabled" and never averaged. The ledger counts executed events and the
distance that each tensor moved. It holds no wall-clock value, so equal runs write equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from golf.schedule.plan import Plan, PlanCase
from golf.training.state import TrainState

__all__ = ["LedgerError", "check_ledger", "make_ledger"]

_FINAL_MULTIPLIER = 0.05  # timed runs: a warmdown that ends above this did not finish


class LedgerError(ValueError):
    """Training did not do what its plan said; the weights are kept."""


def make_ledger(state: TrainState) -> dict[str, Any]:
    """JSON-able ledger of a finished run."""
    events = state.events
    return {
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
        "parameter_groups": dict(state.optimisers.ledger),
        "distance_from_initial": _distances(state),
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
    still = [
        name for name, distance in ledger["distance_from_initial"].items()
        if distance == 0.0 and name in ledger["parameter_groups"]
    ]  # fmt: skip
    if still:
        wrong.append(f"tensors that never moved: {', '.join(still)}")
    missing = sorted(set(ledger["distance_from_initial"]) - set(ledger["parameter_groups"]))
    if missing:
        wrong.append(f"tensors in no optimiser group: {', '.join(missing)}")
    if wrong:
        listed = "\n".join(f"  - {text}" for text in wrong)
        raise LedgerError(f"training did not follow its plan (weights are kept):\n{listed}")


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
        wrong.append(f"warmdown: the last multiplier is {last:.3f}, wanted {_FINAL_MULTIPLIER} or less (too few steps)")
    if len(case.snapshot_steps) > 1 and len(ledger["snapshot_steps"]) < 2:
        wrong.append(f"snapshots: planned at least 2, happened {len(ledger['snapshot_steps'])}; raise snapshot_below")
    return wrong
