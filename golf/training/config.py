"""Parameters of training (section ``train`` of the parameter file), and its schedules as pure functions of progress.

Progress runs from 0 (before the first update) to 1 (the run is over):
``max(step / iterations, elapsed / budget_seconds)``. Everything that switches during training reads progress, never a
step number, so the same parameters act on slow and fast machines. Step-based schedules under a wall-clock limit are
the fault that this replaces (parameter-golf PRs #1370, #1545, #1575: warmdown, averaging and QAT never reached).

Steps count finished updates: update number ``n`` (from 1) runs at the progress reached by ``n - 1`` updates.
Sources: parameter-golf PR #895 (depth phases, snapshots, momentum warm-up), PR #1681 (cosine warmdown).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from golf.base.errors import GolfError
from golf.base.params import (
    BelowOne,
    Clip,
    Count,
    Ge,
    Gt,
    Layers,
    Le,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Share,
    Size,
)

__all__ = [
    "AdamConfig", "QatConfig", "Schedule", "TrainConfig", "WarmdownShape", "check_qat", "context_at", "depth_at",
    "lr_multiplier", "momentum_at", "multiplier_at", "progress_at", "qat_acts", "qat_differences", "seconds_left",
    "snapshot_due",
]  # fmt: skip

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
    warmdown_floor: float = 0.0  # the multiplier falls to this share and stays there
    context_phases: tuple[tuple[float, int], ...] = ()  # (until this fraction of progress, tokens of attention)
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


def lr_multiplier(progress: float, warmdown: float, shape: WarmdownShape = "linear", floor: float = 0.0) -> float:
    """Learning-rate multiplier in [0, 1]: 1, then falling over the last ``warmdown`` of progress.

    It falls as if to 0, and stays at ``floor`` once it is there (parameter-golf PR #1787).
    """
    into = progress - (1.0 - warmdown)
    if warmdown <= 0.0 or into <= _EDGE:
        return 1.0
    fraction = min(1.0, into / warmdown)
    return max(floor, 0.5 * (1.0 + math.cos(math.pi * fraction)) if shape == "cosine" else 1.0 - fraction)


def depth_at(progress: float, phases: tuple[tuple[float, int], ...], full_depth: int) -> int:
    """Repeats in use: the first phase whose end lies beyond ``progress``, else the last; no phases: full depth."""
    if not phases:
        return full_depth
    for until, repeats in phases:
        if progress < until - _EDGE:
            return repeats
    return phases[-1][1]


def context_at(progress: float, phases: tuple[tuple[float, int], ...]) -> int | None:
    """Tokens that attention reaches back at most, as ``depth_at`` reads phases; ``None``: no phases, no bound."""
    return depth_at(progress, phases, 0) or None


def qat_acts(multiplier: float, below: float) -> bool:
    """Whether an update at this learning-rate multiplier runs at quantized weights."""
    return multiplier < below - _EDGE


def momentum_at(step: int, start: float, end: float, warmup_steps: int) -> float:
    """Muon momentum of the update that follows ``step`` finished ones: linear from ``start`` to ``end``."""
    if step >= warmup_steps:
        return end
    return start + (end - start) * step / warmup_steps


def multiplier_at(progress: float, schedule: Schedule) -> float:
    """``lr_multiplier`` of a schedule."""
    return lr_multiplier(progress, schedule.warmdown, schedule.warmdown_shape, schedule.warmdown_floor)


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
    if multiplier_at(after, schedule) >= schedule.snapshot_below - _EDGE:
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


_ROLES = ("embedding", "attention", "mlp")


@dataclass(frozen=True)
class QatConfig:
    """Section ``train.qat``: when it acts and on which grid."""

    below: Share  # acts while the learning-rate multiplier is below this; 0: never
    clip: Clip  # step of a row = clip * its standard deviation / levels
    levels: dict[str, Annotated[int, Ge(1), Le(127)]]  # per tensor role, as in the section `quantize`

    def __post_init__(self) -> None:
        if set(self.levels) != set(_ROLES):
            raise ValueError(f"levels: found {', '.join(sorted(self.levels))}, expected exactly {', '.join(_ROLES)}")


def check_qat(qat: QatConfig, quantize: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` naming both keys when QAT acts and the section ``quantize`` rounds to another grid.

    QAT prepares for the grid of `sdclip` and loses under every other method (docs/results/gdn_hybrid.md). An empty
    section says nothing.
    """
    if qat.below <= 0 or not quantize:
        return
    methods = {"quantize.method": quantize.get("method")}
    for role, own in (quantize.get("roles") or {}).items():
        if own.get("method") is not None:
            methods[f"quantize.roles.{role}.method"] = own["method"]
    for key, method in methods.items():
        if method != "sdclip":
            raise GolfError(
                f"train.qat.below is {qat.below} and {key} is {method}: QAT trains for the grid of sdclip alone; "
                f"set train.qat.below to 0 or {key} to sdclip"
            )


def qat_differences(qat: QatConfig, quantize: Mapping[str, Any]) -> list[str]:
    """Where steps that training prepares for are not those of the parameter section ``quantize``, in sentences."""
    if qat.below <= 0 or not quantize:
        return []
    out = []
    if quantize.get("clip") != qat.clip:
        out.append(f"train.qat.clip is {qat.clip}, quantize.clip {quantize.get('clip')}; make them equal")
    if dict(quantize.get("levels", {})) != qat.levels:
        out.append(f"train.qat.levels is {qat.levels}, quantize.levels {quantize.get('levels')}; make them equal")
    return out


@dataclass(frozen=True)
class AdamConfig:
    """Section ``train.adam``: of the embedding tables and the control tensors."""

    beta2: BelowOne  # decay of the mean square of gradients
    embedding_decay: NonNegative  # decoupled decay of the tables, per step and unit of learning rate
    control_decay: NonNegative  # decoupled decay of vectors and scalars, per step and unit of learning rate


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Units: tokens, steps (optimizer updates), seconds, fractions of progress."""

    seed: Seed  # of initial weights and data order
    iterations: Annotated[int, Ge(1), Le(10**7)]  # optimizer steps when no time budget ends the run first
    budget_seconds: Annotated[float, Ge(0), Le(10**7)]  # wall-clock budget, seconds of training; 0 runs by steps alone
    tokens_per_step: Count  # tokens in the global batch of one step
    sequence_length: Size  # tokens in one sequence
    micro_batch_tokens: Count  # tokens in one forward pass on one device
    depth_phases: tuple[tuple[Share, Layers], ...]  # (until this fraction of progress, repeats); empty: full depth
    context_phases: tuple[tuple[Share, Size], ...]  # (until this fraction of progress, tokens attention reaches back)
    warmdown: BelowOne  # fraction of progress, at the end, in which the learning rate falls; 0: constant
    warmdown_shape: WarmdownShape
    warmdown_floor: BelowOne  # share of the learning rate at which the fall stops
    matrix_lr: Positive  # Muon learning rate
    embedding_lr: Positive  # AdamW learning rate of the embedding tables
    control_lr: Positive  # AdamW learning rate of vectors and scalars
    weight_decay: NonNegative  # decoupled decay of the matrices, per step and unit of learning rate
    adam: AdamConfig  # second moment and decay of the other tensors
    momentum: BelowOne  # Muon momentum after its warm-up
    momentum_start: BelowOne  # Muon momentum at step 0
    momentum_warmup_steps: Natural  # steps over which the momentum rises
    muon_coefficients: Literal["quintic", "polar_express", "polar_express_5"]  # of the Newton-Schulz iteration
    muon_row_norm: bool  # every row of Muon's direction to length 1 before it is orthogonalized
    newton_schulz_precision: Literal["auto", "bf16", "fp32"]  # auto: bf16 on CUDA, fp32 elsewhere
    grad_clip: NonNegative  # global gradient norm at most; 0: off
    snapshot_every: Annotated[float, Gt(0), Le(1)]  # fraction of progress between two snapshots
    snapshot_below: Share  # snapshots while the multiplier is below this; 0: none
    ema_decay: BelowOne  # decay per step of the exponential moving average; 0: none
    qat: QatConfig  # late quantization-aware training
    precision: Literal["bf16", "fp32"]  # bf16: autocast where the device has it
    allow_slow: bool  # on GPUs: train on without kernel or graph, or slower than the plan's slowest machine
    compile: bool  # torch.compile one graph per depth before the clock starts
    checkpoint_seconds: Positive  # seconds between two checkpoints
    log_seconds: Positive  # seconds between two lines of the run log
    live: bool  # every history row also goes to DVCLive

    def __post_init__(self) -> None:
        """Check what a bound of one number cannot."""
        for name in ("tokens_per_step", "micro_batch_tokens"):
            value, length = getattr(self, name), self.sequence_length
            if value % length:
                raise ValueError(f"{name}: found {value}, expected a multiple of sequence_length ({length})")
        for name in ("depth_phases", "context_phases"):
            ends = [until for until, _ in getattr(self, name)]
            rising = all(a < b for a, b in zip(ends, ends[1:], strict=False))
            if ends and not (rising and ends[0] > 0 and ends[-1] == 1.0):
                raise ValueError(f"{name}: found ends {ends}, expected rising fractions of progress that end at 1.0")
        longest = max((tokens for _, tokens in self.context_phases), default=0)
        if longest > self.sequence_length:
            raise ValueError(f"context_phases: found {longest} tokens, expected sequence_length or less")

    def check_world(self, world: int) -> None:
        """Raise ``ValueError`` naming the valid ones unless the batch divides over ``world`` processes."""
        sequences = self.tokens_per_step // self.sequence_length
        if world < 1 or sequences % world:
            valid = [n for n in range(1, sequences + 1) if sequences % n == 0]
            raise GolfError(f"world size: found {world}, {sequences} sequences a step divide over {valid}")

    @property
    def attention_length(self) -> int:
        """Tokens that attention reaches back at most while training."""
        return max((tokens for _, tokens in self.context_phases), default=self.sequence_length)

    def depths(self, full_depth: int) -> tuple[int, ...]:
        """Those that a model of ``full_depth`` repeats is run at, ascending: of every phase, and the full one."""
        return tuple(sorted({depth for _, depth in self.depth_phases} | {full_depth}))

    def schedule(self, full_depth: int) -> Schedule:
        """The part that says what acts when, for a model of ``full_depth`` repeats."""
        return Schedule(
            iterations=self.iterations,
            budget_seconds=self.budget_seconds,
            full_depth=full_depth,
            depth_phases=self.depth_phases,
            warmdown=self.warmdown,
            warmdown_shape=self.warmdown_shape,
            warmdown_floor=self.warmdown_floor,
            context_phases=self.context_phases,
            snapshot_every=self.snapshot_every,
            snapshot_below=self.snapshot_below,
            ema_decay=self.ema_decay,
            qat_below=self.qat.below,
            momentum_start=self.momentum_start,
            momentum=self.momentum,
            momentum_warmup_steps=self.momentum_warmup_steps,
        )
