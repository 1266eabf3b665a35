"""Round-trip score: non-overlapping windows over the whole stream (openai/parameter-golf, final_roundtrip)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from golf.scoring.neural import iterate_rows, score_rows
from golf.scoring.results import Score, make_score
from golf.scoring.text import ValidationText
from golf.scoring.windows import plan_roundtrip

__all__ = ["RoundtripConfig", "score_roundtrip"]


@dataclass(frozen=True)
class RoundtripConfig:
    """``window`` tokens, ``batch`` windows in a forward pass, ``precision`` of its matrix products."""

    window: int
    batch: int
    precision: Literal["fp32", "bf16"]


def score_roundtrip(model: Any, text: ValidationText, config: RoundtripConfig) -> Score:
    """Score every target in windows that do not overlap; raises ``ScoringError`` when the window does not fit."""
    plan = plan_roundtrip(text.num_targets, config.window)
    rows = iterate_rows(model, text, plan, batch=config.batch, precision=config.precision, what="round trip")
    return make_score("roundtrip", text, score_rows(rows, text).nats, windows=len(plan))
