"""Plots of the mixture show what their tables hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from golf.report.plots import MIXTURE_TABLES, draw_mixture, running_mean

TABLES = {
    "orders": {
        "order": ["0", "8"],
        "tokens": ["1000", "500"],
        "streaming_nats_per_token": ["4", "3"],
        "hedge_final_nats_per_token": ["4", "1"],
        "hedge_nats_per_token": ["3.5", "0.5"],
    },
    "weights": {"target": ["0", "10", "20"], "chain": ["0.5", "0.6", "1.0"]},
    "rows": {
        "at_most": ["1", "0.5"],
        "neural_expected": ["10", "4"],
        "neural_came": ["5", "6"],
        "hedge_expected": ["10", "0.5"],
        "hedge_came": ["10", "1"],
    },
}


@pytest.fixture(scope="module")
def axes() -> dict[str, Any]:
    drawn: dict[str, Any] = {}
    draw_mixture(Path("."), TABLES, lambda figure, path: drawn.update({path.name: figure.axes[0]}))
    assert set(MIXTURE_TABLES) == set(TABLES)
    return drawn


def test_bars_are_thousands_of_nats_saved_by_each_part(axes: dict[str, Any]) -> None:
    heights = [bar.get_height() for bar in axes["gain_parts"].patches]
    assert heights == [0.0, 1.0, 0.5, 1.25]  # D, then all, each by order
    labels = [text.get_text() for text in axes["gain_parts"].get_legend().get_texts()]
    assert labels == ["chain and cascade mixed", "all"]


def test_weights_over_time_are_smoothed(axes: dict[str, Any]) -> None:
    points, smooth = axes["weights_mixture"].lines
    assert points.get_ydata().tolist() == [0.5, 0.6, 1.0] and smooth.get_ydata().tolist() == pytest.approx([0.7] * 3)
    assert running_mean([1.0, 2.0, 6.0, 8.0], 3) == [1.5, 3.0, 16 / 3, 7.0]


def test_calibration_is_what_came_over_what_was_expected(axes: dict[str, Any]) -> None:
    _, neural, mixture = axes["calibration_mixture"].lines
    assert neural.get_ydata().tolist() == [0.5, 1.5]
    assert mixture.get_ydata().tolist() == [1.0]  # a bin that expects less than one token says nothing
