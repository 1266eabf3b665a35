"""`golf params`: compose conf/ into one params.yaml, comments kept.

DVC does not compose: `dvc repro` and `dvc exp run -S` start from params.yaml as it is, edits by hand included.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golf.base.files import write_text
from golf.base.params import ParamsError
from golf.cli.explain import check_overridden, did_you_mean, explain, flat_keys

__all__ = ["add_arguments", "compose", "render", "run"]

HEADER = (
    "# Made by `golf params{options}` from conf/. "
    "Edit freely: `dvc repro` and `dvc exp run -S KEY=VALUE` take this file as it is.\n"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf params`."""
    parser.add_argument("--preset", default="cpu_small", help="file in conf/preset (default: cpu_small)")
    parser.add_argument("--model", help="file in conf/model (default: the preset's)")
    parser.add_argument("--conf", default="conf", help="folder of the parameter files (default: conf)")
    parser.add_argument("--write", metavar="FILE", help="write FILE (params.yaml) instead of printing")
    parser.add_argument("--explain", metavar="KEY", help="say what a key means, its range, what a change runs again")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="single values, as in train.seed=7")


def run(args: argparse.Namespace) -> int:
    """Compose and print, write or explain."""
    chosen: dict[str, Any] = {"preset": args.preset, "model": args.model, "overrides": args.overrides}
    text = render(Path(args.conf), **chosen)
    if args.explain:
        conf = Path(args.conf)
        sys.stdout.write(explain(args.explain, compose(conf, **chosen), text, conf.resolve().parent))
        return 0
    if args.write:
        write_text(args.write, text)
        print(f"wrote {args.write}: preset {args.preset}")
    else:
        sys.stdout.write(text)
    return 0


def _options(conf: Path, group: str) -> list[str]:
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def compose(
    conf: Path, *, preset: str = "cpu_small", model: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """The composed parameters as plain dictionaries, sections in pipeline order.

    Raises ``ParamsError`` for an unknown preset, model or key; the message lists what there is.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    if not (conf / "config.yaml").is_file():
        raise ParamsError(f"{conf / 'config.yaml'}: not found; run in the repository's root or give --conf")
    for group, choice in (("preset", preset), ("model", model)):
        if choice is not None and choice not in _options(conf, group):
            known = ", ".join(_options(conf, group))
            raise ParamsError(f"unknown {group} `{choice}`: {conf / group} has {known}")
    choices = [f"preset={preset}", *([f"model={model}"] if model else [])]

    def composed(*more: str) -> dict[str, Any]:
        config = OmegaConf.to_container(hydra_compose("config", overrides=[*choices, *more]), resolve=True)
        assert isinstance(config, dict)
        return {str(name): section for name, section in config.items()}

    with initialize_config_dir(config_dir=str(conf.resolve()), version_base=None):
        try:
            config = composed(*overrides)
        except (HydraException, ValueError) as error:  # it raises plain ones for `preset=1`
            said = " ".join(f"{error} {error.__cause__ or ''}".split())
            if match := re.search(r"Could not override '([^']+)'", said):
                said += did_you_mean(match.group(1), flat_keys(composed()))
            elif "LexerNoViableAlt" in said or "mismatched input" in said or "no viable alternative" in said:
                said += """; a value with any of = ( ) [ ] { } , : ~ or a space is quoted twice, as in 'KEY="a=b"'"""
            raise ParamsError(f"{conf}: {said}") from error
    check_overridden(config, overrides)
    order = ["tokenize", "model"]
    return {name: config[name] for name in order + [n for n in config if n not in order]}


def render(conf: Path, *, preset: str = "cpu_small", model: str | None = None, overrides: Sequence[str] = ()) -> str:
    """The composed parameters as YAML text; each key keeps the comment it has in conf/config.yaml or conf/model."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    values = compose(conf, preset=preset, model=model, overrides=overrides)
    base = yaml.load((conf / "config.yaml").read_text(encoding="utf-8"))
    base.pop("defaults")
    base.insert(1, "model", _commented_model(conf, yaml, values["model"]))
    _overlay(base, values)
    stream = io.StringIO()
    yaml.dump(base, stream)
    body = stream.getvalue()
    body = body[body.index("tokenize:") :]
    options = "" if preset == "cpu_small" else f" --preset {preset}"
    options += f" --model {model}" if model else ""
    return HEADER.format(options=options) + "\n" + _spaced(body)


def _commented_model(conf: Path, yaml: Any, values: dict[str, Any]) -> Any:
    """The model file whose keys are those of the composed model, with its comments."""
    for name in _options(conf, "model"):
        candidate = yaml.load((conf / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
        if set(candidate) == set(values) and candidate["family"] == values["family"]:
            return candidate
    raise ParamsError(f"{conf / 'model'}: no file has the keys {', '.join(values)}")


def _overlay(commented: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(commented.get(key), dict) and set(value) == set(commented[key]):
            _overlay(commented[key], value)
        elif commented.get(key) != value:
            commented[key] = _flow(value)


def _flow(value: Any) -> Any:
    """Lists and mappings on one line, as they are written in conf/."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, list):
        sequence = CommentedSeq([_flow(item) for item in value])
        sequence.fa.set_flow_style()
        return sequence
    if isinstance(value, dict):
        mapping = CommentedMap({key: _flow(item) for key, item in value.items()})
        mapping.fa.set_flow_style()
        return mapping
    return value


def _spaced(body: str) -> str:
    """One blank line between sections, wherever the comments of the sources left some."""
    lines: list[str] = []
    for line in body.splitlines():
        if not line.strip() or line.startswith("#"):  # blank, or the title of a model file
            continue
        if lines and not line.startswith(" "):
            lines.append("")
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"
