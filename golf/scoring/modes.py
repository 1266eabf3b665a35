"""The modes of evaluation: one table for the stages, the verifier and the command line.

Shapes: n targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from golf.base.distributed import ALONE, Ranks
from golf.base.params import load_section
from golf.scoring.mixture_score import HedgeConfig, score_mixture
from golf.scoring.network import RoundtripConfig, SlidingConfig, window_nats
from golf.scoring.record_stream import StreamingConfig, record_stream
from golf.scoring.results import Score, make_score
from golf.scoring.streaming import serve_stream
from golf.scoring.text import ValidationText
from golf.scoring.ttt import TttConfig, score_ttt

__all__ = ["MODES", "HedgeOverStream", "Mode", "Scored", "load_modes", "run_mode"]


@dataclass(frozen=True)
class HedgeOverStream:
    """What the mixture's score depends on: the parameters of the streaming pass and its own."""

    streaming: StreamingConfig
    hedge: HedgeConfig


@dataclass(frozen=True)
class Scored:
    """A ``score`` and the arrays of each target that the stage caches for later stages."""

    score: Score
    tensors: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Mode:
    """``config``: class of its parameters, section ``evaluate.NAME``. ``run(name, model, text, config, ranks)``: the
    score on rank 0; of every other rank its share of the work, and None or the same score. ``shared``: whether several
    processes may score together."""

    config: type
    run: Callable[[str, Any, ValidationText, Any, Ranks], Scored | None]
    shared: bool = True


def _windows(name: str, model: Any, text: ValidationText, config: Any, ranks: Ranks) -> Scored:
    nats, windows = window_nats(model, text, config, ranks=ranks)
    return Scored(make_score(name, text, nats, windows=windows), {"nats": nats})


def _streaming(name: str, model: Any, text: ValidationText, config: StreamingConfig, ranks: Ranks) -> Scored | None:
    """Each token once, and the record for the mixture from the same logits, which rank 0 gathers."""
    if ranks.rank:
        serve_stream(model, text, config, ranks)
        return None
    record = record_stream(model, text, config, ranks=ranks)
    return Scored(make_score(name, text, record.nats), record.tensors())


def _hedge(name: str, model: Any, text: ValidationText, config: HedgeOverStream, ranks: Ranks) -> Scored | None:
    """Both stages in one: the streaming pass, then the mixture over its record."""
    if ranks.rank:
        serve_stream(model, text, config.streaming, ranks)
        return None
    record = record_stream(model, text, config.streaming, ranks=ranks)
    return Scored(score_mixture(text, record, config.streaming, config.hedge).score, {})


def _ttt(name: str, model: Any, text: ValidationText, config: TttConfig, ranks: Ranks) -> Scored:
    return Scored(score_ttt(model, text, config), {})


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "roundtrip": Mode(RoundtripConfig, _windows),
        "sliding": Mode(SlidingConfig, _windows),
        "streaming": Mode(StreamingConfig, _streaming),
        "hedge": Mode(HedgeOverStream, _hedge),
        "ttt": Mode(TttConfig, _ttt, shared=False),  # it learns in order
    }
)


def load_modes(params: str | Path, modes: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of each mode, from the sections ``evaluate.NAME`` of a file. Raises ``ParamsError``."""
    loaded: dict[str, Any] = {}
    for mode in modes:
        if MODES[mode].config is HedgeOverStream:
            streaming = load_section(params, "evaluate.streaming", StreamingConfig)
            loaded[mode] = HedgeOverStream(streaming, load_section(params, "evaluate.hedge", HedgeConfig))
        else:
            loaded[mode] = load_section(params, f"evaluate.{mode}", MODES[mode].config)
    return loaded


def run_mode(name: str, model: Any, text: ValidationText, config: Any, ranks: Ranks = ALONE) -> Scored:
    """A mode as its stage runs it, on rank 0."""
    scored = MODES[name].run(name, model, text, config, ranks)
    assert scored is not None, "rank 0 scores"
    return scored
