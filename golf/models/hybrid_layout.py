"""Layout strings of hybrid models, as `gdn5_swa_gdn5_swa_shared`: which mixer each block has and whose weights it uses.

Parts are joined by `_`: `gdnN` is N Gated DeltaNet blocks (`gdn` one), `swaN` N sliding-window attention blocks, and
`shared` says that the `swa` blocks just named use the weights of the first one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from golf.errors import GolfError

__all__ = ["LayerPlan", "parse_layout"]


@dataclass(frozen=True)
class LayerPlan:
    """One block: its mixer, and the block whose attention weights (swa) or key/value weights (gdn) it uses."""

    kind: Literal["gdn", "swa"]
    source: int  # the block's own index when it shares nothing


def parse_layout(layout: str, kv_share_stride: int = 0) -> tuple[LayerPlan, ...]:
    """The blocks of ``layout`` in order.

    With ``kv_share_stride`` s above 1, in each run of adjacent gdn blocks only every s-th owns keys and values; the
    blocks up to the next owner use its. Raises ``ValueError`` naming the part that is wrong.
    """
    if kv_share_stride < 0:
        raise GolfError(f"kv_share_stride: found {kv_share_stride}, wanted 0 (no sharing) or more")
    plans: list[LayerPlan] = []
    parts = layout.split("_")
    for place, part in enumerate(parts):
        if part == "shared":
            continue
        match = re.fullmatch(r"(gdn|swa)(\d*)", part)
        count = int(match.group(2) or 1) if match else 0
        if match is None or count < 1:
            raise GolfError(f"layout: found `{part}` in `{layout}`, wanted gdnN, swaN or shared joined by `_`")
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
            raise GolfError(f"layout: found `shared` in `{layout}` at part {place}, wanted it after a second swa")
