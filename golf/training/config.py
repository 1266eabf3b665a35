"""Parameters of training (section ``train`` of the parameter file)."""

from __future__ import annotations

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
from golf.training.schedule import Schedule, WarmdownShape

__all__ = ["QatConfig", "TrainConfig", "check_qat", "qat_differences"]

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
class TrainConfig:
    """How to train. Units: tokens, steps (optimizer updates), seconds, fractions of progress."""

    seed: Seed  # of initial weights and data order
    iterations: Annotated[int, Ge(1), Le(10**7)]  # optimizer steps when no time budget ends the run first
    budget_seconds: Annotated[float, Ge(0), Le(10**7)]  # wall-clock budget, seconds of training; 0 runs by steps alone
    tokens_per_step: Count  # tokens in the global batch of one step
    sequence_length: Size  # tokens in one sequence
    micro_batch_tokens: Count  # tokens in one forward pass on one device
    depth_phases: tuple[tuple[Share, Layers], ...]  # (until this fraction of progress, repeats); empty: full depth
    warmdown: BelowOne  # fraction of progress, at the end, in which the learning rate falls; 0: constant
    warmdown_shape: WarmdownShape
    matrix_lr: Positive  # Muon learning rate
    embedding_lr: Positive  # AdamW learning rate of the embedding tables
    control_lr: Positive  # AdamW learning rate of vectors and scalars
    weight_decay: NonNegative  # decoupled decay of the matrices, per step and unit of learning rate
    momentum: BelowOne  # Muon momentum after its warm-up
    momentum_start: BelowOne  # Muon momentum at step 0
    momentum_warmup_steps: Natural  # steps over which the momentum rises
    muon_coefficients: Literal["quintic", "polar_express"]  # of the Newton-Schulz iteration
    muon_row_norm: bool  # every row of Muon's direction to length 1 before it is orthogonalized
    newton_schulz_precision: Literal["auto", "bf16", "fp32"]  # auto: bf16 on CUDA, fp32 elsewhere
    grad_clip: NonNegative  # global gradient norm at most; 0: off
    snapshot_every: Annotated[float, Gt(0), Le(1)]  # fraction of progress between two snapshots
    snapshot_below: Share  # snapshots while the multiplier is below this; 0: none
    ema_decay: BelowOne  # decay per step of the exponential moving average; 0: none
    qat: QatConfig  # late quantization-aware training
    precision: Literal["bf16", "fp32"]  # bf16: autocast where the device has it
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
        ends = [until for until, _ in self.depth_phases]
        rising = all(a < b for a, b in zip(ends, ends[1:], strict=False))
        if ends and not (rising and ends[0] > 0 and ends[-1] == 1.0):
            raise ValueError(f"depth_phases: found ends {ends}, expected rising fractions of progress that end at 1.0")

    def check_world(self, world: int) -> None:
        """Raise ``ValueError`` naming the valid ones unless the batch divides over ``world`` processes."""
        sequences = self.tokens_per_step // self.sequence_length
        if world < 1 or sequences % world:
            valid = [n for n in range(1, sequences + 1) if sequences % n == 0]
            raise GolfError(f"world size: found {world}, {sequences} sequences a step divide over {valid}")

    def schedule(self, full_depth: int) -> Schedule:
        """The part that says what acts when, for a model of ``full_depth`` repeats."""
        return Schedule(
            iterations=self.iterations,
            budget_seconds=self.budget_seconds,
            full_depth=full_depth,
            depth_phases=self.depth_phases,
            warmdown=self.warmdown,
            warmdown_shape=self.warmdown_shape,
            snapshot_every=self.snapshot_every,
            snapshot_below=self.snapshot_below,
            ema_decay=self.ema_decay,
            qat_below=self.qat.below,
            momentum_start=self.momentum_start,
            momentum=self.momentum,
            momentum_warmup_steps=self.momentum_warmup_steps,
        )
