"""Control tensors (vectors, scalars, mixing weights) as the file keeps them: fp16, rounded to a step of their own.

Ten of the sixteen bits of an fp16 number are mantissa that no lossless coder removes, and training does not set most of
them. Multiples of a power of two have zeros there instead, which the file's byte planes under zstd do not pay for. The
step follows the root mean square of the tensor; rounding happens here, so the score of the artifact knows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.errors import GolfError

__all__ = ["stored_control"]

_HALF_MAX = float(np.finfo(np.float16).max)


def stored_control(name: str, weights: NDArray[np.float32], *, step: float) -> NDArray[Any]:
    """``weights`` (any shape) as fp16, or fp32 where a number leaves the fp16 range; rounded first when ``step`` > 0.

    They become multiples of the largest power of two that is at most ``step`` times their root mean square. Raises
    ``ValueError`` naming the tensor for NaN or infinity.
    """
    if not np.isfinite(weights).all():
        raise GolfError(f"{name}: holds NaN or infinity; training diverged, see artifacts/train/history.tsv")
    if step and weights.any():
        size = float(np.sqrt(np.mean(np.square(weights, dtype=np.float64))))
        grid = 2.0 ** np.floor(np.log2(step * size))
        weights = (np.rint(weights.astype(np.float64) / grid) * grid).astype(np.float32)
    fits = weights.size == 0 or float(np.abs(weights).max()) <= _HALF_MAX
    return weights.astype(np.float16 if fits else np.float32)
