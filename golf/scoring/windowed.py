"""Round trip and sliding window: windows over the stream, each target scored once (openai/parameter-golf).

The round trip (``final_roundtrip``) has windows that do not overlap. In the sliding score each window after the first
scores its last ``stride`` targets only, so that they have at least ``window - stride`` tokens of context: the score
comparable with the public leaderboard's sliding rows, see ``docs/scores.md``. One scorer, two plans.

Shapes: n targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.distributed import ALONE, Ranks
from golf.scoring.neural import Precision, iterate_rows, score_rows
from golf.scoring.results import Score, make_score
from golf.scoring.text import ValidationText
from golf.scoring.windows import WindowPlan, plan_roundtrip, plan_sliding

__all__ = ["RoundtripConfig", "SlidingConfig", "WindowConfig", "score_windows", "window_nats"]


@dataclass(frozen=True)
class RoundtripConfig:
    """``window`` tokens, ``batch`` windows in a forward pass, ``precision`` of its matrix products."""

    window: int
    batch: int
    precision: Precision

    def plan(self, num_targets: int) -> WindowPlan:
        """Windows that do not overlap; raises ``ScoringError`` when none fits."""
        return plan_roundtrip(num_targets, self.window)


@dataclass(frozen=True)
class SlidingConfig:
    """``window`` tokens, of which each window after the first scores the last ``stride``; ``batch`` windows in a
    forward pass; ``precision`` of its matrix products."""

    window: int
    stride: int
    batch: int
    precision: Precision

    def plan(self, num_targets: int) -> WindowPlan:
        """Windows ``stride`` apart; raises ``ScoringError`` when window or stride do not fit."""
        return plan_sliding(num_targets, self.window, self.stride)


WindowConfig = RoundtripConfig | SlidingConfig


def score_windows(model: Any, text: ValidationText, config: WindowConfig) -> Score:
    """Score every target; raises ``ScoringError`` when the windows do not fit."""
    nats, windows = window_nats(model, text, config)
    return make_score(_name(config), text, nats, windows=windows)


def window_nats(
    model: Any, text: ValidationText, config: WindowConfig, *, ranks: Ranks = ALONE
) -> tuple[np.ndarray, int]:
    """Nats of every target, float64 (n,), on every rank, and the number of windows."""
    plan = config.plan(text.num_targets)
    rows = iterate_rows(
        model, text, plan, batch=config.batch, precision=config.precision, what=_name(config), ranks=ranks
    )
    return score_rows(rows, text, ranks=ranks, device=next(iter(model.parameters())).device), len(plan)


def _name(config: WindowConfig) -> str:
    return "sliding" if isinstance(config, SlidingConfig) else "roundtrip"
