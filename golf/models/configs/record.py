"""Configuration of the record stack, and which of its layers is applied when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from golf.base.errors import GolfError
from golf.base.params import Gain, Ge, Gt, Layers, Le, Natural, Positive, Size
from golf.models.configs.shape import Shape, check_table

__all__ = ["RecordConfig", "applications"]


@dataclass(frozen=True)
class RecordConfig(Shape):
    """Shape of a ``Record``; meaning and units of each key are in conf/model/record_512.yaml.

    The strict loader names a wrong key, what was found and what was expected.
    """

    family: Literal["record"]
    width: Size
    layers: Layers
    loop: tuple[Natural, Natural]
    repeats: Annotated[int, Ge(1), Le(16)]
    untied: bool
    lanes_from: Natural
    heads: Size
    kv_heads: Size
    rope_dims: Size
    rope_base: Positive
    qk_gain: Gain
    exclusive: bool
    layer_scale: bool
    skips: bool
    gate_width: Natural
    smear_width: Natural
    hash_rows: Natural
    hash_width: Natural
    mlp_ratio: Annotated[float, Gt(0), Le(64)]
    negative_slope: Gain
    bos_id: Annotated[int, Ge(-1), Le(1 << 16)]
    softcap: Positive
    norm_eps: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        first, last = self.loop
        if not first <= last < self.layers:
            raise GolfError(f"loop: found [{first}, {last}], expected first <= last < layers ({self.layers})")
        if self.untied and self.repeats == 1:
            raise GolfError("untied: found true with repeats 1, expected repeats 2 or more or untied false")
        head_dim = self.width // self.heads
        if self.rope_dims % 2 or self.rope_dims > head_dim:
            raise GolfError(f"rope_dims: found {self.rope_dims}, expected an even one up to the head width {head_dim}")
        for name in ("gate_width", "smear_width"):
            if getattr(self, name) > self.width:
                raise GolfError(f"{name}: found {getattr(self, name)}, expected 0 to width ({self.width})")
        check_table(self.hash_rows, self.hash_width)

    def applications(self, depth: int) -> list[tuple[int, int]]:
        """``(layer, block)`` of each application when the loop runs ``depth`` times; tied repeats share a block."""
        return applications(self.layers, self.loop, depth, untied=self.untied)

    def attention_layers(self, depth: int) -> int:
        return len(self.applications(depth))


def applications(layers: int, loop: tuple[int, int], depth: int, *, untied: bool) -> list[tuple[int, int]]:
    """``(layer, block)`` of each application when ``loop``, first and last layer of it, runs ``depth`` times.

    Tied repeats share the block of their layer; untied ones have blocks of their own behind those of all ``layers``.
    """
    first, last = loop
    length = last - first + 1
    out = [(layer, layer) for layer in range(last + 1)]
    for repeat in range(1, depth):
        behind = layers + (repeat - 1) * length if untied else first
        out += [(first + i, behind + i) for i in range(length)]
    return out + [(layer, layer) for layer in range(last + 1, layers)]
