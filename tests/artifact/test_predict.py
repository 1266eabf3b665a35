"""Integer linear prediction against numpy's Cholesky factor in float64."""

from __future__ import annotations

import numpy as np
import pytest

from golf.artifact import context_model
from golf.base.jit import kernel

accumulate, fit = kernel(context_model.accumulate), kernel(context_model.fit)
halve, spread_innovation = kernel(context_model.halve), kernel(context_model.spread_innovation)


def _deviations(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, columns)) @ (np.eye(columns) + 0.3 * rng.normal(size=(columns, columns)))
    return np.clip(np.rint(mixed * 8), -127, 127).astype(np.int32)


def _covariance(deviations: np.ndarray) -> np.ndarray:
    covariance = np.zeros((deviations.shape[1],) * 2, np.int32)
    for row in deviations:
        accumulate(covariance, row)
    return covariance


def test_accumulate_is_the_lower_triangle_of_the_gram_matrix() -> None:
    deviations = _deviations(50, 9)
    assert np.array_equal(_covariance(deviations), np.tril(deviations.T @ deviations))


def test_halve_rounds_down() -> None:
    covariance = np.array([[5, 0], [-5, 7]], np.int32)
    halve(covariance)
    assert covariance.tolist() == [[2, 0], [-3, 3]]


@pytest.mark.parametrize("ridge", [1, 32, 500])
def test_fit_is_the_unit_cholesky_factor(ridge: int) -> None:
    deviations = _deviations(400, 24)
    covariance = _covariance(deviations)
    factor = np.zeros((24, 24), np.int32)
    fit(covariance, 400, ridge, factor)
    gram = (deviations.T @ deviations).astype(np.float64)
    lower = np.linalg.cholesky(gram + np.eye(24) * ridge * np.trace(gram) / 24 / 400)
    exact = np.tril(lower / np.diag(lower), -1)
    assert np.abs(factor.T / 4096 - exact).max() < 2e-3


def test_predictions_from_innovations_are_the_best_linear_ones() -> None:
    deviations = _deviations(2000, 12)
    factor = np.zeros((12, 12), np.int32)
    fit(_covariance(deviations), 2000, 1, factor)
    row = deviations[7] * 8
    predictions = np.zeros(12, np.int32)
    for c in range(12):
        spread_innovation(factor, c, int(row[c]) - (int(predictions[c]) >> 12), predictions)
    weights = np.linalg.lstsq(deviations[:, :11].astype(float), deviations[:, 11].astype(float), rcond=None)[0]
    assert abs(predictions[11] / 4096 - row[:11] @ weights) < 1.5


def test_equal_columns_without_a_ridge_stay_in_range() -> None:
    factor = np.zeros((3, 3), np.int32)
    fit(_covariance(np.full((20, 3), 100, np.int32)), 20, 0, factor)
    assert factor[0].tolist()[1:] == [4096, 4096] and np.abs(factor).max() <= 32767
