"""Step scales of the tensors: equal damage per weight (the split), then a size just under a target (the fit).

The size of every probe is that of a real artifact plus the decoder's code. With a split, every tensor gets steps of its
own: its damage is measured as KL divergence with only that tensor quantized. Damage grows with the square of the steps
and bytes fall by n / 8 per octave of n weights, so at equal bytes the sum of damages is least where damage per weight
is the same in all tensors: octaves_t = log2(n_t / damage_t) / 2 up to a constant (reverse water-filling, Cover & Thomas
ch. 10). Under a target both are fitted and the better is kept.

The search is of one number, the log2 of a common step scale. Bytes fall with it by one bit per weight and octave as
long as steps are fine, but not smoothly: rows cross step codes one by one and the feedback of GPTQ is chaotic. So:
extrapolate by the known slope until the target lies between two probes, then regula falsi inside the bracket, bisecting
when one end stays put. Deterministic.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError
from golf.quantize.calibrate import TokenSource
from golf.quantize.config import FitConfig
from golf.quantize.pipeline import Quantizer, QuantizeResult
from golf.quantize.tensors import QuantizedModel

__all__ = [
    "RANGE_OCTAVES",
    "TOLERANCE",
    "Fit",
    "Group",
    "Probe",
    "Search",
    "TargetError",
    "fit_to_target",
    "fitted",
    "search_scale",
    "split_octaves",
    "split_steps",
]

TOLERANCE = 0.002
"""Share of the target that may stay unused."""
RANGE_OCTAVES = 5.0
"""Scales from 2^-5 to 2^5 of the parameters' steps are tried, no others."""
_MAX_PROBES = 24
_NARROWEST = 2.0**-13  # octaves; no row code moves within so little
_WIDEST_SPLIT = 3.0  # octaves by which a tensor may leave the common step scale
Size = Callable[[QuantizedModel], int]
Damage = Callable[[Mapping[str, NDArray[Any]]], float]
Say = Callable[[str], None]


class TargetError(GolfError):
    """No step scale leads to the target; the message says what was found and what to change."""


@dataclass(frozen=True)
class Probe:
    """One size that was really measured."""

    octaves: float  # log2 of the step scale
    total_bytes: int


@dataclass(frozen=True)
class Search:
    """The probe that won and all probes in order."""

    best: Probe
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Group:
    """Tensors that share a step scale: all of them, or with a split one each."""

    name: str
    members: tuple[str, ...]
    weights: int
    damage: float = math.nan  # nats per token, with only this group quantized, before the split
    octaves: float = 0.0  # log2 of its steps over the common ones


@dataclass(frozen=True)
class Fit:
    """The quantized model that was chosen, and how it was found."""

    result: QuantizeResult
    groups: tuple[Group, ...]
    octaves: float  # log2 of the common step scale
    divergence: float  # nats per token on the windows of the damage; nan where none was measured
    metrics: dict[str, float] = field(default_factory=dict)


def fitted(
    quantizer: Quantizer, config: FitConfig, *, text: TokenSource, size: Size, say: Say = print
) -> QuantizeResult:
    """The model that ``config`` asks for; ``text`` is the training split, on which damage is measured."""
    from golf.quantize.calibrate import Divergence, training_windows

    damage: Damage | None = None
    if config.split == "tensor":
        windows = training_windows(text, tokens=config.tokens, window=config.window)
        damage = Divergence(quantizer.model, quantizer.state, windows)
    if config.target_bytes:
        fit = fit_to_target(quantizer, size=size, target=config.target_bytes, damage=damage, say=say)
    elif damage is not None:
        fit = split_steps(quantizer, damage=damage, say=say)
    else:
        return quantizer.run()
    return QuantizeResult(fit.result.model, fit.result.rows, fit.result.metrics | fit.metrics)


def split_steps(quantizer: Quantizer, *, damage: Damage, say: Say = print) -> Fit:
    """The model with steps split by damage, at about the bytes it has with the steps of the parameters.

    ``damage`` maps a whole state dict to nats per token.
    """
    base = quantizer.run()
    before = damage(base.model.state())
    groups = split_octaves(_measured(quantizer, _tensors(quantizer), base.model, damage))
    _say_groups(groups, say)
    result = quantizer.run(_scales(groups, 0.0))
    after = damage(result.model.state())
    say(f"split by tensor: KL to the float model {before:.5f} -> {after:.5f} nats per token of training text")
    metrics = {"unsplit_divergence_nats": before, "divergence_nats": after}
    return Fit(result, tuple(groups), 0.0, after, metrics)


