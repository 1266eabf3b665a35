"""What training will do, worked out before it starts, and refused when a configured system would never act.

The plan replays the schedule (``golf.schedule.rules``) step by step for each credible number of steps: one number when
training runs by steps, the slowest and the fastest machine when it runs by wall clock.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from golf.schedule.rules import Schedule, depth_at, lr_multiplier, progress_at, snapshot_due

__all__ = ["Plan", "PlanCase", "PlanError", "plan"]

MAX_WASTE = 0.05  # share of the wall-clock budget that the step cap may leave unused
MIN_SNAPSHOTS = 2  # one snapshot is the final weights: no average


class PlanError(ValueError):
    """A configured system never acts, or acts from the first step; each line names the key and what to change."""


@dataclass(frozen=True)
class PlanCase:
    """Events of a run of ``steps`` updates; step numbers count updates from 1."""

    steps: int  # updates in all
    phases: tuple[tuple[int, int], ...]  # (first step, repeats) of each depth phase
    warmdown_start: int | None  # first step whose multiplier is below 1
    final_multiplier: float  # multiplier of the last step
    snapshot_steps: tuple[int, ...]  # steps after which a snapshot is taken
    ema_horizon: float | None  # steps over which the moving average reaches back, 1 / (1 - decay)


@dataclass(frozen=True)
class Plan:
    """One case per credible number of steps, and warnings that do not stop the run."""

    cases: tuple[PlanCase, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The plan in words, one event a line."""
        out = []
        for case in self.cases:
            out.append(f"plan for {case.steps} steps:")
            out.extend(f"  depth {depth} from step {first}" for first, depth in case.phases)
            start = "never (constant learning rate)" if case.warmdown_start is None else f"step {case.warmdown_start}"
            out.append(f"  warmdown from {start}, final multiplier {case.final_multiplier:.4f}")
            out.append(f"  {len(case.snapshot_steps)} snapshots{_span(case.snapshot_steps)}")
            horizon = "off" if case.ema_horizon is None else f"horizon {case.ema_horizon:.0f} steps"
            out.append(f"  moving average {horizon}")
        return out + [f"  warning: {text}" for text in self.warnings]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


def _span(steps: tuple[int, ...]) -> str:
    return f", steps {steps[0]} to {steps[-1]}" if steps else ""


def plan(schedule: Schedule, steps_range: tuple[int, int] | None = None) -> Plan:
    """Plan a run and check that everything configured acts.

    ``steps_range``: the fewest and the most steps that the budget allows on credible machines; needed (and used) only
    with ``budget_seconds > 0``. Without it a timed run is planned at ``iterations`` steps. Raises ``PlanError``.
    """
    counts, refusals = [schedule.iterations], []
    if schedule.budget_seconds > 0 and steps_range is not None:
        slow, fast = steps_range
        if not 1 <= slow <= fast:
            raise ValueError(f"steps_range {steps_range}: wanted the fewest, then the most reachable steps, from 1 on")
        waste = 1.0 - schedule.iterations / fast
        if waste > MAX_WASTE:
            refusals.append(
                f"iterations: {schedule.iterations} steps end the run with {waste:.0%} of the budget unused on the "
                f"fastest machine; set iterations to {fast} or more"
            )
        counts = sorted({min(slow, schedule.iterations), min(fast, schedule.iterations)})
    cases = tuple(_replay(schedule, steps) for steps in counts)
    warnings: list[str] = []
    for case in cases:
        refusals.extend(text for text in _refusals(schedule, case) if text not in refusals)
        warnings.extend(_warnings(schedule, case))
    if refusals:
        raise PlanError("the plan is refused:\n" + "\n".join(f"  - {text}" for text in refusals))
    return Plan(cases, tuple(warnings))


