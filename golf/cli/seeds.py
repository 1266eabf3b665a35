"""`golf seeds`: the same run from several seeds, and whether a change is more than their noise.

Queues one DVC experiment per seed, of the parameters as they are and, with `-S`, of the changed ones; runs the queue,
waits, and prints means, spreads, differences by seed and one-sided tests as Markdown. What ran before is not run again:
an experiment's name holds the settings, the commit and the edits since.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.base.files import write_text
from golf.base.params import read_params
from golf.base.progress import bar
from golf.cli.experiments import ExperimentError, dvc_repository, metrics_of, told
from golf.cli.explain import check_overridden, did_you_mean, flat_keys
from golf.cli.outputs import tried

__all__ = ["Setting", "add_arguments", "run", "settings"]

_SEED = "train.seed"
_SHOWN = tuple(f"{mode}_bits_per_byte" for mode in ("roundtrip", "sliding", "streaming", "hedge")) + ("total_bytes",)
_POLL_SECONDS, _WORKER_SECONDS, _LOST_POLLS = 1.0, 60.0, 10


@dataclass(frozen=True)
class Setting:
    """A group of runs: what it is called on the page, its overrides, and the name of its experiment by seed."""

    label: str
    overrides: tuple[str, ...]
    names: Mapping[int, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf seeds`."""
    parser.add_argument("seeds", type=int, metavar="N", help=f"seeds, from {_SEED} of params.yaml upward; 2 or more")
    parser.add_argument("-S", dest="changed", action="append", default=[], metavar="KEY=VALUE", help="the change")
    parser.add_argument(
        "--against", action="append", default=[], metavar="KEY=VALUE", help="compare with this (default: params.yaml)"
    )
    parser.add_argument("-j", "--jobs", type=int, default=1, help="experiments at a time (default: 1)")
    parser.add_argument("--metric", action="append", help="figure to compare; may be repeated (default: scores, size)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the page to FILE")


def run(args: argparse.Namespace) -> int:
    """Queue, run, wait, print; ``ExperimentError`` names what failed."""
    from golf.report.groups import Group, groups_markdown

    if args.seeds < 2:
        raise ExperimentError(f"N is {args.seeds}: a spread needs 2 seeds or more")
    tried(args.write)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with dvc_repository() as repo:
        root = Path(repo.root_dir)
        compared = settings(root, args.seeds, against=args.against, changed=args.changed)
        names = [name for setting in compared for name in setting.names.values()]
        open_ = _queue(repo, compared)
        if open_:
            print(f"{len(names)} experiments, {len(open_)} to run; Ctrl-C does not stop them", file=sys.stderr)
        _wait(repo, open_, jobs=max(1, args.jobs))
        figures = {name: metrics_of(repo, name) for name in names}
        metrics = _metrics(figures, args.metric)
        groups = []
        for setting in compared:
            runs = [figures[name] for name in setting.names.values()]
            groups.append(Group(setting.label, {metric: [run[metric] for run in runs] for metric in metrics}))
        commit = repo.scm.get_rev()[:7]
    seeds = list(compared[0].names)
    page = groups_markdown(_title(compared), _about(args, seeds, commit, compared), seeds, groups)
    if args.write:
        write_text(args.write, page)
    print(page, end="")
    return 0


def settings(root: Path, seeds: int, *, against: Sequence[str], changed: Sequence[str]) -> list[Setting]:
    """The groups that are run, with the names of their experiments.

    Raises ``ParamsError`` for values that a stage would refuse, ``ExperimentError`` for an unknown key.
    """
    values = read_params(root / "params.yaml")
    keys = flat_keys(values)
    if _SEED not in keys:
        raise ExperimentError(f"params.yaml: no {_SEED}, which the seeds are given to")
    state = _state(root)
    groups = [list(against), list(changed)] if changed else [list(against)]
    found = []
    for overrides in groups:
        _check(overrides, values, keys)
        label = ", ".join(overrides) or "params.yaml"
        digest = hashlib.sha256("\n".join([state, *sorted(overrides)]).encode()).hexdigest()[:6]
        word = re.sub(r"[^a-z0-9]+", "-", "-".join(o.rpartition(".")[2] for o in overrides).lower())[:24].strip("-")
        stem = f"{word or 'base'}-{digest}"
        names = {seed: f"{stem}-s{seed}" for seed in range(keys[_SEED], keys[_SEED] + seeds)}
        found.append(Setting(label, tuple(overrides), names))
    if len(found) == 2 and found[0].names == found[1].names:
        raise ExperimentError("-S and --against say the same; give a difference")
    return found


def _state(root: Path) -> str:
    """The commit and what was edited since, results aside, as one hash."""
    commands = ["git rev-parse HEAD", "git diff --binary HEAD -- . :(exclude)*dvc.lock :(exclude)reports"]
    told = [subprocess.run(line.split(), cwd=root, capture_output=True, check=False).stdout for line in commands]
    return hashlib.sha256(b"\n".join(told)).hexdigest()


