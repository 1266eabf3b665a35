"""Configuration of the flat transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from golf.base.params import Gain, Gt, Layers, Le, Positive, Size
from golf.models.configs.shape import Shape

__all__ = ["TransformerConfig"]


@dataclass(frozen=True)
class TransformerConfig(Shape):
    """Shape of a ``Transformer``; meaning and units of each key are in conf/model/transformer_512.yaml.

    The strict loader names a wrong key, what was found and what was expected.
    """

    family: Literal["transformer"]
    width: Size
    layers: Layers
    heads: Size
    kv_heads: Size
    mlp_ratio: Annotated[float, Gt(0), Le(64)]
    unet_skips: bool
    negative_slope: Gain
    softcap: Positive
    rope_base: Positive
    qk_gain: Gain
    norm_eps: Positive

    @property
    def skips(self) -> int:
        """Connections from the first half of the layers to the second."""
        return self.layers // 2 if self.unet_skips else 0

    def attention_layers(self, depth: int) -> int:
        return self.layers