def _replay(schedule: Schedule, steps: int) -> PlanCase:
    phases: list[tuple[int, int]] = []
    snapshots: list[int] = []
    warmdown_start, multiplier, before = None, 1.0, 0.0
    for step in range(1, steps + 1):
        depth = depth_at(before, schedule.depth_phases, schedule.full_depth)
        if not phases or phases[-1][1] != depth:
            phases.append((step, depth))
        multiplier = lr_multiplier(before, schedule.warmdown, schedule.warmdown_shape)
        if multiplier < 1.0 and warmdown_start is None:
            warmdown_start = step
        after = progress_at(step, steps)
        if snapshot_due(before, after, schedule):
            snapshots.append(step)
        before = after
    horizon = 1.0 / (1.0 - schedule.ema_decay) if schedule.ema_decay > 0 else None
    return PlanCase(steps, tuple(phases), warmdown_start, multiplier, tuple(snapshots), horizon)


def _refusals(schedule: Schedule, case: PlanCase) -> list[str]:
    out = []
    steps = case.steps
    wanted = [repeats for _, repeats in schedule.depth_phases] or [schedule.full_depth]
    if [depth for _, depth in case.phases] != _merged(wanted):
        out.append(
            f"depth_phases: {steps} steps run at depths {[d for _, d in case.phases]}, wanted {_merged(wanted)}; "
            "move the fractions apart, remove the phase that never acts, or raise iterations"
        )
    if wanted[-1] != schedule.full_depth:
        out.append(
            f"depth_phases: the last phase has {wanted[-1]} repeats, the model {schedule.full_depth}; "
            f"end with [1.0, {schedule.full_depth}]"
        )
    if schedule.warmdown > 0 and case.warmdown_start is None:
        out.append(f"warmdown: {schedule.warmdown} never acts in {steps} steps; set it to {2 / steps:.3g} or 0")
    if case.warmdown_start is not None and case.warmdown_start <= 2:  # the first update is at progress 0
        out.append("warmdown: it acts from step 1; set it to 0.9 or less")
    return out + _snapshot_refusals(schedule, case) + _momentum_refusals(schedule, case)


def _warnings(schedule: Schedule, case: PlanCase) -> list[str]:
    if case.ema_horizon is None or case.warmdown_start is None:
        return []
    length = case.steps - case.warmdown_start + 1
    if length > 2.97 * case.ema_horizon:  # off by a step is no news
        return []
    return [
        f"ema_decay {schedule.ema_decay}: three horizons ({3 * case.ema_horizon:.0f} steps) are longer than the "
        f"warmdown ({length} steps), so the average holds weights of the high learning rate; "
        f"{max(0.0, 1 - 3 / length):.3g} fits"
    ]


def _snapshot_refusals(schedule: Schedule, case: PlanCase) -> list[str]:
    if schedule.snapshot_below <= 0:
        return []
    if schedule.warmdown <= 0:
        return ["snapshot_below: the multiplier never falls; set warmdown to 0.5 or snapshot_below to 0"]
    if len(case.snapshot_steps) < MIN_SNAPSHOTS:
        return [
            f"snapshot_every: {len(case.snapshot_steps)} snapshot(s) in {case.steps} steps are no average; set "
            f"it to at most {schedule.warmdown * schedule.snapshot_below / 4:.3g}, raise iterations, or "
            "turn snapshots off with snapshot_below 0"
        ]
    if case.snapshot_steps[0] == 1:
        return ["snapshot_below: snapshots from step 1; lower it or warmdown"]
    return []


def _momentum_refusals(schedule: Schedule, case: PlanCase) -> list[str]:
    out = []
    if schedule.momentum_warmup_steps >= case.steps and schedule.momentum != schedule.momentum_start:
        out.append(
            f"momentum_warmup_steps: {schedule.momentum_warmup_steps} steps do not end within {case.steps}; set it to "
            f"{case.steps // 4} or less"
        )
    return out


def _merged(depths: list[int]) -> list[int]:
    return [depth for i, depth in enumerate(depths) if i == 0 or depths[i - 1] != depth]
