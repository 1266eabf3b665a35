"""The modes of evaluation: one table for the stages, the verifier and the command line.

To add a mode: a module with a class of parameters and ``score_mode(name, model, text, config, ranks)``, which gives
rank 0 the score (of every other rank its share of the work, and None or the same score), and a line in ``MODES``.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from golf.base.distributed import ALONE, Ranks
from golf.base.params import load_section
from golf.scoring.results import Scored
from golf.scoring.text import ValidationText

__all__ = ["MODES", "Mode", "load_modes", "mode_of", "run_mode"]

MODES = {  # name: module, class of parameters; `golf.base.code` reads this table without importing it
    "roundtrip": ("golf.scoring.network", "RoundtripConfig"),
    "sliding": ("golf.scoring.network", "SlidingConfig"),
    "streaming": ("golf.scoring.record_stream", "StreamingConfig"),
    "hedge": ("golf.scoring.mixture_score", "HedgeOverStream"),
    "ttt": ("golf.scoring.ttt", "TttConfig"),
}


class Mode(NamedTuple):
    """``config``: class of its parameters, section ``evaluate.NAME``; ``run``: its score."""

    config: type
    run: Callable[[str, Any, ValidationText, Any, Ranks], Scored | None]


def mode_of(name: str) -> Mode:
    """A mode of the table, its module imported now."""
    where, config = MODES[name]
    module = importlib.import_module(where)
    return Mode(getattr(module, config), module.score_mode)


def load_modes(params: str | Path, modes: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of each mode, from the sections ``evaluate.NAME`` of a file. Raises ``ParamsError``."""
    loaded: dict[str, Any] = {}
    for mode in modes:
        config = mode_of(mode).config
        if mode == "hedge":  # its score depends on two sections
            hints = get_type_hints(config)
            names = [field.name for field in dataclasses.fields(config)]
            loaded[mode] = config(*(load_section(params, f"evaluate.{name}", hints[name]) for name in names))
        else:
            loaded[mode] = load_section(params, f"evaluate.{mode}", config)
    return loaded


def run_mode(name: str, model: Any, text: ValidationText, config: Any, ranks: Ranks = ALONE) -> Scored:
    """A mode as its stage runs it, on rank 0."""
    scored = mode_of(name).run(name, model, text, config, ranks)
    assert scored is not None, "rank 0 scores"
    return scored
