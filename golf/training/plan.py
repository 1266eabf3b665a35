"""What training will do, worked out before it starts, and refused when a configured system would never act.

The plan replays the schedule (``golf.training.config``) step by step: once when training runs by steps; once per
credible machine when it runs by wall clock, with that machine's seconds per step at each depth.

A training token costs 6 floating-point operations per weight it is multiplied with (forward 2, backward 4), and causal
attention 6 T D per layer (scores and values, half of the T x T square; T tokens in a sequence, D width). Sources: arXiv
2001.08361 (counting); parameter-golf PR #895, whose published step times on 8 H100 lie inside the range of machines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from golf.base.errors import GolfError
from golf.training.config import Schedule, context_at, depth_at, multiplier_at, progress_at, qat_acts, snapshot_due

if TYPE_CHECKING:
    from golf.models.configs.families import ModelConfig

__all__ = [
    "Machine", "Plan", "PlanCase", "PlanError", "credible_machines", "flops_per_token", "plan", "plan_steps", "replay",
]  # fmt: skip

PEAK_FLOPS = 989e12  # dense bf16, one H100 or H200 SXM
_SLOW_SHARE, _FAST_SHARE = 0.15, 0.6  # of the peak that training reaches: public runs 0.2 to 0.45

MAX_WASTE = 0.05  # share of the wall-clock budget that the step cap may leave unused
MAX_FINAL_MULTIPLIER = 0.05  # a warmdown that ends above this share of the learning rate has not finished
MIN_SNAPSHOTS = 2  # one snapshot is the final weights: no average
MIN_QAT_STEPS = 50  # fewer updates hardly move the weights to the grid: a warning


class PlanError(GolfError):
    """A configured system never acts, or acts from the first step; each line names the key and what to change."""


@dataclass(frozen=True)
class Machine:
    """How fast some machine trains: seconds of one update at each depth."""

    name: str
    step_seconds: Mapping[int, float]


@dataclass(frozen=True)
class PlanCase:
    """Events of a run of ``steps`` updates; step numbers count updates from 1."""

    steps: int  # updates in all
    phases: tuple[tuple[int, int], ...]  # (first step, repeats) of each depth phase
    warmdown_start: int | None  # first step whose multiplier is below 1
    final_multiplier: float  # multiplier of the last step
    snapshot_steps: tuple[int, ...]  # steps after which a snapshot is taken
    ema_horizon: float | None  # steps over which the moving average reaches back, 1 / (1 - decay)
    qat_start: int | None = None  # first step at quantized weights
    qat_steps: int = 0  # steps at quantized weights
    contexts: tuple[tuple[int, int], ...] = ()  # (first step, tokens) of each phase of the context length
    floor: float = 0.0  # multiplier at which the warmdown stops
    machine: str = ""  # name of the machine, empty when the run is counted in steps
    seconds: float = 0.0  # seconds of training on that machine


@dataclass(frozen=True)
class Plan:
    """One case per credible machine (or one alone), and warnings that do not stop the run."""

    cases: tuple[PlanCase, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The plan in words, one event a line."""
        out = []
        for case in self.cases:
            where = f" ({case.machine}, {case.seconds:.0f} s)" if case.machine else ""
            out.append(f"plan for {case.steps} steps{where}:")
            out.extend(f"  depth {depth} from step {first}" for first, depth in case.phases)
            out.extend(f"  context of {tokens} tokens from step {first}" for first, tokens in case.contexts)
            start = "never (constant learning rate)" if case.warmdown_start is None else f"step {case.warmdown_start}"
            out.append(f"  warmdown from {start}, final multiplier {case.final_multiplier:.4f}")
            out.append(f"  {len(case.snapshot_steps)} snapshots{_span(case.snapshot_steps)}")
            horizon = "off" if case.ema_horizon is None else f"horizon {case.ema_horizon:.0f} steps"
            out.append(f"  moving average {horizon}")
            if case.qat_start is not None:
                out.append(f"  QAT from step {case.qat_start}, {case.qat_steps} steps")
        return out + [f"  warning: {text}" for text in self.warnings]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


def _span(steps: tuple[int, ...]) -> str:
    return f", steps {steps[0]} to {steps[-1]}" if steps else ""


def plan(schedule: Schedule, machines: Sequence[Machine] = ()) -> Plan:
    """Plan a run and check that everything configured acts.

    ``machines``: the credible ones, slowest to fastest, used only with ``budget_seconds > 0``; without them a timed run
    is planned as if every one of ``iterations`` steps fitted into the budget. Raises ``PlanError``.
    """
    timed = schedule.budget_seconds > 0 and bool(machines)
    cases = tuple(replay(schedule, machine) for machine in machines) if timed else (replay(schedule),)
    refusals, warnings = _waste_refusals(schedule, machines, cases) if timed else [], list[str]()
    for case in cases:
        refusals.extend(text for text in _refusals(schedule, case) if text not in refusals)
        warnings.extend(text for text in _warnings(schedule, case) if text not in warnings)
    return _accepted(cases, refusals, warnings)


