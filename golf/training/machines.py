"""How fast credible machines train a model: the range for which a wall-clock plan must hold.

A training token costs 6 floating-point operations per weight it is multiplied with (forward 2, backward 4), and causal
attention 6 T D per layer (scores and values, half of the T x T square). Sources: arXiv 2001.08361 (counting);
parameter-golf PR #895, whose published step times on 8 H100 lie inside the range, see tests/training/test_machines.py.

Shapes: ``T`` tokens in a sequence, ``D`` width, ``V`` vocabulary.
"""

from __future__ import annotations

from golf.errors import GolfError
from golf.models.base import LanguageModel
from golf.schedule.plan import Machine

__all__ = ["PEAK_FLOPS", "credible_machines", "flops_per_token", "steady_machine"]

PEAK_FLOPS = 989e12  # dense bf16, one H100 or H200 SXM
_SLOW_SHARE, _FAST_SHARE = 0.15, 0.6  # of the peak that training reaches: public runs 0.2 to 0.45


def flops_per_token(model: LanguageModel, depth: int, sequence_length: int) -> float:
    """Operations of forward and backward per training token at ``depth`` repeats; lookups and optimiser not counted."""
    shared = sum(
        parameter.numel()
        for name, parameter in model.unique_parameters().items()
        if model.role(name) in ("attention", "mlp")
    )
    vocab, width = model.token_embedding.shape
    before = model.depth
    model.set_depth(depth)
    layers = getattr(model, "attention_layers", 0)
    model.set_depth(before)
    return 6.0 * (shared * depth + vocab * width + layers * sequence_length * width)


def credible_machines(
    model: LanguageModel, depths: tuple[int, ...], *, tokens_per_step: int, sequence_length: int, world: int
) -> tuple[Machine, ...]:
    """The slowest and the fastest machine of ``world`` H100-class devices, by the share of their peak they reach."""
    machines = []
    for share in (_SLOW_SHARE, _FAST_SHARE):
        rate = world * share * PEAK_FLOPS
        seconds = {depth: tokens_per_step * flops_per_token(model, depth, sequence_length) / rate for depth in depths}
        machines.append(Machine(f"{world} x H100 at {share:.0%} of peak", seconds))
    return tuple(machines)


def steady_machine(steps_per_second: float, depths: tuple[int, ...]) -> Machine:
    """A machine that makes ``steps_per_second`` updates at every depth. Raises ``ValueError`` unless above 0."""
    if not steps_per_second > 0:
        raise GolfError(f"steps per second: found {steps_per_second}, wanted more than 0")
    return Machine(f"{steps_per_second:g} steps/s", dict.fromkeys(depths, 1.0 / steps_per_second))
