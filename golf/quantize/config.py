"""Section `quantize` of the parameters, and the recipe it gives to every tensor role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from golf.base.errors import GolfError

__all__ = ["QUANTIZED_ROLES", "GptqConfig", "Method", "QuantizeConfig", "Recipe", "RoleConfig", "SplitConfig"]

QUANTIZED_ROLES = ("embedding", "attention", "mlp")
Method = Literal["gptq_lite", "sdclip", "gptq", "gptq_trellis"]
_LARGEST_CLIP = 1000.0
_WITH_HESSIANS = ("gptq", "gptq_trellis")


@dataclass(frozen=True)
class GptqConfig:
    """Keys `quantize.gptq`; units and meaning stand beside them in conf/config.yaml."""

    damping: float = 0.01
    column_exponent: float = 0.5
    act_order: bool = False
    token_exponent: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.damping) and 0 < self.damping <= 1):
            raise GolfError(f"damping: found {self.damping}, expected above 0, 1 at most (0.01 is usual)")
        if not 0 <= self.column_exponent <= 1:
            raise GolfError(f"column_exponent: found {self.column_exponent}, expected 0 (none) to 1 (water-filling)")
        if not 0 <= self.token_exponent <= 0.5:
            raise GolfError(f"token_exponent: found {self.token_exponent}, expected 0 (off) to 0.5 (water-filling)")


@dataclass(frozen=True)
class RoleConfig:
    """What one tensor role has of its own; ``None`` takes the value of the whole section."""

    method: Method | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.clip is not None:
            _check_clip(self.clip)


@dataclass(frozen=True)
class SplitConfig:
    """Keys `quantize.split`; see ``golf.quantize.fit``."""

    by: Literal["none", "tensor"] = "none"
    tokens: int = 2048
    window: int = 256

    def __post_init__(self) -> None:
        for key in ("tokens", "window"):
            if getattr(self, key) < 1:
                raise GolfError(f"{key}: found {getattr(self, key)}, expected 1 or more")


@dataclass(frozen=True)
class Recipe:
    """How one tensor is quantized: the settings of its role, with steps ``scale`` times as wide."""

    method: Method
    levels: int
    clip: float
    scale: float = 1.0

    @property
    def scaled_levels(self) -> float:
        """``levels / scale``, 1 to 127: gptq_lite's step is clip / levels, so this makes its steps ``scale`` as wide.

        The integers change range with it and the clip stays where the search of percentiles puts it.
        """
        return float(min(127.0, max(1.0, self.levels / self.scale)))

    @property
    def scaled_clip(self) -> float:
        """``clip * scale``: steps of every other method are this many standard deviations / ``levels``."""
        return self.clip * self.scale


@dataclass(frozen=True)
class QuantizeConfig:
    """Section `quantize` of the parameters; units and meaning stand beside the keys in conf/config.yaml."""

    method: Method
    levels: dict[str, int]
    percentiles: tuple[float, ...]
    clip: float
    gptq: GptqConfig = field(default_factory=GptqConfig)
    roles: dict[str, RoleConfig] = field(default_factory=lambda: dict.fromkeys(QUANTIZED_ROLES, RoleConfig()))
    target_bytes: int = 0
    split: SplitConfig = field(default_factory=SplitConfig)
    control_step: float = 0.0

    def __post_init__(self) -> None:
        for key, given in (("levels", self.levels), ("roles", self.roles)):
            if set(given) != set(QUANTIZED_ROLES):
                expected = ", ".join(QUANTIZED_ROLES)
                raise GolfError(f"{key}: found {', '.join(sorted(given))}, expected exactly {expected}")
        for role, levels in self.levels.items():
            if not 7 <= levels <= 127:
                raise GolfError(f"levels.{role}: found {levels}, expected 7 (4 bit) to 127 (8 bit)")
        if not self.percentiles or not all(0.5 <= p <= 1.0 for p in self.percentiles):
            raise GolfError(f"percentiles: found {list(self.percentiles)}, expected at least one in 0.5..1")
        _check_clip(self.clip)
        if self.gptq.act_order and "gptq_trellis" in self.methods:
            raise GolfError("gptq.act_order: found true, expected false: the trellis walks columns in storage order")
        if not 0 <= self.control_step <= 1:
            raise GolfError(f"control_step: found {self.control_step}, expected 0 (none) to 1 root mean square")
        if self.target_bytes < 0:
            raise GolfError(f"target_bytes: found {self.target_bytes}, expected a number of bytes, or 0 for no search")

    def recipe(self, role: str, *, scale: float = 1.0) -> Recipe:
        """The recipe of ``role``, one of ``QUANTIZED_ROLES``, with steps ``scale`` times those of the parameters."""
        own = self.roles[role]
        return Recipe(own.method or self.method, self.levels[role], own.clip or self.clip, scale)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods in use, by role."""
        return tuple(self.recipe(role).method for role in QUANTIZED_ROLES)

    @property
    def needs_hessians(self) -> bool:
        """Whether a method uses what `calibrate` makes."""
        return any(method in _WITH_HESSIANS for method in self.methods)


def _check_clip(clip: float) -> None:
    if not (np.isfinite(clip) and 0 < clip <= _LARGEST_CLIP):
        raise GolfError(f"clip: found {clip}, expected a number of standard deviations above 0, 1000 at most")
