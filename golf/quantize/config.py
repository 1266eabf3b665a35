"""Sections `quantize` and `fit` of the parameters, and the recipe that a tensor role gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from golf.base.params import Clip, Count, Ge, Gt, Le, Natural, Share, Size

__all__ = ["QUANTIZED_ROLES", "GptqConfig", "FitConfig", "Method", "QuantizeConfig", "Recipe", "RoleConfig"]

QUANTIZED_ROLES = ("embedding", "attention", "mlp")
Method = Literal["gptq_lite", "sdclip", "gptq", "gptq_trellis"]
_WITH_HESSIANS = ("gptq", "gptq_trellis")


@dataclass(frozen=True)
class GptqConfig:
    """Keys `quantize.gptq`; units and meaning stand beside them in conf/config.yaml."""

    damping: Annotated[float, Gt(0), Le(1)]
    column_exponent: Share
    act_order: bool
    row_exponent: Annotated[float, Ge(0), Le(0.5)]


@dataclass(frozen=True)
class RoleConfig:
    """What one tensor role has of its own; ``None`` takes the value of the whole section."""

    method: Method | None
    clip: Clip | None


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
    levels: dict[str, Annotated[int, Ge(7), Le(127)]]
    percentiles: tuple[Annotated[float, Ge(0.5), Le(1)], ...]
    clip: Clip
    gptq: GptqConfig
    roles: dict[str, RoleConfig]
    control_step: Share

    def __post_init__(self) -> None:
        for key, given in (("levels", self.levels), ("roles", self.roles)):
            if set(given) != set(QUANTIZED_ROLES):
                expected = ", ".join(QUANTIZED_ROLES)
                raise ValueError(f"{key}: found {', '.join(sorted(given))}, expected exactly {expected}")
        if not self.percentiles:
            raise ValueError("percentiles: found none, expected at least one")
        if self.gptq.act_order and "gptq_trellis" in self.methods:
            raise ValueError("gptq.act_order: found true, expected false: the trellis walks columns in storage order")

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

    @property
    def needs_sensitivities(self) -> bool:
        """Whether a method uses what `calibrate` measures by gradients."""
        return self.gptq.row_exponent > 0 and self.needs_hessians


@dataclass(frozen=True)
class FitConfig:
    """Section `fit` of the parameters; see ``golf.quantize.fit``."""

    target_bytes: Natural
    split: Literal["none", "tensor"]
    tokens: Count
    window: Size

    @property
    def acts(self) -> bool:
        """Whether it changes the model at all."""
        return self.target_bytes > 0 or self.split != "none"