def fit_to_target(
    quantizer: Quantizer,
    *,
    size: Size,
    target: int,
    damage: Damage | None = None,
    say: Say = print,
) -> Fit:
    """The model with the finest steps whose ``size`` (artifact and decoder, bytes) is at most ``target``.

    With ``damage`` (a whole state dict to nats per token) steps are also split by tensor, and the better of the two is
    taken. Every probe and what was traded goes to ``say``. Raises ``TargetError`` when no step scale in reach leads to
    the target.
    """
    first = _search(quantizer, [_everything(quantizer)], size=size, target=target, start=0.0, say=say)
    if damage is None:
        return first
    first = _judged(first, damage)
    groups = split_octaves(_measured(quantizer, _tensors(quantizer), first.result.model, damage))
    _say_groups(groups, say)
    second = _judged(_search(quantizer, groups, size=size, target=target, start=first.octaves, say=say), damage)
    better = second.divergence < first.divergence
    say(
        f"fit: split by tensor: KL to the float model {first.divergence:.5f} -> {second.divergence:.5f} nats "
        f"per token of training text at equal bytes; {'kept' if better else 'not kept'}"
    )
    best = second if better else first
    probes = first.metrics["fit_probes"] + second.metrics["fit_probes"]
    more = {"unsplit_divergence_nats": first.divergence, "fit_probes": probes, "split_kept": float(better)}
    return dataclasses.replace(best, metrics=best.metrics | more)


def split_octaves(groups: list[Group]) -> list[Group]:
    """``groups`` with the octaves that equalize damage per weight, at most 3 either way, of weighted mean 0."""
    floor = 1e-6 * max((group.damage for group in groups), default=0.0) or 1.0
    ideal = [0.5 * math.log2(group.weights / max(group.damage, floor)) for group in groups]
    share = np.array([group.weights for group in groups], np.float64) / sum(group.weights for group in groups)
    octaves = np.array(ideal) - float(np.dot(share, ideal))
    octaves = np.clip(octaves, -_WIDEST_SPLIT, _WIDEST_SPLIT)
    octaves -= float(np.dot(share, octaves))
    return [dataclasses.replace(group, octaves=float(shift)) for group, shift in zip(groups, octaves, strict=True)]


def _everything(quantizer: Quantizer) -> Group:
    names = quantizer.quantized_names()
    return Group("all", tuple(names), sum(quantizer.state[name].size for name in names))


def _scales(groups: list[Group], octaves: float) -> dict[str, float]:
    return {name: 2.0 ** (octaves + group.octaves) for group in groups for name in group.members}


def _tensors(quantizer: Quantizer) -> list[Group]:
    return [Group(name, (name,), quantizer.state[name].size) for name in quantizer.quantized_names()]


def _measured(quantizer: Quantizer, groups: list[Group], model: QuantizedModel, damage: Damage) -> list[Group]:
    """Damage of every group: its tensors from ``model``, all others exact."""
    quantized = model.state()
    aliases: dict[str, list[str]] = {}
    for alias, name in quantizer.aliases.items():
        aliases.setdefault(name, [name]).append(alias)
    found = []
    for group in groups:
        names = [alias for name in group.members for alias in aliases.get(name, [name])]
        nats = damage({**quantizer.state, **{name: quantized[name] for name in names}})
        found.append(dataclasses.replace(group, damage=nats))
    return found


