"""What a parameter means, what it may be, which stages a change runs again, and where it was measured."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from golf.base.params import ParamsError, from_dict, quoted

__all__ = ["CONFIGS", "check_overridden", "did_you_mean", "explain", "flat_keys"]

CONFIGS = {  # section: where its dataclass is; those of `model` are in golf.models.registry
    "tokenize": ("golf.data.tokenize", "TokenizeConfig"),
    "train": ("golf.training.config", "TrainConfig"),
    "average": ("golf.training.average", "AverageConfig"),
    "calibrate": ("golf.quantize.calibrate", "CalibrateConfig"),
    "quantize": ("golf.quantize.config", "QuantizeConfig"),
    "fit": ("golf.quantize.config", "FitConfig"),
    "compress": ("golf.artifact.ship", "CompressConfig"),
    "evaluate.roundtrip": ("golf.scoring.network", "RoundtripConfig"),
    "evaluate.sliding": ("golf.scoring.network", "SlidingConfig"),
    "evaluate.streaming": ("golf.scoring.record_stream", "StreamingConfig"),
    "evaluate.hedge": ("golf.scoring.mixture_score", "HedgeConfig"),
    "evaluate.ttt": ("golf.scoring.ttt", "TttConfig"),
    "verify": ("golf.verify.run", "VerifyConfig"),
    "prove": ("golf.textcodec.prove", "ProveConfig"),
}
_SHOWN = 5  # pages named at most


def explain(key: str, values: Mapping[str, Any], text: str, root: Path) -> str:
    """The explanation of ``key`` (dotted) in the composed parameters ``values``, whose commented YAML is ``text``.

    ``root`` holds dvc.yaml and docs/. Raises ``ParamsError`` for an unknown key, naming the nearest one.
    """
    keys = flat_keys(values)
    if key not in keys:
        raise ParamsError(f"unknown key {quoted(key)}{did_you_mean(key, keys)}")
    value = keys[key]
    lines = [key if isinstance(value, dict) else f"{key}: {_plain(value)}"]
    if meaning := _meaning(key, text):
        lines.append(f"  meaning   {meaning}")
    if isinstance(value, dict):
        lines.append(f"  keys      {', '.join(value)}")
    elif (hint := _hint(key, values)) is not None:
        lines.append(f"  range     {_range(hint)}")
    if (root / "dvc.yaml").is_file():
        own, after = _runs(key, root / "dvc.yaml")
        lines.append(f"  re-runs   {', '.join(own)}{', then ' + ', '.join(after) if after else ''}")
    if pages := _pages(key, root):
        lines.append(f"  measured  {', '.join(pages)}")
    return "\n".join(lines) + "\n"


def flat_keys(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every key of nested ``values`` with dots between, sections included."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat[f"{prefix}{name}"] = value
        if isinstance(value, dict):
            flat |= flat_keys(value, f"{prefix}{name}.")
    return flat


def did_you_mean(key: str, keys: Iterable[str]) -> str:
    """``; did you mean `...`?`` for the key nearest to ``key``, or for that of the same last part; else empty."""
    keys = list(keys)
    same = [other for other in keys if other.rpartition(".")[2] == key.rpartition(".")[2]]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.7) or same[:1]
    return f"; did you mean `{near[0]}`?" if near else ""


def check_overridden(values: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Raise the ``ParamsError`` that a stage would raise for a value of ``overrides``, before anything is written."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        section = _section(key)
        if section == "model":
            from golf.models.configs.families import config_from_dict

            config_from_dict(values["model"])
        elif section is not None:
            module, name = CONFIGS[section]
            data: Any = values
            for part in section.split("."):
                data = data[part]
            from_dict(getattr(importlib.import_module(module), name), data, where=section)


def _section(key: str) -> str | None:
    return next((name for name in ("model", *CONFIGS) if f"{key}.".startswith(f"{name}.")), None)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _meaning(key: str, text: str) -> str:
    """The comment on the line of ``key``, or of the mapping on one line that holds it."""
    path: list[tuple[int, str]] = []
    said = ""
    for line in text.splitlines():
        match = re.match(r"( *)([\w-]+):(.*)", line)
        if match is None:
            continue
        indent = len(match.group(1))
        path = [*((depth, name) for depth, name in path if depth < indent), (indent, match.group(2))]
        dotted = ".".join(name for _, name in path)
        if key == dotted or key.startswith(f"{dotted}.") and "{" in match.group(3):
            said = match.group(3).partition(" # ")[2].strip()
    return said


def _hint(key: str, values: Mapping[str, Any]) -> Any:
    """The type of a field, with its bounds; None where no dataclass of the library has it."""
    section = _section(key)
    if section is None:
        return None
    if section == "model":
        from golf.models.configs.families import FAMILIES

        (module, name), _ = FAMILIES[values["model"]["family"]]
    else:
        module, name = CONFIGS[section]
    hint: Any = getattr(importlib.import_module(module), name)
    for part in key.removeprefix(f"{section}.").split("."):
        if dataclasses.is_dataclass(hint):
            hint = typing.get_type_hints(hint, include_extras=True)[part]
        else:
            hint = typing.get_args(hint)[-1]  # of a dict: the same for every key
    return hint


def _range(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{_range(args[0])}, {' and '.join(map(str, args[1:]))}"
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is tuple:
        return f"[{_range(args[0])}; ...]" if args[-1] is Ellipsis else f"[{'; '.join(map(_range, args))}]"
    if origin in (Union, types.UnionType):
        return " or ".join("null" if arg is type(None) else _range(arg) for arg in args)
    return {int: "whole number", float: "number", bool: "true | false", str: "text"}.get(hint, str(hint))


def _runs(key: str, pipeline: Path) -> tuple[list[str], list[str]]:
    """The stages that have ``key`` among their parameters, and those that read what these make, in pipeline order."""
    stages = list(_stages(pipeline))
    own = {name for name, stage in stages if any(_touches(key, param) for param in stage.get("params", []))}
    dirty, made = set(own), set[str]()
    for name, stage in stages:  # in order: a stage follows those it reads of
        if name in dirty or any(_inside(dep, made) for dep in stage.get("deps", [])):
            dirty.add(name)
            made |= {next(iter(out)) if isinstance(out, dict) else out
                     for part in ("outs", "metrics") for out in stage.get(part, [])}  # fmt: skip
    names = [name for name, _ in stages]
    return [n for n in names if n in own], [n for n in names if n in dirty - own]


def _touches(key: str, param: Any) -> bool:
    return isinstance(param, str) and (f"{key}.".startswith(f"{param}.") or f"{param}.".startswith(f"{key}."))


def _inside(dep: str, made: set[str]) -> bool:
    return any(f"{dep}/".startswith(f"{out}/") or f"{out}/".startswith(f"{dep}/") for out in made)


def _stages(pipeline: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every stage of dvc.yaml, those of a matrix one by one."""
    from ruamel.yaml import YAML

    for name, stage in YAML(typ="safe").load(pipeline.read_text(encoding="utf-8"))["stages"].items():
        if "matrix" not in stage:
            yield name, stage
            continue
        ((axis, values),) = stage["matrix"].items()
        for value in values:
            yield f"{name}@{value}", _filled(stage, f"${{item.{axis}}}", str(value))


def _filled(node: Any, marker: str, value: str) -> Any:
    if isinstance(node, dict):
        return {key: _filled(item, marker, value) for key, item in node.items()}
    if isinstance(node, list):
        return [_filled(item, marker, value) for item in node]
    return node.replace(marker, value) if isinstance(node, str) else node


def _pages(key: str, root: Path) -> list[str]:
    """Results pages that name the key."""
    word = re.compile(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)")
    pages = [p for p in sorted((root / "docs/results").glob("*.md")) if word.search(p.read_text(encoding="utf-8"))]
    return [page.relative_to(root).as_posix() for page in pages[:_SHOWN]]
