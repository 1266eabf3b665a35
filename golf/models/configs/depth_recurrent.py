"""Configuration of the depth-recurrent model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from golf.base.params import Gain, Ge, Gt, Layers, Le, Natural, Positive, Size
from golf.models.configs.shape import Shape

__all__ = ["DepthRecurrentConfig"]


@dataclass(frozen=True)
class DepthRecurrentConfig(Shape):
    """Shape of a ``DepthRecurrent`` model; meaning and units of each key are in conf/model/depth_recurrent_small.yaml.

    The strict loader names a wrong key, what was found and what was expected.
    """

    family: Literal["depth_recurrent"]
    width: Size
    blocks: Layers
    repeats: Layers
    heads: Size
    kv_heads: Size
    mlp_ratio: Annotated[float, Gt(0), Le(64)]
    value_tables: Annotated[int, Ge(0), Le(1000)]
    cross_repeat_skip: bool
    xsa_last: Natural
    negative_slope: Gain
    softcap: Positive
    rope_base: Positive
    qk_gain: Gain
    norm_eps: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.blocks * self.repeats
        if self.xsa_last > layers:
            raise ValueError(f"xsa_last: found {self.xsa_last}, expected 0 to {layers} (blocks * repeats)")

    def attention_layers(self, depth: int) -> int:
        return self.blocks * depth
