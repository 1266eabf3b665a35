"""Integer linear prediction against numpy's Cholesky factor in float64."""

from __future__ import annotations

import numpy as np
import pytest

from golf.artifact import prediction
from golf.artifact.prediction import TOGETHER
from golf.base.jit import kernel

accumulate, fit = kernel(prediction.accumulate), kernel(prediction.fit)
halve, spread_near = kernel(prediction.halve), kernel(prediction.spread_near)
spread_far = kernel(prediction.spread_far)


def _spread(factor: np.ndarray, column: int, innovations: np.ndarray, predictions: np.ndarray) -> None:
    spread_near(factor, column, innovations, predictions)
    if column % 16 == 15 and column + 1 < len(predictions):
        spread_far(factor, column - 15, innovations, predictions)


def _deviations(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, columns)) @ (np.eye(columns) + 0.3 * rng.normal(size=(columns, columns)))
    return np.clip(np.rint(mixed * 8), -127, 127).astype(np.int32)


def _covariance(deviations: np.ndarray) -> np.ndarray:
    rows, columns = deviations.shape
    padded = np.zeros((-(-rows // TOGETHER) * TOGETHER, columns), np.int8)
    padded[:rows] = deviations
    covariance = np.zeros(columns * columns, np.int32)
    for part in padded.reshape(-1, TOGETHER * columns):
        accumulate(covariance, part, columns)
    return covariance


def _exact_fit(covariance: np.ndarray, rows: int, ridge: int) -> np.ndarray:
    """The factor one column after another."""
    size = len(covariance)
    mean = int(np.trace(covariance)) // size + 1
    left = (np.tril(covariance).astype(np.int64) << 24) // mean + np.diag(np.full(size, (ridge << 24) // rows))
    factor = np.zeros((size, size), np.int16)
    for j in range(size):
        column, pivot = left[j + 1 :, j], max(left[j, j], 1 << 12)
        ratios = (column << 16) // pivot
        factor[j, j + 1 :] = np.clip(ratios >> 4, -32767, 32767)
        left[j + 1 :, j + 1 :] -= np.outer(ratios, column) >> 16
    return factor


def test_accumulate_is_the_lower_triangle_of_the_gram_matrix() -> None:
    deviations = _deviations(50, 9)
    assert np.array_equal(_covariance(deviations).reshape(9, 9), np.tril(deviations.T @ deviations))


def test_halve_rounds_down() -> None:
    covariance = np.array([5, 0, -5, 7], np.int32)
    halve(covariance)
    assert covariance.tolist() == [2, 0, -3, 3]


@pytest.mark.parametrize("ridge", [1, 32, 500])
def test_fit_is_the_unit_cholesky_factor(ridge: int) -> None:
    deviations = _deviations(400, 24)
    covariance = _covariance(deviations)
    factor = np.zeros(24 * 24, np.int16)
    fit(covariance, 400, ridge, factor)
    gram = (deviations.T @ deviations).astype(np.float64)
    lower = np.linalg.cholesky(gram + np.eye(24) * ridge * np.trace(gram) / 24 / 400)
    exact = np.tril(lower / np.diag(lower), -1)
    assert np.abs(factor.reshape(24, 24).T / 4096 - exact).max() < 2e-3


@pytest.mark.parametrize("columns", [1, 3, 4, 22, 37])
def test_fit_in_groups_of_columns_has_the_bits_of_one_column_after_another(columns: int) -> None:
    covariance, factor = _covariance(_deviations(300, columns)), np.zeros(columns * columns, np.int16)
    fit(covariance, 300, 3, factor)
    exact = _exact_fit(covariance.reshape(columns, columns), 300, 3)
    assert np.array_equal(factor.reshape(columns, columns), exact)


def test_fit_of_two_columns_that_outweigh_all_others_needs_more_than_32_bits() -> None:
    deviations = _deviations(64, 260) // 64
    deviations[:, :2] = 127 * np.sign(_deviations(64, 1) + 0.5)
    covariance, factor = _covariance(deviations), np.zeros(260 * 260, np.int16)
    fit(covariance, 64, 3, factor)
    exact = _exact_fit(covariance.reshape(260, 260), 64, 3)
    assert int(covariance[260]) << 24 > (int(np.trace(covariance.reshape(260, 260))) // 260 + 1) << 31
    assert np.array_equal(factor.reshape(260, 260), exact)


@pytest.mark.parametrize("columns", [5, 16, 17, 32, 61])
def test_innovations_in_groups_reach_every_column_before_it_is_predicted(columns: int) -> None:
    rng = np.random.default_rng(columns)
    factor = rng.integers(-32767, 32768, columns * columns).astype(np.int16)
    innovations = rng.integers(-1023, 1024, columns).astype(np.int32)
    matrix, given, predictions = (
        factor.reshape(columns, columns),
        np.zeros(columns, np.int32),
        np.zeros(columns, np.int32),
    )
    for c in range(columns):
        exact = sum(int(matrix[j, c]) * int(innovations[j]) for j in range(c))
        assert predictions[c] == exact
        given[c] = innovations[c]
        _spread(factor, c, given, predictions)


def test_predictions_from_innovations_are_the_best_linear_ones() -> None:
    deviations = _deviations(2000, 12)
    factor = np.zeros(144, np.int16)
    fit(_covariance(deviations), 2000, 1, factor)
    row = deviations[7] * 8
    innovations, predictions = np.zeros(12, np.int32), np.zeros(12, np.int32)
    for c in range(12):
        innovations[c] = int(row[c]) - (int(predictions[c]) >> 12)
        _spread(factor, c, innovations, predictions)
    weights = np.linalg.lstsq(deviations[:, :11].astype(float), deviations[:, 11].astype(float), rcond=None)[0]
    assert abs(predictions[11] / 4096 - row[:11] @ weights) < 1.5


def test_equal_columns_without_a_ridge_stay_in_range() -> None:
    factor = np.zeros(9, np.int16)
    fit(_covariance(np.full((20, 3), 100, np.int32)), 20, 0, factor)
    assert factor.tolist()[1:3] == [4096, 4096] and np.abs(factor).max() <= 32767