def _accepted(cases: tuple[PlanCase, ...], refusals: list[str], warnings: list[str]) -> Plan:
    if refusals:
        raise PlanError("the plan is refused:\n" + "\n".join(f"  - {text}" for text in refusals))
    return Plan(cases, tuple(warnings))


def replay(schedule: Schedule, machine: Machine | None = None, *, reachable: int | None = None) -> PlanCase:
    """What happens at which step, on ``machine``'s clock or, without one, by steps alone. Nothing is refused.

    ``reachable``: the run is cut off after so many steps, wherever its schedule then is.
    """
    phases, contexts, snapshots = list[tuple[int, int]](), list[tuple[int, int]](), list[int]()
    warmdown_start, qat_start, qat_steps, multiplier = None, None, 0, 1.0
    step, elapsed, before = 0, 0.0, 0.0
    while before < 1.0 and step != reachable:
        step += 1
        depth = depth_at(before, schedule.depth_phases, schedule.full_depth)
        if not phases or phases[-1][1] != depth:
            phases.append((step, depth))
        context = context_at(before, schedule.context_phases)
        if context is not None and (not contexts or contexts[-1][1] != context):
            contexts.append((step, context))
        multiplier = multiplier_at(before, schedule)
        if multiplier < 1.0 and warmdown_start is None:
            warmdown_start = step
        if qat_acts(multiplier, schedule.qat_below):
            qat_start, qat_steps = qat_start or step, qat_steps + 1
        elapsed += machine.step_seconds[depth] if machine else 0.0
        after = progress_at(step, schedule.iterations, elapsed, schedule.budget_seconds if machine else 0.0)
        if snapshot_due(before, after, schedule):
            snapshots.append(step)
        before = after
    return PlanCase(
        step, tuple(phases), warmdown_start, multiplier, tuple(snapshots),
        ema_horizon=1.0 / (1.0 - schedule.ema_decay) if schedule.ema_decay > 0 else None,
        qat_start=qat_start, qat_steps=qat_steps, contexts=tuple(contexts), floor=schedule.warmdown_floor,
        machine=machine.name if machine else "", seconds=elapsed,
    )  # fmt: skip


def plan_steps(iterations: int, warmdown: int, reachable: int) -> Plan:
    """The plan of another script's schedule in steps, on a machine that stops it after ``reachable`` steps.

    Cosine over the last ``warmdown`` of ``iterations``, snapshots every 50 steps below multiplier 0.2, QAT below 0.15.
    Raises ``PlanError``: of parameter-golf PRs #1545 and #1681, (2200, 400, 2200) fires and (9999, 3000, 2119),
    (9999, 1000, 2227) and (2200, 400, 1857) do not; ``GolfError`` for counts below 1 or a warmdown beyond the run.
    """
    if min(iterations, warmdown, reachable) < 1 or warmdown > iterations:
        raise GolfError(
            f"iterations {iterations}, warmdown {warmdown}, reachable {reachable}: all must be at least 1 and warmdown "
            "at most iterations"
        )
    schedule = Schedule(
        iterations, 0.0, 1, warmdown=warmdown / iterations, warmdown_shape="cosine", snapshot_every=50 / iterations,
        snapshot_below=0.2, qat_below=0.15,
    )  # fmt: skip
    case = replay(schedule, Machine(f"{reachable} steps are reached", {1: 0.0}), reachable=reachable)
    refusals = _refusals(schedule, case)
    refusals += [f"set iterations to the {case.steps} steps that are reached"] if refusals else []
    return _accepted((case,), refusals, _warnings(schedule, case))


def _waste_refusals(schedule: Schedule, machines: Sequence[Machine], cases: tuple[PlanCase, ...]) -> list[str]:
    """At most one refusal, for the machine that wastes most."""
    case, machine = min(zip(cases, machines, strict=True), key=lambda pair: pair[0].seconds)
    waste = 1.0 - case.seconds / schedule.budget_seconds
    if waste <= MAX_WASTE:
        return []
    wanted = replay(dataclasses.replace(schedule, iterations=2**62), machine).steps
    return [
        f"iterations: {schedule.iterations} steps end the run with {waste:.0%} of the budget unused ({machine.name}); "
        f"set iterations to {wanted} or more"
    ]


