"""What a training log or a ``submission.json`` of the challenge says of its run."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from golf.base.errors import GolfError

__all__ = ["AuditError", "Run", "read_run"]


class AuditError(GolfError):
    """A file that holds no score to audit."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What one log or JSON says of itself."""

    path: str
    loss: float | None  # nats per token of the headline
    bpb: float | None  # bits per byte of the headline
    tokens: int | None
    total_bytes: int | None  # artifact and code, as printed
    seed: int | None
    steps: int | None
    settings: dict[str, float]  # iterations, warmdown, swa, qat ... as far as printed
    fired: frozenset[str]  # phases whose start is logged


_PAIR = re.compile(r"val_loss[:=]\s*([0-9.]+)\s+val_bpb[:=]\s*([0-9.]+)")
_SIZE = re.compile(r"[Tt]otal (?:submission|artifact) size[^:\n]*[:=]\s*([0-9][0-9,]*)\s*bytes")
_SEED = re.compile(r"\bseed[:=]\s*(\d+)", re.I)
_STEP = re.compile(r"\bstep[:=]\s*(\d+)")
_TOKENS = re.compile(r"\b(?:val_tokens|tokens_scored|targets)[:=]\s*([0-9][0-9,]*)|val_loader.*?tokens:(\d+)")
_SETTING = re.compile(r"\b(iterations|warmdown_iters|swa_enabled|late_qat|qat_enabled|ema_enabled)[:=]\s*(\w+)", re.I)
_FIRED = {
    "swa": re.compile(r"swa:start|swa[: ]+(?:snapshot|averag)", re.I),
    "qat": re.compile(r"(?:late_)?qat[:_ ]+(?:enabled|start|on)\b(?![:=])", re.I),
    "warmdown": re.compile(r"warmdown[:_ ]+start", re.I),
}


def read_run(path: str | Path) -> Run:
    """Read a training log or a ``submission.json``. Raises ``AuditError`` when there is no score in it."""
    path = Path(path)
    if not path.is_file():
        raise AuditError(f"{path}: no such file; give a training log or a submission.json")
    text = path.read_text(errors="replace")
    run = _from_json(path, text) if path.suffix == ".json" else _from_log(path, text)
    if run.bpb is None:
        raise AuditError(f"{path}: found no `val_loss: ... val_bpb: ...` pair and no `val_bpb` key, nothing to audit")
    return run


def _from_json(path: Path, text: str) -> Run:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise AuditError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(data, dict):
        raise AuditError(f"{path}: found {type(data).__name__} at the top, wanted a mapping")

    def first(*keys: str) -> Any:
        return next((data[key] for key in keys if isinstance(data.get(key), int | float)), None)

    return Run(
        path=str(path),
        loss=first("val_loss", "loss"),
        bpb=first("val_bpb", "bpb"),
        tokens=first("val_tokens", "tokens"),
        total_bytes=first("bytes_total", "total_bytes", "artifact_bytes"),
        seed=first("seed"),
        steps=first("steps", "step_stop"),
        settings={},
        fired=frozenset(),
    )


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _from_log(path: Path, text: str) -> Run:
    pairs, sizes, seeds = _PAIR.findall(text), _SIZE.findall(text), _SEED.findall(text)
    steps, tokens = _STEP.findall(text), _TOKENS.findall(text)
    words = {"true": 1.0, "false": 0.0}
    settings = {}
    for name, value in _SETTING.findall(text):
        if value.lower() in words or value.isdigit():
            settings[name.lower()] = words.get(value.lower(), float(value) if value.isdigit() else 0.0)
    return Run(
        path=str(path),
        loss=float(pairs[-1][0]) if pairs else None,
        bpb=float(pairs[-1][1]) if pairs else None,
        tokens=_whole(next(filter(None, tokens[-1]))) if tokens else None,
        total_bytes=_whole(sizes[-1]) if sizes else None,
        seed=int(seeds[0]) if seeds else None,
        steps=max(map(int, steps)) if steps else None,
        settings=settings,
        fired=frozenset(name for name, pattern in _FIRED.items() if pattern.search(text)),
    )
