"""The composed parameters of the shipped presets: composing takes a fifth of a second, and many tests look at all."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from golf.cli.params import compose, render

__all__ = ["PRESETS", "shipped", "shipped_text"]

_CONF = Path(__file__).resolve().parents[2] / "conf"
PRESETS = sorted(path.stem for path in (_CONF / "preset").glob("*.yaml"))


@cache
def _composed(preset: str) -> str:
    return json.dumps(compose(_CONF, preset=preset))


def shipped(preset: str = "cpu_small") -> dict[str, Any]:
    """What ``compose`` gives for ``preset``; the caller may change it."""
    values: dict[str, Any] = json.loads(_composed(preset))
    return values


@cache
def shipped_text(preset: str = "cpu_small") -> str:
    """What ``render`` gives for ``preset``."""
    return render(_CONF, preset=preset)
