"""What a training log or a ``submission.json`` of the challenge says of its run.

Logs are read line by line with patterns that take time in proportion to the line, whoever wrote it.
"""

from __future__ import annotations

import dataclasses
import decimal
import json
import math
import re
from pathlib import Path
from typing import Any

from golf.base.errors import GolfError

__all__ = ["AuditError", "Run", "read_run"]

MAX_FILE_BYTES = 1 << 30


class AuditError(GolfError):
    """A file that holds no score to audit."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What one log or JSON says of itself."""

    path: str
    loss: float | None  # nats per token of the headline
    bpb: float | None  # bits per byte of the headline
    rounding: float  # relative: what the digits printed leave open of loss / bpb
    tokens: int | None  # scored targets
    dataset: str  # name of the tokenized data set as printed, "" where it is not
    total_bytes: int | None  # artifact and code, as printed
    code_bytes: int | None  # the source as it is, which may be packed when it ships
    seed: int | None
    steps: int | None
    settings: dict[str, float]  # iterations, warmdown, swa, qat ... as far as printed
    fired: frozenset[str]  # phases whose start is logged


_NUMBER = r"\d{1,18}(?:\.\d{0,40})?(?:[eE][-+]?\d{1,3})?"
_PAIR = re.compile(
    rf"val_loss\"?[:=]\s{{0,8}}({_NUMBER})[\s,]{{1,40}}\"?\w{{0,40}}val_bpb\"?[:=]\s{{0,8}}({_NUMBER})(?![\w.])"
)
_SIZE = re.compile(r"[Tt]otal (?:submission|artifact) size[^:=\n]{0,80}[:=]\s{0,8}(\d[\d,]{0,30})\s{0,8}bytes")
_CODE = re.compile(r"[Cc]ode size[^:=\n]{0,80}[:=]\s{0,8}(\d[\d,]{0,30})\s{0,8}bytes")
_SEED = re.compile(r"(?:^|\s)seed[:=]\s{0,8}(\d{1,18})(?!\S)", re.I)  # no call of a function
_STEP = re.compile(r"\bstep[:=]\s{0,8}(\d{1,18})\b")
_TOKENS = re.compile(r"\b(?:val_tokens|tokens_scored|targets)[:=]\s{0,8}(\d[\d,]{0,30})")
_LOADED = re.compile(r"\btokens:(\d{1,18})\b")  # on a line of the validation loader
_DATASET = re.compile(r"\b(?:pattern=|data_path[:=]\s{0,8})[^\s'\"=]{0,400}?fineweb10B_(\w{1,80})")
_SETTING = re.compile(
    r"\b(iterations|warmdown_iters|swa_enabled|late_qat|qat_enabled|ema_enabled|max_wallclock_seconds)"
    r"[:=]\s{0,8}(\w{1,18})", re.I,
)  # fmt: skip
_LAST = {"total": _SIZE, "code": _CODE, "tokens": _TOKENS, "data": _DATASET, "seed": _SEED}
_SOURCE = re.compile(r"\b(?:log\d?|print)\(|^\s{0,99}#")  # logs of the challenge begin with the training script
_FIRED = {
    "swa": re.compile(r"\bswa\W{1,3}(?:start|snapshot|averag|appl|collect)|\b(?:appl|averag|load)\w{0,8} swa\b", re.I),
    "qat": re.compile(r"(?:late_)?qat[:_ ]{1,8}(?:enabled|start|on)\b(?![:=])", re.I),
}


def read_run(path: str | Path) -> Run:
    """Read a training log or a ``submission.json``, UTF-8 or UTF-16.

    Raises ``AuditError`` when it cannot be read, when there is no score in it, or a number that is none.
    """
    path = Path(path)
    if not path.is_file():
        reason = "is no file" if path.exists() else "no such file"
        raise AuditError(f"{path}: {reason}; give a training log or a submission.json")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise AuditError(f"{path}: found more than {MAX_FILE_BYTES:,} bytes, which no training log has")
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise AuditError(f"{path}: cannot be read ({error.strerror})") from error
    run = _from_json(path, text) if path.suffix.lower() == ".json" else _from_log(path, text)
    if run.bpb is None:
        raise AuditError(f"{path}: found no `val_loss: ... val_bpb: ...` pair and no `val_bpb` key, nothing to audit")
    return run


