"""GPTQ with full Hessians, plain or with a trellis search inside, on wide integers that are never clipped.

Columns are quantized in turn; the error of each is moved to the columns not yet done so that the output error
tr((W-Ŵ) H (W-Ŵ)^T) stays small (Frantar et al., arXiv 2210.17323). With a trellis, each of its survivors carries its
own corrected rest of the row, so the search sees the true cost of its choices; the code and the search together halve
the output error at equal bytes. Clipping the integers is what breaks GPTQ with feedback, so there is none: a value
that does not fit int16 is an error.

Shapes: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golf.errors import GolfError
from golf.quantize.hessian import Factor

__all__ = ["GptqError", "GptqResult", "gptq", "output_error"]


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


def gptq(
    weights: np.ndarray,
    factor: Factor,
    *,
    row_steps: np.ndarray,
    column_steps: np.ndarray | None = None,
    trellis_states: int = 0,
    name: str = "weights",
) -> GptqResult:
    """Quantize ``weights`` (R, C) with error feedback through ``factor`` (``hessian.factorize``).

    ``row_steps`` (R,) and ``column_steps`` (C,), storage order, positive float32 as the decoder computes them from
    codes. ``trellis_states`` 0 rounds; 8 searches the default trellis (4 to 256: see
    ``trellis.next_states``). An identity
    Hessian without trellis is plain rounding, with trellis it is ``trellis_encode``. Bit-identical for any number of
    threads. Raises ``GptqError`` for shapes that do not match, weights that are not finite, steps that are not
    positive, a trellis with act-order (the decoder walks columns in storage order), or integers beyond int16.
    """
    from golf.quantize import gptq_kernels

    if np.ndim(weights) != 2:
        raise GptqError(f"{name}: found shape {np.shape(weights)}, wanted a matrix (R, C)")
    num_rows, num_columns = np.shape(weights)
    rows, columns = _checked_steps(row_steps, column_steps, (num_rows, num_columns), name)
    if factor.feedback.shape != (num_columns, num_columns):
        raise GptqError(f"{name}: has {num_columns} columns, its Hessian {factor.feedback.shape[0]}; re-run calibrate")
    sorted_columns = bool((factor.order[1:] > factor.order[:-1]).all())
    if trellis_states and not sorted_columns:
        raise GptqError(f"{name}: act_order and trellis exclude each other; the decoder walks columns in storage order")
    work = np.array(weights, dtype=np.float32)
    if not np.isfinite(work).all():
        raise GptqError(f"{name}: holds NaN or infinity; training diverged or the file is damaged")
    work[:, factor.dead] = 0.0
    work = np.ascontiguousarray(work[:, factor.order])
    values = np.empty((num_rows, num_columns), dtype=np.int16)
    losses = np.empty(num_rows)
    overflow = np.zeros(num_rows, dtype=np.bool_)
    common = (work, factor.feedback, factor.importance, rows, np.ascontiguousarray(columns[factor.order]))
    if trellis_states:
        from golf.quantize.trellis import parent_table

        gptq_kernels.gptq_trellis_rows(*common, parent_table(trellis_states), values, losses, overflow)
    else:
        gptq_kernels.gptq_rows(*common, values, losses, overflow)
    if overflow.any():
        row = int(np.flatnonzero(overflow)[0])
        raise GptqError(
            f"{name}: row {row}: an integer exceeds 32000 in size (step {rows[row]:.3g}); "
            "wanted a larger clip or more damping"
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
    for what, steps, wanted in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if steps.shape != (wanted,):
            raise GptqError(f"{name}: {what} steps have shape {steps.shape}, wanted ({wanted},)")
        if not (np.isfinite(steps) & (steps > 0)).all():
            raise GptqError(f"{name}: {what} steps hold a value that is not positive and finite")
    return rows, columns


def output_error(weights: np.ndarray, quantized: np.ndarray, hessian: np.ndarray) -> tuple[float, float]:
    """(tr((W-Ŵ) H (W-Ŵ)^T), the same divided by tr(W H W^T)): squared output error, absolute and relative.

    Both matrices (R, C), ``hessian`` (C, C); float64. Pass the identity for plain squared error and relative MSE.
    """
    weights = np.asarray(weights, dtype=np.float64)
    h = np.asarray(hessian, dtype=np.float64)
    difference = weights - np.asarray(quantized, dtype=np.float64)
    error = float(np.vdot(difference @ h, difference))
    power = float(np.vdot(weights @ h, weights))
    return error, error / power if power > 0 else 0.0
