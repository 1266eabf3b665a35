"""Round-trip score: non-overlapping windows over the whole stream (openai/parameter-golf, final_roundtrip)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.scoring.neural import Precision, iterate_rows, score_rows
from golf.scoring.results import Score, make_score
from golf.scoring.text import ValidationText
from golf.scoring.windows import plan_roundtrip

__all__ = ["RoundtripConfig", "roundtrip_nats", "score_roundtrip"]


@dataclass(frozen=True)
class RoundtripConfig:
    """``window`` tokens, ``batch`` windows in a forward pass, ``precision`` of its matrix products."""

    window: int
    batch: int
    precision: Precision


def score_roundtrip(model: Any, text: ValidationText, config: RoundtripConfig) -> Score:
    """Score every target in windows that do not overlap; raises ``ScoringError`` when the window does not fit."""
    nats, windows = roundtrip_nats(model, text, config)
    return make_score("roundtrip", text, nats, windows=windows)


def roundtrip_nats(model: Any, text: ValidationText, config: RoundtripConfig) -> tuple[np.ndarray, int]:
    """Nats of every target, float64 (n,), and the number of windows."""
    plan = plan_roundtrip(text.num_targets, config.window)
    rows = iterate_rows(model, text, plan, batch=config.batch, precision=config.precision, what="round trip")
    return score_rows(rows, text), len(plan)