def _search(quantizer: Quantizer, groups: list[Group], *, size: Size, target: int, start: float, say: Say) -> Fit:
    best_below: dict[int, QuantizeResult] = {}  # by total bytes: the largest that fits, and no other
    count = 0
    say("fit: | probe | step scale | total bytes | of target | output error | bits/weight | seconds |")

    def measure(octaves: float) -> int:
        nonlocal count
        started = time.perf_counter()
        result = quantizer.run(_scales(groups, octaves))
        total = size(result.model)
        if max(best_below, default=0) < total <= target:
            best_below.clear()
            best_below[total] = result
        count += 1
        error, bits = (result.metrics[f"quantized_{key}"] for key in ("output_error", "bits_per_weight"))
        say(
            f"fit: | {count:5d} | {2**octaves:10.4f} | {total:11,d} | {100 * total / target:7.2f} % | {error:12.6f} | "
            f"{bits:11.3f} | {time.perf_counter() - started:7.1f} |"
        )
        return total

    slope = sum(group.weights for group in groups) / 8
    best = search_scale(measure, target, bytes_per_octave=slope, start=start).best
    unused = 1 - best.total_bytes / target
    if unused > TOLERANCE:
        say(f"fit: {100 * unused:.2f} % of the target stay unused: the sizes of so small a model jump that far")
    metrics = {
        "fit_probes": float(count),
        "fit_total_bytes": float(best.total_bytes),
        "fit_unused_share": unused,
        "fit_step_scale": 2.0**best.octaves,
    }
    return Fit(best_below[best.total_bytes], tuple(groups), best.octaves, math.nan, metrics)


def _judged(fit: Fit, damage: Damage) -> Fit:
    nats = damage(fit.result.model.state())
    return dataclasses.replace(fit, divergence=nats, metrics=fit.metrics | {"divergence_nats": nats})


def _say_groups(groups: list[Group], say: Say) -> None:
    say("split: | KL alone, nats |    weights | steps times | group |")
    for group in sorted(groups, key=lambda group: -group.damage):
        say(f"split: | {group.damage:14.6f} | {group.weights:10,d} | {2**group.octaves:11.3f} | {group.name} |")


def search_scale(
    measure: Callable[[float], int], target: int, *, bytes_per_octave: float, start: float = 0.0
) -> Search:
    """The largest size found at most ``target`` bytes, ``measure`` being the bytes at a log2 scale.

    Ends as soon as a size is within ``TOLERANCE`` below the target; after ``_MAX_PROBES`` probes, or where the scale
    can be told no finer, with the nearest below. ``bytes_per_octave`` is the expected slope, positive; ``start`` is the
    first scale tried. Raises ``TargetError`` when the target lies outside what ``RANGE_OCTAVES`` reaches.
    """
    aim = target * (1 - TOLERANCE / 2)
    probes: list[Probe] = []
    over: Probe | None = None  # too many bytes: the coarsest such
    under: Probe | None = None  # at most the target: the finest such
    octaves, same_end = start, 0
    while len(probes) < _MAX_PROBES:
        probe = Probe(octaves, measure(octaves))
        probes.append(probe)
        if target * (1 - TOLERANCE) <= probe.total_bytes <= target:
            return Search(probe, tuple(probes))
        if probe.total_bytes > target:
            same_end, over = max(1, same_end + 1), probe
        else:
            same_end, under = min(-1, same_end - 1), probe
        if over is None or under is None:
            _check_reach(probe, target)
            step = (probe.total_bytes - aim) / bytes_per_octave * 1.25 ** (abs(same_end) - 1)
            octaves = max(-RANGE_OCTAVES, min(RANGE_OCTAVES, octaves + max(-2.0, min(2.0, step))))
            continue
        width = under.octaves - over.octaves
        if width < _NARROWEST:
            break
        share = 0.5 if abs(same_end) > 2 else (over.total_bytes - aim) / (over.total_bytes - under.total_bytes)
        octaves = over.octaves + width * max(0.05, min(0.95, share))
    below = [probe for probe in probes if probe.total_bytes <= target]
    if not below:
        raise TargetError(f"found no size below {target} in {len(probes)} probes; the sizes do not fall with the steps")
    return Search(max(below, key=lambda probe: probe.total_bytes), tuple(probes))


def _check_reach(probe: Probe, target: int) -> None:
    if probe.total_bytes > target and probe.octaves >= RANGE_OCTAVES:
        raise TargetError(
            f"fit.target_bytes: found {probe.total_bytes} bytes with steps {2**probe.octaves:.0f} times those of "
            f"the parameters, the coarsest tried, expected at most {target}; make the model smaller or raise the target"
        )
    if probe.total_bytes < target and probe.octaves <= -RANGE_OCTAVES:
        raise TargetError(
            f"fit.target_bytes: found {probe.total_bytes} bytes with steps 1/{2**-probe.octaves:.0f} of those of "
            f"the parameters, the finest tried, expected {target}: this model cannot use so many; make the model "
            "larger, lower the target, or set it to 0 for no search"
        )