def _check(overrides: Sequence[str], values: dict[str, Any], keys: Mapping[str, Any]) -> None:
    from ruamel.yaml import YAML

    changed = read = values
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or key not in keys:
            raise ExperimentError(f"-S {override}: unknown key, expected KEY=VALUE{did_you_mean(key, keys)}")
        if key == _SEED:
            raise ExperimentError(f"-S {override}: the seeds are those from {_SEED} of params.yaml upward; edit that")
        changed = _replaced(changed, key.split("."), YAML(typ="safe").load(text))
    if changed is not read:
        check_overridden(changed, overrides)


def _replaced(values: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    return values | {path[0]: value if len(path) == 1 else _replaced(values[path[0]], path[1:], value)}


def _queue(repo: Any, compared: Sequence[Setting]) -> list[str]:
    """Queue what neither ran on this commit nor waits; all seeds of one setting first: the other finds their training.

    Returns the names of the experiments that are still to be waited for.
    """
    done = _done(repo)
    queued = {name for name, (status, _) in _statuses(repo).items() if status in ("Queued", "Running")}
    for setting in compared:
        for seed, name in setting.names.items():
            if name not in done | queued:
                repo.experiments.run(queue=True, name=name, params=[f"{_SEED}={seed}", *setting.overrides])
    return [name for setting in compared for name in setting.names.values() if name not in done]


def _done(repo: Any) -> set[str]:
    """Names of the experiments that ran on this commit."""
    return {name for found in repo.experiments.ls().values() for name, _ in found}


def _statuses(repo: Any) -> dict[str, tuple[str, str]]:
    """Status and id of the newest task of every name in the queue."""
    tasks = sorted(repo.experiments.celery_queue.status(), key=lambda task: task["timestamp"])
    return {task["name"]: (task["status"], task["rev"]) for task in tasks}


def _wait(repo: Any, names: Sequence[str], *, jobs: int) -> None:
    """Run the queue until every experiment of ``names`` is done; ``ExperimentError`` names those that failed."""
    queue, looked = repo.experiments.celery_queue, -math.inf
    idle, unseen = 0, Counter[str]()  # times in a row: nobody at work on the queue, an experiment nowhere
    with bar(what="experiments", total=len(names), unit="run", unit_scale=False) as shown:
        while open_ := _open(repo, names, unseen):
            shown.update(len(names) - len(open_) - shown.n)
            if time.monotonic() - looked >= _WORKER_SECONDS:  # DVC's workers end when they have nothing to do
                idle = idle + 1 if queue.start_workers(jobs) and looked > 0 else 0
                looked = time.monotonic()
            if idle > 2:
                raise ExperimentError(f"nobody works on {', '.join(open_)}; `dvc queue kill`, then remove them")
            time.sleep(_POLL_SECONDS)
    done, found = _done(repo), _statuses(repo)
    failed = [name for name in names if name not in done]
    if failed:
        said = _last_words(queue, found.get(failed[0]))
        others = f"; {len(failed)} of {len(names)} failed" if len(failed) > 1 else ""
        raise ExperimentError(f"{failed[0]} failed: {said}; `dvc queue logs {failed[0]}` shows all{others}")


def _open(repo: Any, names: Sequence[str], unseen: Counter[str]) -> list[str]:
    """The experiments that wait or run; one that a worker is about to take may be nowhere for a moment."""
    found = {name: status for name, (status, _) in _statuses(repo).items()}
    lost = [name for name in names if name not in found]
    if lost:
        done = _done(repo)
        unseen.update(name for name in lost if name not in done)
    moving = [name for name in lost if name not in done and unseen[name] <= _LOST_POLLS] if lost else []
    return [name for name in names if found.get(name) in ("Queued", "Running") or name in moving]


def _last_words(queue: Any, task: tuple[str, str] | None) -> str:
    """The last line of a task's log that is not DVC's own."""
    try:
        with told():
            text = Path(queue.proc[task[1]].stdout).read_text(encoding="utf-8", errors="replace") if task else ""
    except (KeyError, OSError):
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("ERROR")), lines[-1] if lines else "no log")


def _metrics(figures: Mapping[str, Mapping[str, float]], wanted: Sequence[str] | None) -> list[str]:
    """The metrics to show: those asked for, else the known ones that every run has."""
    common = set.intersection(*(set(found) for found in figures.values()))
    for metric in wanted or []:
        if metric not in common:
            raise ExperimentError(f"--metric {metric}: not in every run{did_you_mean(metric, sorted(common))}")
    shown = list(wanted or [metric for metric in _SHOWN if metric in common])
    if not shown:
        raise ExperimentError(
            f"the runs have none of {', '.join(_SHOWN)}; give --metric one that `dvc metrics show` lists"
        )
    return shown


def _title(compared: Sequence[Setting]) -> str:
    return " against ".join(setting.label for setting in reversed(compared)) + f", {len(compared[0].names)} seeds"


def _about(args: argparse.Namespace, seeds: Sequence[int], commit: str, compared: Sequence[Setting]) -> str:
    words = [f"-S {o}" for o in args.changed] + [f"--against {o}" for o in args.against]
    words += [f"--metric {metric}" for metric in args.metric or []]
    names = "; ".join(", ".join(f"`{name}`" for name in setting.names.values()) for setting in compared)
    return (
        f"`{' '.join(['golf seeds', str(args.seeds), *words])}` at commit {commit}, {_SEED} {seeds[0]} to {seeds[-1]}. "
        f"Experiments: {names}."
    )
