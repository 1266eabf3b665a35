"""Scores of a network in one call, by the kind of parameters."""

from __future__ import annotations

from typing import Any

from golf.scoring.modes import run_mode
from golf.scoring.network import RoundtripConfig, SlidingConfig
from golf.scoring.results import Score, make_score
from golf.scoring.streaming import PassConfig, streaming_nats
from golf.scoring.text import ValidationText

__all__ = ["score_streaming", "score_windows"]


def score_windows(model: Any, text: ValidationText, config: RoundtripConfig | SlidingConfig) -> Score:
    """Round trip or sliding."""
    return run_mode("sliding" if isinstance(config, SlidingConfig) else "roundtrip", model, text, config).score


def score_streaming(model: Any, text: ValidationText, config: PassConfig) -> Score:
    """Streaming without the record."""
    return make_score("streaming", text, streaming_nats(model, text, config))
