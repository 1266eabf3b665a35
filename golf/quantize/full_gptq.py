"""GPTQ with octave row codes and water-filled column codes, with or without the trellis, for one tensor of a model.

``R`` rows, ``C`` columns. Row step = clip * sigma_row / levels to 1/8 octave, column step ~ importance ** -exponent to
1/4 octave; integers are never clipped. A tensor without a Hessian (a lookup table) takes the identity: plain rounding,
or the plain trellis. Source: the modules it joins (``gptq``, ``scales``, ``columns``, ``trellis``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from golf.quantize.grid import check_matrix
from golf.quantize.tensors import QuantizedTensor, column_steps, row_steps

if TYPE_CHECKING:
    from golf.quantize.hessian import Factor

__all__ = ["GptqConfig", "factor_of", "quantize_gptq"]

_LARGEST = 16000.0  # a row's largest integer before feedback, half of what the kernels accept


@dataclass(frozen=True)
class GptqConfig:
    """Keys `quantize.gptq`; units and meaning stand beside them in conf/config.yaml."""

    damping: float = 0.01
    column_exponent: float = 0.5
    act_order: bool = False
    sequential: bool = False
    token_exponent: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.damping) and 0 < self.damping <= 1):
            raise ValueError(f"damping: found {self.damping}, wanted above 0, 1 at most (0.01 is usual)")
        if not 0 <= self.column_exponent <= 1:
            raise ValueError(f"column_exponent: found {self.column_exponent}, wanted 0 (none) to 1 (water-filling)")
        if not 0 <= self.token_exponent <= 0.5:
            raise ValueError(f"token_exponent: found {self.token_exponent}, wanted 0 (off) to 0.5 (water-filling)")


def factor_of(
    name: str, columns: int, hessian: NDArray[np.float32] | None, *, config: GptqConfig, trellis: bool
) -> Factor | None:
    """The factor that ``quantize_gptq`` takes, of a Hessian (C, C); ``None`` for a lookup table, which has no Hessian.

    It does not depend on steps, so a search over them makes it once. Raises ``ValueError`` naming the tensor when the
    Hessian is not one for ``columns`` columns.
    """
    from golf.quantize.hessian import HessianError, factorize

    if hessian is None:
        return None
    if hessian.shape != (columns, columns):
        raise HessianError(f"{name}: has {columns} columns, its Hessian {hessian.shape[0]}; re-run calibrate")
    return factorize(hessian, damping=config.damping, act_order=config.act_order and not trellis, name=name)


def quantize_gptq(
    name: str,
    weights: NDArray[np.floating],
    factor: Factor | None,
    *,
    role: str,
    levels: int,
    clip: float,
    config: GptqConfig,
    trellis: bool,
    row_factors: NDArray[np.float64] | None = None,
) -> QuantizedTensor:
    """Quantize ``weights`` (..., C) with ``factor_of`` the Hessian of its inputs, ``None`` for a lookup table.

    ``row_factors`` (R,) multiply the row steps.

    Raises ``ValueError`` naming the tensor for bad weights, steps outside the codes, or a factor that does not fit.
    """
    from golf.quantize.columns import column_codes
    from golf.quantize.gptq import gptq
    from golf.quantize.hessian import identity_factor
    from golf.quantize.scales import step_codes

    matrix = check_matrix(name, weights)
    spread = np.std(matrix, axis=1, dtype=np.float64) * (clip / levels)
    spread = spread if row_factors is None else spread * row_factors
    floor = np.abs(matrix).max(axis=1).astype(np.float64) / _LARGEST  # a row without spread, or one far outlier
    rows = step_codes(np.maximum(spread, floor), per_octave=8)
    codes = None
    if factor is None:
        factor = identity_factor(matrix.shape[1], damping=config.damping)
    elif config.column_exponent:
        codes = column_codes(factor.importance_in_storage_order(), exponent=config.column_exponent)
    result = gptq(
        matrix,
        factor,
        row_steps=row_steps(rows),
        column_steps=None if codes is None else column_steps(codes),
        trellis_states=8 if trellis else 0,
        name=name,
    )
    return QuantizedTensor(name, role, weights.shape, result.values, rows, codes, trellis)
