"""Search of one number, the log2 of a common step scale, for the size of a real artifact just under a target.

Bytes fall with the scale, by one bit per weight and octave as long as steps are fine, but not smoothly: rows cross
step codes one by one and the feedback of GPTQ is chaotic. So: extrapolate by the known slope until the target lies
between two probes, then regula falsi inside the bracket, bisecting when one end stays put. Deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from golf.errors import GolfError

__all__ = ["RANGE_OCTAVES", "TOLERANCE", "Probe", "Search", "TargetError", "search_scale"]

TOLERANCE = 0.002
"""Share of the target that may stay unused."""
RANGE_OCTAVES = 5.0
"""Scales from 2^-5 to 2^5 of the parameters' steps are tried, no others."""
_MOST_PROBES = 24
_NARROWEST = 2.0**-13  # octaves; no row code moves within so little


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


def search_scale(
    measure: Callable[[float], int], target: int, *, bytes_per_octave: float, start: float = 0.0
) -> Search:
    """The largest size found at most ``target`` bytes, ``measure`` being the bytes at a log2 scale.

    Ends as soon as a size is within ``TOLERANCE`` below the target; after ``_MOST_PROBES`` probes, or where the scale
    can be told no finer, with the nearest below. ``bytes_per_octave`` is the expected slope, positive; ``start`` is the
    first scale tried. Raises ``TargetError`` when the target lies outside what ``RANGE_OCTAVES`` reaches.
    """
    aim = target * (1 - TOLERANCE / 2)
    probes: list[Probe] = []
    over: Probe | None = None  # too many bytes: the coarsest such
    under: Probe | None = None  # at most the target: the finest such
    octaves, same_end = start, 0
    while len(probes) < _MOST_PROBES:
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
            f"quantize.target_bytes: found {probe.total_bytes} bytes with steps {2**probe.octaves:.0f} times those of "
            f"the parameters, the coarsest tried, wanted at most {target}; make the model smaller or raise the target"
        )
    if probe.total_bytes < target and probe.octaves <= -RANGE_OCTAVES:
        raise TargetError(
            f"quantize.target_bytes: found {probe.total_bytes} bytes with steps 1/{2**-probe.octaves:.0f} of those of "
            f"the parameters, the finest tried, wanted {target}: this model cannot use so many; make the model larger, "
            "lower the target, or set it to 0 for no search"
        )
