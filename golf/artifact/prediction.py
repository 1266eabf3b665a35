"""Linear prediction, backward-adaptive, of each integer from those before it in its row; integer arithmetic only.

``C`` columns. Weights of an embedding look independent of their neighbors, yet its columns are linearly dependent: the
covariance of the columns, learned from the rows already coded, predicts a weight from the whole left part of its row.
Nothing is stored: the decoder learns the same covariance. With covariance ``S = L D L^T`` a row is ``L e`` for
independent innovations ``e``, so the prediction of column ``c`` is ``sum_j<c L[c, j] e[j]`` and no inverse is needed.

Units: deviations for the covariance have 8 steps per standard deviation (clipped to +-127), innovations 64 (clipped
to +-1023); ``L`` is Q12 in int16, sums over a row are int32. Sums are exact, so their order is free: several rows or
columns at a time wait less for memory. Matrices are flat and indices in hot loops unsigned: signed ones may be negative
to the compiler, and it then does not vectorize.
Source: recursive least squares in its square-root-free Cholesky form (Golub and Van Loan 4.1.2), refitted at
geometrically spaced rows; golf's own measurements in docs/results/coding.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.base.jit import part, step

__all__ = ["TOGETHER", "accumulate", "fit", "halve", "spread_far", "spread_near"]

TOGETHER = 32  # rows that the covariance learns from at a time


@part
def accumulate(covariance: NDArray[np.int32], x: NDArray[np.int8], columns: int) -> None:
    """Add the outer products of ``TOGETHER`` rows of deviations ``x`` (32 C,) to the lower triangle of (C C,)."""
    n = np.uint64(columns)
    for c in range(n):
        for first in range(0, TOGETHER, 8):
            _accumulate_eight(covariance, c * n, x, np.uint64(first) * n, n, c)


@part
def _accumulate_eight(covariance: Any, at: Any, x: Any, r0: Any, n: Any, c: Any) -> None:
    """Add the products of eight rows of ``x`` from ``r0`` on to row ``c`` of the covariance, which begins ``at``."""
    r1, r2, r3 = r0 + n, r0 + n + n, r0 + n + n + n
    r4, r5, r6, r7 = r3 + n, r3 + n + n, r3 + n + n + n, r3 + n + n + n + n
    x0, x1, x2, x3 = x[r0 + c], x[r1 + c], x[r2 + c], x[r3 + c]
    x4, x5, x6, x7 = x[r4 + c], x[r5 + c], x[r6 + c], x[r7 + c]
    for j in range(c + np.uint64(1)):
        covariance[at + j] += np.int32(
            x0 * x[r0 + j] + x1 * x[r1 + j] + x2 * x[r2 + j] + x3 * x[r3 + j]
            + x4 * x[r4 + j] + x5 * x[r5 + j] + x6 * x[r6 + j] + x7 * x[r7 + j]
        )  # fmt: skip


@part
def halve(covariance: NDArray[np.int32]) -> None:
    """Forget: halve every entry, rounding down."""
    for i in range(len(covariance)):
        covariance[i] >>= 1


@part
def fit(covariance: NDArray[np.int32], rows: int, ridge: int, factor: NDArray[np.int16]) -> None:
    """Write ``L`` of the ridge-regularized covariance, Q12, column ``j`` into row ``j`` of ``factor`` (C C,).

    ``rows`` is the number of rows summed, ``ridge`` the weight of the prior (no correlation) in rows.
    """
    columns = int(np.sqrt(len(covariance)))
    trace = np.int64(0)
    for i in range(columns):
        trace += covariance[i * columns + i]
    mean = trace // columns + 1
    matrix = np.zeros(columns * columns, np.int64)  # Q24, relative to the mean variance
    for i in range(columns):
        for j in range(i * columns, i * columns + i + 1):
            matrix[j] = (np.int64(covariance[j]) << 24) // mean
        matrix[i * columns + i] += (np.int64(ridge) << 24) // rows
    column, ratios = np.zeros((4, columns), np.int64), np.zeros((4, columns), np.int64)
    column32, ratios32 = np.zeros((4, columns), np.int32), np.zeros((4, columns), np.int32)
    for start in range(0, columns, 4):  # four columns are taken out of the rest at once
        end = min(start + 4, columns)
        ratios[:] = 0
        largest = np.int64(0)
        for j in range(start, end):
            pivot = max(matrix[j * columns + j], np.int64(1 << 12))
            for i in range(j + 1, columns):
                column[j - start, i] = matrix[i * columns + j]
                ratio = (column[j - start, i] << 16) // pivot
                ratios[j - start, i] = ratio
                largest = max(largest, abs(ratio), abs(column[j - start, i]))
                factor[j * columns + i] = min(max(ratio >> 4, -32767), 32767)
                for k in range(j + 1, min(end, i + 1)):
                    matrix[i * columns + k] -= (ratio * column[j - start, k]) >> 16
        if largest < 1 << 31:
            column32[:], ratios32[:] = column, ratios
            _take_out(matrix, columns, end, column32.reshape(-1), ratios32)
        else:
            _take_out(matrix, columns, end, column.reshape(-1), ratios)


@part
def _take_out(matrix: Any, columns: Any, end: Any, column: Any, ratios: Any) -> None:
    """Subtract four ``column`` (4 C,) times their ``ratios`` (4, C) from the rows of ``matrix`` from ``end`` on."""
    r1 = np.uint64(columns)
    r2, r3 = r1 + r1, r1 + r1 + r1
    for i in range(end, columns):
        at, x0, x1, x2, x3 = np.uint64(i * columns), ratios[0, i], ratios[1, i], ratios[2, i], ratios[3, i]
        for k in range(np.uint64(end), np.uint64(i + 1)):
            matrix[at + k] -= (
                ((x0 * column[k]) >> 16) + ((x1 * column[r1 + k]) >> 16)
                + ((x2 * column[r2 + k]) >> 16) + ((x3 * column[r3 + k]) >> 16)
            )  # fmt: skip


@step
def spread_near(factor: Any, column: Any, innovations: Any, predictions: Any) -> None:
    """Add ``L[:, column] * innovations[column]`` to the predictions (C,) of the columns of the same 16 to the right."""
    n, c, x = np.uint64(len(predictions)), np.uint64(column), innovations[column]
    for j in range(c + np.uint64(1), min((c | np.uint64(15)) + np.uint64(1), n)):
        predictions[j] += np.int32(x * factor[c * n + j])


@part
def spread_far(factor: Any, first: Any, innovations: Any, predictions: Any) -> None:
    """Add what the innovations of 16 columns from ``first`` on are to all columns behind these."""
    behind = np.uint64(first) + np.uint64(16)
    _spread_eight(factor, np.uint64(first), innovations, predictions, behind)
    _spread_eight(factor, np.uint64(first) + np.uint64(8), innovations, predictions, behind)


@part
def _spread_eight(factor: Any, first: Any, innovations: Any, predictions: Any, behind: Any) -> None:
    i, n = np.int64(first), np.uint64(len(predictions))
    f0 = first * n
    f1, f2, f3 = f0 + n, f0 + n + n, f0 + n + n + n
    f4, f5, f6, f7 = f3 + n, f3 + n + n, f3 + n + n + n, f3 + n + n + n + n
    x0, x1, x2, x3 = innovations[i], innovations[i + 1], innovations[i + 2], innovations[i + 3]
    x4, x5, x6, x7 = innovations[i + 4], innovations[i + 5], innovations[i + 6], innovations[i + 7]
    for c in range(behind, n):
        predictions[c] += np.int32(
            x0 * factor[f0 + c] + x1 * factor[f1 + c] + x2 * factor[f2 + c] + x3 * factor[f3 + c]
            + x4 * factor[f4 + c] + x5 * factor[f5 + c] + x6 * factor[f6 + c] + x7 * factor[f7 + c]
        )  # fmt: skip
