"""Does a step-based schedule fire? The check that published wall-clock runs lacked.

A run configured for ``iterations`` steps, whose last ``warmdown`` steps lower the learning rate, stops after
``min(iterations, reachable)`` steps. Snapshots for averaging start below one multiplier, quantization-aware training
(QAT) below another. Reference values: parameter-golf PRs #1545 and #1681, where (2200, 400, 2200) fires and
(9999, 3000, 2119), (9999, 1000, 2227) and (2200, 400, 1857) do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from golf.errors import GolfError
from golf.schedule.rules import WarmdownShape

__all__ = ["StepsPlan", "plan_steps", "plan_timed_warmdown"]

MAX_FINAL_MULTIPLIER = 0.05  # a warmdown that stops above this share of the learning rate has not finished
MIN_SNAPSHOTS = 3  # fewer snapshots are no average
MIN_QAT_STEPS = 50  # fewer steps do not move the weights to the grid


@dataclass(frozen=True)
class StepsPlan:
    """When each system of a step-based schedule acts (steps from 1), and why the schedule is refused."""

    stop: int  # last step
    warmdown_start: int  # first step of the warmdown
    final_multiplier: float  # learning-rate multiplier at the last step
    snapshot_steps: tuple[int, ...]
    qat_start: int  # first step with QAT
    qat_steps: int  # steps with QAT
    refusals: tuple[str, ...]  # one sentence per system that never acts, naming the key and what to change it to


def _first_step_below(threshold: float, start: int, warmdown: int, shape: WarmdownShape) -> int:
    """First integer step whose multiplier is below ``threshold``."""
    fraction = math.acos(2.0 * threshold - 1.0) / math.pi if shape == "cosine" else 1.0 - threshold
    return start + math.ceil(warmdown * fraction)


def plan_steps(
    iterations: int,
    warmdown: int,
    reachable: int,
    *,
    shape: WarmdownShape = "cosine",
    snapshot_every: int = 50,
    snapshot_below: float = 0.2,
    qat_below: float = 0.15,
) -> StepsPlan:
    """Plan ``iterations`` steps with a ``warmdown`` of so many steps on a machine that reaches ``reachable`` steps.

    Raises ``ValueError`` when a count is below 1 or the warmdown is longer than the run. A schedule that does not
    fire is no error here: its reasons are in ``refusals``.
    """
    if min(iterations, warmdown, reachable, snapshot_every) < 1 or warmdown > iterations:
        raise GolfError(
            f"iterations {iterations}, warmdown {warmdown}, reachable {reachable}, snapshot_every {snapshot_every}: "
            "all must be at least 1 and warmdown at most iterations"
        )
    stop = min(iterations, reachable)
    start = iterations - warmdown
    fraction = max(0.0, (stop - start) / warmdown)
    final = 0.5 * (1.0 + math.cos(math.pi * fraction)) if shape == "cosine" else 1.0 - fraction
    first = _first_step_below(snapshot_below, start, warmdown, shape)
    snapshots = tuple(range(-(-first // snapshot_every) * snapshot_every, stop + 1, snapshot_every))
    qat_start = _first_step_below(qat_below, start, warmdown, shape)
    qat_steps = max(0, stop - qat_start + 1)
    refusals = []
    change = f"set iterations to the {stop} steps that are reached, or make schedules follow progress"
    if start >= stop:
        refusals.append(f"warmdown never starts: it begins at step {start} and the run stops at {stop}; {change}")
    elif final > MAX_FINAL_MULTIPLIER:
        refusals.append(f"warmdown does not finish: the final multiplier is {final:.3f} at step {stop}; {change}")
    if len(snapshots) < MIN_SNAPSHOTS:
        found = f"averaging gets {len(snapshots)} snapshots, wanted {MIN_SNAPSHOTS} (from step {first})"
        refusals.append(f"{found}; {change}")
    if qat_steps < MIN_QAT_STEPS:
        refusals.append(f"QAT gets {qat_steps} steps, wanted {MIN_QAT_STEPS} (from step {qat_start}); {change}")
    return StepsPlan(stop, start, final, snapshots, qat_start, qat_steps, tuple(refusals))


def plan_timed_warmdown(budget_seconds: float, warmdown_steps: int, step_seconds: float) -> float:
    """First multiplier of a warmdown measured in seconds (``warmdown_steps`` mean steps before the end): 1.

    Raises ``ValueError`` when that warmdown is longer than the budget: the run would begin below full learning rate,
    with averaging and QAT active from step 1.
    """
    warm_seconds = warmdown_steps * step_seconds
    if warm_seconds > budget_seconds:
        raise GolfError(
            f"warmdown of {warmdown_steps} steps takes {warm_seconds:.1f} s, longer than the budget of "
            f"{budget_seconds:.1f} s: the first multiplier would be {budget_seconds / warm_seconds:.3f}; set warmdown "
            f"to at most {int(0.5 * budget_seconds / step_seconds)} steps, half of the run"
        )
    return 1.0
