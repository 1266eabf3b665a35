"""Sliding-window score: every target once, with at least ``window - stride`` tokens of context after the first window.

This is the score comparable with the public leaderboard's sliding rows, see ``docs/scores.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.scoring.neural import Precision, iterate_rows, score_rows
from golf.scoring.results import Score, make_score
from golf.scoring.text import ValidationText
from golf.scoring.windows import plan_sliding

__all__ = ["SlidingConfig", "score_sliding", "sliding_nats"]


@dataclass(frozen=True)
class SlidingConfig:
    """``window`` tokens, of which each window after the first scores the last ``stride``; ``batch`` windows in a
    forward pass; ``precision`` of its matrix products."""

    window: int
    stride: int
    batch: int
    precision: Precision


def score_sliding(model: Any, text: ValidationText, config: SlidingConfig) -> Score:
    """Score every target in overlapping windows; raises ``ScoringError`` when window or stride do not fit."""
    nats, windows = sliding_nats(model, text, config)
    return make_score("sliding", text, nats, windows=windows)


def sliding_nats(model: Any, text: ValidationText, config: SlidingConfig) -> tuple[np.ndarray, int]:
    """Nats of every target, float64 (n,), and the number of windows."""
    plan = plan_sliding(text.num_targets, config.window, config.stride)
    rows = iterate_rows(model, text, plan, batch=config.batch, precision=config.precision, what="sliding")
    return score_rows(rows, text), len(plan)
