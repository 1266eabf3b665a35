"""Backward-adaptive linear prediction of each integer from those before it in its row, in integers only.

``C`` columns. Weights of an embedding look independent of their neighbors, yet its columns are linearly dependent:
the covariance of the columns, learned from the rows already coded, predicts a weight from the whole left part of its
row. Nothing is stored: the decoder learns the same covariance. With covariance ``S = L D L^T`` a row is ``L e`` for
independent innovations ``e``, so the prediction of column ``c`` is ``sum_j<c L[c, j] e[j]`` and no inverse is needed.

Units: deviations for the covariance have 8 steps per standard deviation (clipped to +-127), innovations 64 (clipped
to +-1023); ``L`` is Q12 in int32, so that sums over a row stay inside int32.
Source: recursive least squares in its square-root-free Cholesky form (Golub and Van Loan 4.1.2), refitted at
geometrically spaced rows; golf's own measurements in docs/results/coding.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from golf.base.jit import part, step

__all__ = ["accumulate", "fit", "halve", "spread_innovation"]


@part
def accumulate(covariance: NDArray[np.int32], deviations: NDArray[np.int32]) -> None:
    """Add the outer product of one row's deviations (C,) to the lower triangle of the covariance (C, C)."""
    for c in range(len(deviations)):
        row, x = covariance[c], deviations[c]
        for j in range(c + 1):
            row[j] += np.int32(x * deviations[j])


@part
def halve(covariance: NDArray[np.int32]) -> None:
    """Forget: halve every entry of the lower triangle, rounding down."""
    for c in range(len(covariance)):
        for j in range(c + 1):
            covariance[c, j] >>= 1


@part
def fit(covariance: NDArray[np.int32], rows: int, ridge: int, factor: NDArray[np.int32]) -> None:
    """Write ``L`` of the ridge-regularized covariance, Q12, column ``j`` into ``factor[j]`` (C, C).

    ``rows`` is the number of rows summed, ``ridge`` the weight of the prior (no correlation) in rows.
    """
    columns = len(covariance)
    trace = np.int64(0)
    for i in range(columns):
        trace += covariance[i, i]
    mean = trace // columns + 1
    matrix = np.zeros((columns, columns), np.int64)  # Q24, relative to the mean variance
    for i in range(columns):
        for j in range(i + 1):
            matrix[i, j] = (np.int64(covariance[i, j]) << 24) // mean
        matrix[i, i] += (np.int64(ridge) << 24) // rows
    column = np.zeros(columns, np.int64)
    for j in range(columns):
        pivot = max(matrix[j, j], np.int64(1 << 12))
        for i in range(j + 1, columns):  # a copy of slices would compile numba's text of a shape error, 4 s
            column[i] = matrix[i, j]
        for i in range(j + 1, columns):
            ratio = (column[i] << 16) // pivot
            row = matrix[i]
            for k in range(j + 1, i + 1):
                row[k] -= (ratio * column[k]) >> 16
            factor[j, i] = min(max(ratio >> 4, -32767), 32767)


@step
def spread_innovation(factor: NDArray[np.int32], column: int, innovation: int, predictions: NDArray[np.int32]) -> None:
    """Add ``L[:, column] * innovation`` to the predictions (C,) of the columns to the right."""
    row, x = factor[column], np.int32(innovation)
    for c in range(column + 1, len(predictions)):
        predictions[c] += np.int32(x * row[c])