def _decoded(raw: bytes) -> str:
    """The text of a log, which PowerShell writes as UTF-16; bytes that are none of it become U+FFFD."""
    head = raw[:4096]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
        if len(head) >= 4 and zeros.count(0) > 0.7 * len(zeros):
            return raw.decode(encoding, errors="replace")
    return raw.decode("utf-8-sig", errors="replace")


class _Printed(float):
    """A number and half a unit of its last printed digit."""

    half: float

    def __new__(cls, text: str) -> _Printed:
        number = super().__new__(cls, text)
        try:
            exponent = decimal.Decimal(text).as_tuple().exponent
            number.half = 0.5 * 10.0 ** int(exponent)
        except (ArithmeticError, ValueError):  # no number, or beyond the range of floats
            number.half = math.inf
        return number


def _rounding(loss: _Printed | None, bpb: _Printed | None) -> float:
    return loss.half / loss + bpb.half / bpb if loss and bpb else 0.0


def _from_json(path: Path, text: str) -> Run:
    try:
        data = json.loads(text, parse_float=_Printed, parse_int=_Printed)
    except (ValueError, RecursionError) as error:
        raise AuditError(f"{path}: not readable as JSON ({str(error)[:200]})") from error
    if not isinstance(data, dict):
        raise AuditError(f"{path}: found {type(data).__name__} at the top, expected a mapping")

    def first(*keys: str, zero: bool = False) -> _Printed | None:
        for key in (key for key in keys if isinstance(data.get(key), float)):  # parsed numbers alone are floats
            value = data[key]
            if not (value > 0 or zero and value == 0) or not value < 1e18:  # infinite or no number
                raise AuditError(f"{path}: {key}: found {value:g}, expected a finite number above 0")
            return _Printed(str(value)) if type(value) is float else value
        return None

    def whole(*keys: str) -> int | None:
        value = first(*keys, zero=True)
        return None if value is None else int(value)

    prefixes = ("", "mean_", "post_ttt_")
    prefix = next((p for p in prefixes if isinstance(data.get(f"{p}val_bpb"), float)), "")
    loss, bpb = first(f"{prefix}val_loss", "loss"), first(f"{prefix}val_bpb", "bpb")
    return Run(
        path=str(path),
        loss=loss,
        bpb=bpb,
        rounding=_rounding(loss, bpb),
        tokens=whole("val_tokens", "tokens_scored", "targets"),
        dataset="",
        total_bytes=whole("bytes_total", "total_bytes", "artifact_bytes"),
        code_bytes=None,
        seed=whole("seed"),
        steps=whole("steps", "step_stop"),
        settings={},
        fired=frozenset(),
    )


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _from_log(path: Path, text: str) -> Run:
    last: dict[str, Any] = {}  # what the last line that has it says
    steps, settings, fired = 0, {}, set()
    pairs = _PAIR.findall(text)
    loss, bpb = (_Printed(number) for number in pairs[-1]) if pairs else (None, None)
    for line in text.splitlines():
        for name, pattern in _LAST.items():
            if found := pattern.findall(line):
                last[name] = found[-1]
        if "val_loader" in line and (match := _LOADED.search(line)):
            last["tokens"] = match.group(1)
        steps = max([steps, *map(int, _STEP.findall(line))])
        for name, value in _SETTING.findall(line):
            words = {"true": 1.0, "false": 0.0}
            if value.lower() in words or value.isdecimal():
                settings[name.lower()] = words[value.lower()] if value.lower() in words else float(value)
        if not _SOURCE.search(line):
            fired |= {name for name, pattern in _FIRED.items() if pattern.search(line)}
    if bpb is not None and not (loss and bpb):
        raise AuditError(f"{path}: found val_loss {loss:g} and val_bpb {bpb:g}, expected numbers above 0")
    whole = {name: _whole(last[name]) for name in ("total", "code", "tokens", "seed") if name in last}
    return Run(
        path=str(path),
        loss=loss,
        bpb=bpb,
        rounding=_rounding(loss, bpb),
        tokens=whole.get("tokens"),
        dataset=last.get("data", ""),
        total_bytes=whole.get("total"),
        code_bytes=whole.get("code"),
        seed=whole.get("seed"),
        steps=steps or None,
        settings=settings,
        fired=frozenset(fired),
    )
