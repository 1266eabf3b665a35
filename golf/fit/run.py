"""Step scales of the tensors: equal damage per weight (the split), then a size just under a target (the fit).

The size of every probe is that of a real artifact plus the decoder's code. With a split, groups of tensors (roles, or
single tensors) get steps of their own: each group's damage is measured as KL divergence with only that group
quantized. Damage grows with the square of the steps and bytes fall by n / 8 per octave of n weights, so at equal bytes
the sum of damages is least where damage per weight is the same in all groups: octaves_g = log2(n_g / damage_g) / 2 up
to a constant (reverse water-filling, Cover & Thomas ch. 10). Under a target both are fitted and the better is kept.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from golf.fit.search import TOLERANCE, search_scale
from golf.quantize.pipeline import Quantizer, QuantizeResult
from golf.quantize.tensors import QuantizedModel

__all__ = ["Fit", "Group", "fit_to_target", "split_octaves", "split_steps"]

_WIDEST_SPLIT = 3.0  # octaves by which a group may leave the common step scale
Size = Callable[[QuantizedModel], int]
Damage = Callable[[Mapping[str, NDArray[Any]]], float]
Say = Callable[[str], None]
Split = Literal["role", "tensor"]


@dataclass(frozen=True)
class Group:
    """Tensors that share a step scale."""

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


def split_steps(quantizer: Quantizer, *, split: Split, damage: Damage, say: Say = print) -> Fit:
    """The model with steps split by damage, at about the bytes it has with the steps of the parameters.

    ``damage`` maps a whole state dict to nats per token.
    """
    base = quantizer.run()
    before = damage(base.model.state())
    groups = split_octaves(_measured(quantizer, _groups(quantizer, split), base.model, damage))
    _say_groups(groups, say)
    result = quantizer.run(_scales(groups, 0.0))
    after = damage(result.model.state())
    say(f"split by {split}: KL to the float model {before:.5f} -> {after:.5f} nats per token of training text")
    metrics = {"unsplit_divergence_nats": before, "divergence_nats": after}
    return Fit(result, tuple(groups), 0.0, after, metrics)


def fit_to_target(
    quantizer: Quantizer,
    *,
    size: Size,
    target: int,
    split: Split | None = None,
    damage: Damage | None = None,
    say: Say = print,
) -> Fit:
    """The model with the finest steps whose ``size`` (artifact and decoder, bytes) is at most ``target``.

    With ``split``, ``damage`` (a whole state dict to nats per token) is needed. Every probe and what was traded goes to
    ``say``. Raises ``TargetError`` when no step scale in reach leads to the target.
    """
    first = _search(quantizer, [_everything(quantizer)], size=size, target=target, start=0.0, say=say)
    if split is None:
        return first
    assert damage is not None
    first = _judged(first, damage)
    groups = split_octaves(_measured(quantizer, _groups(quantizer, split), first.result.model, damage))
    _say_groups(groups, say)
    second = _judged(_search(quantizer, groups, size=size, target=target, start=first.octaves, say=say), damage)
    kept = second.divergence < first.divergence
    say(
        f"fit: split by {split}: KL to the float model {first.divergence:.5f} -> {second.divergence:.5f} nats "
        f"per token of training text at equal bytes; {'kept' if kept else 'not kept'}"
    )
    best = second if kept else first
    probes = first.metrics["fit_probes"] + second.metrics["fit_probes"]
    more = {"unsplit_divergence_nats": first.divergence, "fit_probes": probes, "split_kept": float(kept)}
    return dataclasses.replace(best, metrics=best.metrics | more)


def split_octaves(groups: list[Group]) -> list[Group]:
    """``groups`` with the octaves that equalise damage per weight, at most 3 either way, of weighted mean 0."""
    floor = 1e-6 * max((group.damage for group in groups), default=0.0) or 1.0
    wanted = [0.5 * math.log2(group.weights / max(group.damage, floor)) for group in groups]
    share = np.array([group.weights for group in groups], np.float64) / sum(group.weights for group in groups)
    octaves = np.array(wanted) - float(np.dot(share, wanted))
    octaves = np.clip(octaves, -_WIDEST_SPLIT, _WIDEST_SPLIT)
    octaves -= float(np.dot(share, octaves))
    return [dataclasses.replace(group, octaves=float(shift)) for group, shift in zip(groups, octaves, strict=True)]


def _everything(quantizer: Quantizer) -> Group:
    names = quantizer.quantized_names()
    return Group("all", tuple(names), sum(quantizer.state[name].size for name in names))


def _scales(groups: list[Group], octaves: float) -> dict[str, float]:
    return {name: 2.0 ** (octaves + group.octaves) for group in groups for name in group.members}


def _groups(quantizer: Quantizer, split: Split) -> list[Group]:
    members: dict[str, list[str]] = {}
    for name in quantizer.quantized_names():
        members.setdefault(quantizer.roles[name] if split == "role" else name, []).append(name)
    sizes = {group: sum(quantizer.state[name].size for name in names) for group, names in members.items()}
    return [Group(group, tuple(names), sizes[group]) for group, names in members.items()]


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


def _search(
    quantizer: Quantizer, groups: list[Group], *, size: Size, target: int, start: float, say: Say
) -> Fit:
    kept: dict[int, QuantizeResult] = {}  # by total bytes: the largest that fits, and no other
    count = 0
    say("fit: | probe | step scale | total bytes | of target | output error | bits/weight | seconds |")

    def measure(octaves: float) -> int:
        nonlocal count
        started = time.perf_counter()
        result = quantizer.run(_scales(groups, octaves))
        total = size(result.model)
        if max(kept, default=0) < total <= target:
            kept.clear()
            kept[total] = result
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
    return Fit(kept[best.total_bytes], tuple(groups), best.octaves, math.nan, metrics)


def _judged(fit: Fit, damage: Damage) -> Fit:
    nats = damage(fit.result.model.state())
    return dataclasses.replace(fit, divergence=nats, metrics=fit.metrics | {"divergence_nats": nats})


def _say_groups(groups: list[Group], say: Say) -> None:
    say("split: | KL alone, nats |    weights | steps times | group |")
    for group in sorted(groups, key=lambda group: -group.damage):
        say(f"split: | {group.damage:14.6f} | {group.weights:10,d} | {2**group.octaves:11.3f} | {group.name} |")
