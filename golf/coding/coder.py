"""What every coder of integer matrices is: a numbered pair of functions, and what both of its sides know beforehand.

``R`` rows, ``C`` columns. A coder turns integers (R, C) int16 into ``side`` bytes (tables; packed together with the
other small data of the artifact) and ``payload`` bytes (already dense).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golf.coding.blocks import ArtifactError

__all__ = ["NEVER", "Coder", "Integers", "SideInfo", "as_int16"]

NEVER = 1 << 62  # a coder that "cannot get below this" is not tried
Integers = NDArray[np.int16]


@dataclass(frozen=True)
class SideInfo:
    """What both sides know of a tensor before its integers: name for errors, R, C, scales, trellis or not."""

    name: str
    rows: int
    columns: int
    row_scale: NDArray[np.float16] | NDArray[np.int8]  # (R,) fp16 steps or int8 codes of 1/8 octave
    column_codes: NDArray[np.int8] | None  # (C,) codes of 1/4 octave
    trellis: bool = False  # integers are indices along the 8-state trellis


@dataclass(frozen=True)
class Coder:
    """One entry of the registry: ``number`` is what the artifact stores."""

    number: int
    name: str
    encode: Callable[[Integers, SideInfo], tuple[bytes, bytes]]
    decode: Callable[[bytes, bytes, SideInfo], Integers]
    least: Callable[[Integers], int] = lambda values: 0  # bytes it cannot get below: saves trying it in vain


def as_int16(values: NDArray[np.int32], info: SideInfo) -> Integers:
    """``values`` as int16 (R, C); ``ArtifactError`` naming the tensor when one leaves the range."""
    if values.size and (values.min() < -32768 or values.max() > 32767):
        raise ArtifactError("tensor", f"{info.name}: integers {values.min()}..{values.max()} leave the int16 range")
    return values.astype(np.int16).reshape(info.rows, info.columns)
