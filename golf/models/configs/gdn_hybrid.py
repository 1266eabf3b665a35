"""Configuration of GDN-Hybrid and its layouts.

A layout, as `gdn5_swa_gdn5_swa_shared`, names the mixer of each block: parts are joined by `_`, `gdnN` is N Gated
DeltaNet blocks, `swaN` N sliding-window attention blocks, and `shared` says that the `swa` blocks just named use the
weights of the first one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from golf.base.errors import GolfError
from golf.base.params import Gain, Ge, Gt, Le, Natural, Positive, Size, quoted
from golf.models.configs.shape import Shape, check_table

__all__ = ["GdnHybridConfig", "LayerPlan", "parse_layout"]

MAX_LAYERS = 1000


@dataclass(frozen=True)
class LayerPlan:
    """One block: its mixer, and the block whose attention weights (swa) or key/value weights (gdn) it uses."""

    kind: Literal["gdn", "swa"]
    source: int  # the block's own index when it shares nothing


def parse_layout(layout: str, kv_share_stride: int = 0) -> tuple[LayerPlan, ...]:
    """The blocks of ``layout`` in order.

    With ``kv_share_stride`` s above 1, in each run of adjacent gdn blocks only every s-th owns keys and values; the
    blocks up to the next owner use its. Raises ``GolfError`` naming the part that is wrong.
    """
    if kv_share_stride < 0:
        raise GolfError(f"kv_share_stride: found {kv_share_stride}, expected 0 (no sharing) or more")
    plans: list[LayerPlan] = []
    parts = layout.split("_")
    for place, part in enumerate(parts):
        if part == "shared":
            continue
        match = re.fullmatch(r"(gdn|swa)(\d{0,3})", part)
        count = int(match.group(2) or 1) if match else 0
        if match is None or not 1 <= count <= MAX_LAYERS - len(plans):
            raise GolfError(
                f"layout: found {quoted(part)} in {quoted(layout)}, expected gdnN, swaN or shared joined by `_`, "
                f"{MAX_LAYERS} blocks at most"
            )
        shared = parts[place + 1 : place + 2] == ["shared"]
        for _ in range(count):
            plans.append(_next(plans, match.group(1), shared, kv_share_stride))
    _check_shared(layout, parts)
    return tuple(plans)


def _next(plans: list[LayerPlan], kind: str, shared: bool, stride: int) -> LayerPlan:
    index = len(plans)
    if kind == "swa":
        first = next((i for i, plan in enumerate(plans) if plan.kind == "swa"), index)
        return LayerPlan("swa", first if shared else index)
    run = 0  # gdn blocks directly before this one
    while run < index and plans[index - 1 - run].kind == "gdn":
        run += 1
    return LayerPlan("gdn", index - run % stride if stride > 1 else index)


def _check_shared(layout: str, parts: list[str]) -> None:
    for place, part in enumerate(parts):
        earlier = [p for p in parts[: max(0, place - 1)] if p.startswith("swa")]
        if part == "shared" and not (place > 0 and parts[place - 1].startswith("swa") and earlier):
            raise GolfError(f"layout: found `shared` in {quoted(layout)} at part {place}, expected a second swa first")


@dataclass(frozen=True)
class GdnHybridConfig(Shape):
    """Shape of a ``GdnHybrid``; meaning and units of each key are in conf/model/gdn_hybrid.yaml.

    The strict loader names a wrong key, what was found and what was expected.
    """

    family: Literal["gdn_hybrid"]
    layout: str
    kv_share_stride: Natural
    width: Size
    delta_heads: Size
    delta_key_dim: Size
    delta_value_dim: Size
    delta_chunk: Size
    delta_norm_eps: Positive
    conv_size: Size
    heads: Size
    kv_heads: Size
    window: Size
    rope_base: Positive
    qk_gain: Gain
    mlp_ratio: Annotated[float, Gt(0), Le(64)]
    negative_slope: Gain
    hash_rows: Natural
    hash_width: Natural
    smear: bool
    bos_id: Annotated[int, Ge(-1), Le(1 << 16)]  # -1 where documents have no first token
    softcap: Positive
    norm_eps: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_layout(self.layout, self.kv_share_stride)
        check_table(self.hash_rows, self.hash_width)

    @property
    def layers(self) -> tuple[LayerPlan, ...]:
        """The blocks in order."""
        return parse_layout(self.layout, self.kv_share_stride)

    def attention_layers(self, depth: int) -> int:
        """0: the whole text is attended to nowhere, and what windows cost is not counted."""
        return 0

    def applied_weights(self, depth: int) -> int:
        keys, values = self.delta_heads * self.delta_key_dim, self.delta_heads * self.delta_value_dim
        total = self.hash_width * self.width if self.hash_rows else 0
        for index, plan in enumerate(self.layers):
            own = plan.source == index  # what is borrowed is counted once, where it is owned
            if plan.kind == "gdn":
                total += self.width * (keys + 2 * values + own * (keys + values))
            total += self.mlp_weights + (self.attention_weights if plan.kind == "swa" and own else 0)
        return total
