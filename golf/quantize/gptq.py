"""GPTQ with full Hessians, with or without a trellis search inside, on wide integers that are never clipped.

Columns are quantized in turn; the error of each is moved to the columns not yet done so that the output error
tr((W-Ŵ) H (W-Ŵ)^T) stays small (Frantar et al., arXiv 2210.17323). With a trellis, each of its survivors carries its
own corrected rest of the row, so the search sees the true cost of its choices; the code and the search together halve
the output error at equal bytes. Clipping the integers is what breaks GPTQ with feedback, so there is none: a value
that does not fit int16 is an error.

A tensor without a Hessian (a lookup table) takes the identity: plain rounding, or the plain trellis. What decides the
steps is ``golf.quantize.steps``. Shapes: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError
from golf.quantize.config import GptqConfig
from golf.quantize.hessian import Factor, HessianError, factorize, identity_factor, importance_of
from golf.quantize.rounding import check_matrix
from golf.quantize.steps import column_codes, row_codes
from golf.quantize.tensors import QuantizedTensor, column_steps, row_steps

__all__ = ["GptqError", "GptqResult", "factor_of", "gptq", "importance_for", "quantize_gptq"]


class GptqError(GolfError):
    """Weights, steps and Hessian do not go together; the message names the tensor."""


@dataclass(frozen=True)
class GptqResult:
    """Integers of one matrix and what they cost."""

    values: np.ndarray
    """int16 (R, C), in storage order."""
    row_losses: np.ndarray
    """float64 (R,): each row of W - Ŵ in the norm of the damped Hessian (dead columns count as already zero)."""

    @property
    def loss(self) -> float:
        """tr((W-Ŵ) H (W-Ŵ)^T) with the damped H."""
        return float(self.row_losses.sum())


def factor_of(
    name: str, columns: int, hessian: NDArray[np.float32] | None, *, config: GptqConfig, trellis: bool
) -> Factor | None:
    """The factor that ``quantize_gptq`` takes, of a Hessian (C, C); ``None`` for a lookup table, which has no Hessian.

    It does not depend on steps, so a search over them makes it once. Raises ``GolfError`` naming the tensor when the
    Hessian is not one for ``columns`` columns.
    """
    if hessian is None:
        return None
    _check_hessian(name, columns, hessian)
    return factorize(hessian, damping=config.damping, act_order=config.act_order and not trellis, name=name)


def importance_for(
    name: str, columns: int, hessian: NDArray[np.float32], *, config: GptqConfig, trellis: bool
) -> NDArray[np.float32]:
    """``importance_in_storage_order`` (C,) of ``factor_of``, for half of its time."""
    _check_hessian(name, columns, hessian)
    return importance_of(hessian, damping=config.damping, act_order=config.act_order and not trellis, name=name)


def _check_hessian(name: str, columns: int, hessian: NDArray[np.float32]) -> None:
    if hessian.shape != (columns, columns):
        raise HessianError(f"{name}: has {columns} columns, its Hessian {hessian.shape[0]}; re-run calibrate")


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
    factors: NDArray[np.float64] | None = None,
) -> QuantizedTensor:
    """Quantize ``weights`` (..., C) with ``factor_of`` the Hessian of its inputs, ``None`` for a lookup table.

    ``factors`` (R,) multiply the row steps. Raises ``GolfError`` naming the tensor for bad weights, steps outside the
    codes, or a factor that does not fit.
    """
    matrix = check_matrix(name, weights)
    rows = row_codes(matrix, clip=clip, levels=levels, factors=factors, name=name)
    columns = None
    if factor is None:
        factor = identity_factor(matrix.shape[1], damping=config.damping)
    elif config.column_exponent:
        importance = factor.importance_in_storage_order()
        columns = column_codes(importance, exponent=config.column_exponent, name=name)
    steps = None if columns is None else column_steps(columns)
    result = gptq(matrix, factor, row_steps=row_steps(rows), column_steps=steps, trellis=trellis, name=name)
    return QuantizedTensor(name, role, weights.shape, result.values, rows, columns, trellis)


def gptq(
    weights: np.ndarray,
    factor: Factor,
    *,
    row_steps: np.ndarray,
    column_steps: np.ndarray | None = None,
    trellis: bool = False,
    name: str = "weights",
) -> GptqResult:
    """Quantize ``weights`` (R, C) with error feedback through ``factor`` (``hessian.factorize``).

    ``row_steps`` (R,) and ``column_steps`` (C,), storage order, positive float32 as the decoder computes them from
    codes. An identity Hessian without ``trellis`` is plain rounding. Bit-identical for any number of threads. Raises
    ``GptqError`` for shapes that do not match, weights that are not finite, steps that are not positive, a trellis with
    act-order (the decoder walks columns in storage order), or integers beyond int16.
    """
    from golf.quantize import gptq_kernels

    if np.ndim(weights) != 2:
        raise GptqError(f"{name}: found shape {np.shape(weights)}, expected a matrix (R, C)")
    num_rows, num_columns = np.shape(weights)
    rows, columns = _checked_steps(row_steps, column_steps, (num_rows, num_columns), name)
    if factor.feedback.shape != (num_columns, num_columns):
        raise GptqError(f"{name}: has {num_columns} columns, its Hessian {factor.feedback.shape[0]}; re-run calibrate")
    sorted_columns = bool((factor.order[1:] > factor.order[:-1]).all())
    if trellis and not sorted_columns:
        raise GptqError(f"{name}: act_order and trellis exclude each other; the decoder walks columns in storage order")
    work = np.array(weights, dtype=np.float32)
    if not np.isfinite(work).all():
        raise GptqError(f"{name}: holds NaN or infinity; training diverged or the file is damaged")
    work[:, factor.dead] = 0.0
    work = work if sorted_columns else np.ascontiguousarray(work[:, factor.order])
    values = np.empty((num_rows, num_columns), dtype=np.int16)
    losses = np.empty(num_rows)
    overflow = np.zeros(num_rows, dtype=np.bool_)
    common = (work, factor.feedback, factor.importance, rows, np.ascontiguousarray(columns[factor.order]))
    if trellis:
        from golf.quantize.tensors import parent_table

        gptq_kernels.gptq_trellis_rows(*common, parent_table(), values, losses, overflow)
    else:
        gptq_kernels.gptq_rows(*common, values, losses, overflow)
    if overflow.any():
        row = int(np.flatnonzero(overflow)[0])
        raise GptqError(
            f"{name}: row {row}: an integer exceeds 32000 in size (step {rows[row]:.3g}); "
            "set a larger quantize.clip or more quantize.gptq.damping"
        )
    if not sorted_columns:
        stored = np.empty_like(values)
        stored[:, factor.order] = values
        values = stored
    return GptqResult(values, losses)


def _checked_steps(
    row_steps: np.ndarray, column_steps: np.ndarray | None, shape: tuple[int, int], name: str
) -> tuple[np.ndarray, np.ndarray]:
    rows = np.ascontiguousarray(row_steps, dtype=np.float32)
    columns = np.ones(shape[1], np.float32) if column_steps is None else np.asarray(column_steps, dtype=np.float32)
    for what, steps, expected in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if steps.shape != (expected,):
            raise GptqError(f"{name}: {what} steps have shape {steps.shape}, expected ({expected},)")
        if not (np.isfinite(steps) & (steps > 0)).all():
            raise GptqError(f"{name}: {what} steps hold a value that is not positive and finite")
    return rows, columns
