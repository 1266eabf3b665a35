"""Sliding-window score: every target once, with at least ``window - stride`` tokens of context after the first window.

This is the score comparable with the public leaderboard's sliding rows, see ``docs/scores.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from golf.scoring.neural import NeuralScores, iterate_rows, score_rows
from golf.scoring.results import Score, make_score
from golf.scoring.text import ValidationText
from golf.scoring.windows import plan_sliding

__all__ = ["SlidingConfig", "score_sliding", "sliding_scores"]


@dataclass(frozen=True)
class SlidingConfig:
    """``window`` tokens, of which each window after the first scores the last ``stride``; ``batch`` windows in a
    forward pass; ``precision`` of its matrix products."""

    window: int
    stride: int
    batch: int
    precision: Literal["fp32", "bf16"]


def score_sliding(model: Any, text: ValidationText, config: SlidingConfig) -> Score:
    """Score every target in overlapping windows; raises ``ScoringError`` when window or stride do not fit."""
    neural, windows = sliding_scores(model, text, config)
    return make_score("sliding", text, neural.nats, windows=windows)


def sliding_scores(
    model: Any,
    text: ValidationText,
    config: SlidingConfig,
    *,
    temperatures: tuple[float, ...] = (),
    probe: np.ndarray | None = None,
) -> tuple[NeuralScores, int]:
    """Per-target scores and the number of windows; ``temperatures`` and ``probe`` as in ``score_rows``."""
    plan = plan_sliding(text.num_targets, config.window, config.stride)
    rows = iterate_rows(model, text, plan, batch=config.batch, precision=config.precision, what="sliding")
    return score_rows(rows, text, temperatures=temperatures, probe=probe), len(plan)
