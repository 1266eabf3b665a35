"""Training schedules as pure functions of progress.

Progress runs from 0 (before the first update) to 1 (the run is over):
``max(step / iterations, elapsed / budget_seconds)``. Everything that switches during training reads progress, never a
step number, so the same parameters act on slow and fast machines. Step-based schedules under a wall-clock limit are
the fault that this replaces (parameter-golf PRs #1370, #1545, #1575: warmdown, averaging and QAT never reached).

Steps count finished updates: update number ``n`` (from 1) runs at the progress reached by ``n - 1`` updates.
Sources: parameter-golf PR #895 (depth phases, snapshots, momentum warm-up), PR #1681 (cosine warmdown).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Schedule",
    "WarmdownShape",
    "depth_at",
    "lr_multiplier",
    "momentum_at",
    "progress_at",
    "qat_acts",
    "seconds_left",
    "snapshot_due",
]

WarmdownShape = Literal["linear", "cosine"]

_EDGE = 1e-9  # forgives float rounding where progress is an exact multiple of an interval


@dataclass(frozen=True)
class Schedule:
    """What acts when. Fractions are of progress; ``full_depth`` is the deepest setting of the model (repeats)."""

    iterations: int  # optimizer steps at most
    budget_seconds: float  # wall-clock budget, seconds; 0: steps alone
    full_depth: int  # repeats of the model at full depth
    depth_phases: tuple[tuple[float, int], ...] = ()  # (until this fraction of progress, repeats); empty: full depth
    warmdown: float = 0.5  # fraction of progress, at the end, in which the learning rate falls; 0: constant
    warmdown_shape: WarmdownShape = "linear"
    snapshot_every: float = 0.02  # fraction of progress between two snapshots
    snapshot_below: float = 0.4  # snapshots only while the multiplier is below this; 0: none
    ema_decay: float = 0.0  # decay per step of the moving average; 0: none
    qat_below: float = 0.0  # quantization-aware training while the multiplier is below this; 0: never
    momentum_start: float = 0.85  # Muon momentum at step 0
    momentum: float = 0.95  # Muon momentum after its warm-up
    momentum_warmup_steps: int = 0  # steps of the warm-up


def progress_at(step: int, iterations: int, elapsed: float = 0.0, budget_seconds: float = 0.0) -> float:
    """Progress in [0, 1] after ``step`` updates and ``elapsed`` seconds; a budget of 0 counts steps alone."""
    by_steps = step / iterations
    by_time = elapsed / budget_seconds if budget_seconds > 0 else 0.0
    return min(1.0, max(by_steps, by_time))


def lr_multiplier(progress: float, warmdown: float, shape: WarmdownShape = "linear") -> float:
    """Learning-rate multiplier in [0, 1]: 1, then falling to 0 over the last ``warmdown`` of progress."""
    into = progress - (1.0 - warmdown)
    if warmdown <= 0.0 or into <= _EDGE:
        return 1.0
    fraction = min(1.0, into / warmdown)
    return 0.5 * (1.0 + math.cos(math.pi * fraction)) if shape == "cosine" else 1.0 - fraction


def depth_at(progress: float, phases: tuple[tuple[float, int], ...], full_depth: int) -> int:
    """Repeats in use: the first phase whose end lies beyond ``progress``, else the last; no phases: full depth."""
    if not phases:
        return full_depth
    for until, repeats in phases:
        if progress < until - _EDGE:
            return repeats
    return phases[-1][1]


def qat_acts(multiplier: float, below: float) -> bool:
    """Whether an update at this learning-rate multiplier runs at quantized weights."""
    return multiplier < below - _EDGE


def momentum_at(step: int, start: float, end: float, warmup_steps: int) -> float:
    """Muon momentum of the update that follows ``step`` finished ones: linear from ``start`` to ``end``."""
    if step >= warmup_steps:
        return end
    return start + (end - start) * step / warmup_steps


def snapshot_due(before: float, after: float, schedule: Schedule) -> bool:
    """Whether the update that moved progress from ``before`` to ``after`` is followed by a snapshot.

    Due at full depth with the multiplier at ``after`` below ``snapshot_below``, when a multiple of ``snapshot_every``
    was crossed; the last update of a run with snapshots always is.
    """
    if schedule.snapshot_below <= 0.0:
        return False
    if depth_at(before, schedule.depth_phases, schedule.full_depth) != schedule.full_depth:
        return False
    if after >= 1.0:
        return True
    if lr_multiplier(after, schedule.warmdown, schedule.warmdown_shape) >= schedule.snapshot_below - _EDGE:
        return False
    crossed = math.floor(after / schedule.snapshot_every + _EDGE)
    return crossed > math.floor(before / schedule.snapshot_every + _EDGE)


def seconds_left(progress: float, elapsed: float, schedule: Schedule) -> float:
    """Seconds to the end, from those ``elapsed`` at ``progress``; a step costs as much as its phase has repeats."""
    if schedule.budget_seconds > 0:
        return max(0.0, schedule.budget_seconds - elapsed)
    done = ahead = start = 0.0
    for until, repeats in schedule.depth_phases or ((1.0, schedule.full_depth),):
        done += repeats * max(0.0, min(until, progress) - start)
        ahead += repeats * max(0.0, until - max(start, progress))
        start = until
    return elapsed * ahead / done if done > 0 else 0.0
