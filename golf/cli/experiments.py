"""Experiments of DVC as `golf seeds` and `golf compare` read them, through DVC's own interface.

What a run really used is in its dvc.lock: parameters, hashes of code and of data. Its figures and the scores of its
documents come out of the cache.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.base.errors import GolfError
from golf.cli.explain import flat_keys

__all__ = ["Experiment", "ExperimentError", "dvc_repository", "metrics_of", "read_experiment", "told"]


class ExperimentError(GolfError):
    """An experiment is missing, failed or not in the cache; or DVC refuses what was asked of it."""


@dataclass(frozen=True)
class Experiment:
    """One run. ``settings`` by dotted key, as the stages used them; ``code``: fingerprint by stage; ``data``: hash by
    path, of what no stage made and of the tokens; ``metrics``: figure by name; ``files``: DVC's view of its files."""

    name: str
    settings: Mapping[str, Any]
    code: Mapping[str, str]
    data: Mapping[str, str]
    metrics: Mapping[str, float]
    files: Any


@contextlib.contextmanager
def told() -> Iterator[None]:
    """DVC's refusals as ``ExperimentError``."""
    try:
        from dvc.exceptions import DvcException
        from scmrepo.exceptions import SCMError  # what DVC lets through of git: no identity, for one
    except ModuleNotFoundError as error:
        raise ExperimentError("DVC is not installed: pip install 'golf[pipeline]'") from error
    try:
        yield
    except (DvcException, SCMError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ExperimentError(f"DVC: {error}{cause}") from error


@contextlib.contextmanager
def dvc_repository(folder: Path = Path(".")) -> Iterator[Any]:
    """The DVC repository around ``folder``; DVC's refusals within are ``ExperimentError``."""
    with told():
        from dvc.repo import Repo

        with Repo(str(folder)) as repo:
            yield repo


def metrics_of(repo: Any, revision: str | None) -> dict[str, float]:
    """Figures of all metrics files by name, with the file in front where two stages have the same; None: the workspace.

    Of what stands in the summary below reports/ too, the stage's own figure is taken.
    """
    with told():
        found = repo.metrics.show(revs=[revision] if revision else None)
    files = found.get(revision or "workspace", {}).get("data", {})
    stages = {path: file.get("data", {}) for path, file in files.items() if not path.startswith("reports/")}
    shared = Counter(name for values in stages.values() for name in values)
    figures: dict[str, float] = {}
    for path, values in {**stages, **{path: file.get("data", {}) for path, file in files.items()}}.items():
        for name, value in values.items():
            copy = path not in stages and name in shared  # in a summary
            if isinstance(value, int | float) and not copy:
                figures[name if shared[name] < 2 else f"{path}:{name}"] = value
    return figures


def read_experiment(repo: Any, name: str) -> Experiment:
    """The experiment, branch, tag or commit ``name``, or the files as they lie here for ``workspace``.

    Raises ``ExperimentError`` where there is none of that name, or nothing was run at it.
    """
    from dvc.api import DVCFileSystem
    from dvc.scm import RevError, resolve_rev
    from ruamel.yaml import YAML

    try:
        revision = None if name == "workspace" else resolve_rev(repo.scm, name)
    except RevError as error:
        raise ExperimentError(f"{name}: no experiment, branch or commit; `dvc exp list -A` shows some") from error
    with told():
        files = DVCFileSystem(repo.root_dir, rev=revision)
        if not files.isfile("dvc.lock"):
            raise ExperimentError(f"{name}: nothing was run there, it has no dvc.lock; `dvc repro` makes it")
        stages = YAML(typ="safe").load(files.read_text("dvc.lock", encoding="utf-8"))["stages"]
    settings: dict[str, Any] = {}
    code: dict[str, str] = {}
    data: dict[str, str] = {}
    made = {out["path"] for stage, lock in stages.items() for out in lock.get("outs", []) if stage != "tokenize"}
    for stage, lock in stages.items():
        for values in lock.get("params", {}).values():
            settings |= {key: value for key, value in flat_keys(values).items() if not isinstance(value, dict)}
        for entry in lock.get("deps", []) + lock.get("outs", []):
            path, value = entry["path"], str(entry.get("md5"))
            if path.startswith("artifacts/code/"):
                code[Path(path).stem] = value
            elif path.endswith(".py"):  # as dvc.lock had them before there were fingerprints
                code[stage] = code.get(stage, "") + value
            elif path not in made and not path.startswith("metrics/"):
                data[path] = value
    return Experiment(name, settings, code, data, metrics_of(repo, revision), files)