def _refusals(schedule: Schedule, case: PlanCase) -> list[str]:
    out = []
    steps = case.steps
    wanted = [repeats for _, repeats in schedule.depth_phases] or [schedule.full_depth]
    if [depth for _, depth in case.phases] != _merged(wanted):
        out.append(
            f"depth_phases: {steps} steps run at depths {[d for _, d in case.phases]}, expected {_merged(wanted)}; "
            "move the fractions apart, remove the phase that never acts, or raise iterations"
        )
    if wanted[-1] != schedule.full_depth:
        out.append(
            f"depth_phases: the last phase has {wanted[-1]} repeats, the model {schedule.full_depth}; "
            f"end with [1.0, {schedule.full_depth}]"
        )
    wanted_contexts = _merged([tokens for _, tokens in schedule.context_phases])
    if [tokens for _, tokens in case.contexts] != wanted_contexts:
        found = [tokens for _, tokens in case.contexts]
        out.append(
            f"context_phases: {steps} steps run with contexts {found}, expected {wanted_contexts}; as depth_phases"
        )
    return out + [
        *_warmdown_refusals(schedule, case),
        *_snapshot_refusals(schedule, case),
        *_qat_refusals(schedule, case),
        *_momentum_refusals(schedule, case),
    ]


def _warmdown_refusals(schedule: Schedule, case: PlanCase) -> list[str]:
    if schedule.warmdown <= 0:
        return []
    if case.warmdown_start is None:
        return [f"warmdown: {schedule.warmdown} never acts in {case.steps} steps; set it to {2 / case.steps:.3g} or 0"]
    if case.warmdown_start <= 2:  # the first update is at progress 0
        return ["warmdown: it acts from step 1; set it to 0.9 or less"]
    if case.machine and case.final_multiplier > max(MAX_FINAL_MULTIPLIER, schedule.warmdown_floor):
        return [
            f"warmdown: its last step, of {case.steps} ({case.machine}), still has multiplier "
            f"{case.final_multiplier:.3f}; raise budget_seconds or lower tokens_per_step"
        ]
    return []


def _qat_refusals(schedule: Schedule, case: PlanCase) -> list[str]:
    if schedule.qat_below <= 0:
        return []
    if schedule.warmdown <= 0:
        return ["qat.below: the multiplier never falls; set warmdown to 0.5 or qat.below to 0"]
    if case.qat_start is None:
        return [f"qat.below: {schedule.qat_below} never acts in {case.steps} steps; raise it to 0.15 or iterations"]
    if case.qat_start <= 2:
        return ["qat.below: it acts from step 1; lower it or warmdown"]
    return []


def _warnings(schedule: Schedule, case: PlanCase) -> list[str]:
    out = []
    if case.qat_start is not None and case.qat_steps < MIN_QAT_STEPS:
        out.append(f"qat.below {schedule.qat_below}: {case.qat_steps} steps at quantized weights are few; raise it")
    if case.ema_horizon is None or case.warmdown_start is None:
        return out
    length = case.steps - case.warmdown_start + 1
    if length > 2.97 * case.ema_horizon:  # off by a step is no news
        return out
    return out + [
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
    warmup = schedule.momentum_warmup_steps
    if warmup < case.steps or schedule.momentum == schedule.momentum_start:
        return []
    return [
        f"momentum_warmup_steps: {warmup} steps do not end within {case.steps}; set it to {case.steps // 4} or less"
    ]


def _merged(depths: list[int]) -> list[int]:
    return [depth for i, depth in enumerate(depths) if i == 0 or depths[i - 1] != depth]


def flops_per_token(model: ModelConfig, vocab_size: int, depth: int, sequence_length: int) -> float:
    """Operations of forward and backward per training token at ``depth`` repeats; lookups and optimizer not counted."""
    attended = model.attention_layers(depth) * sequence_length * model.width
    return 6.0 * (model.applied_weights(depth) + vocab_size * model.width + attended)


def credible_machines(
    model: ModelConfig, vocab_size: int, depths: tuple[int, ...], *, tokens_per_step: int, sequence_length: int,
    world: int,
) -> tuple[Machine, ...]:  # fmt: skip
    """The slowest and the fastest machine of ``world`` H100-class devices, by the share of their peak they reach."""
    machines = []
    flops = {depth: tokens_per_step * flops_per_token(model, vocab_size, depth, sequence_length) for depth in depths}
    for share in (_SLOW_SHARE, _FAST_SHARE):
        rate = world * share * PEAK_FLOPS
        seconds = {depth: flops[depth] / rate for depth in depths}
        machines.append(Machine(f"{world} x H100 at {share:.0%} of peak", seconds))
    return tuple(machines)
