"""`golf compare`: what two experiments did differently, and which figures moved.

Settings, code and data are those the stages ran with, from dvc.lock. A score is compared document by document: the
standard error is that of the difference over the documents of the text, so a difference below it is no gain. What
another seed would give is not in it; `golf seeds` measures that.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from golf.base.errors import GolfError
from golf.base.files import scratch_directory
from golf.cli.experiments import Experiment, dvc_repository, read_experiment

__all__ = ["add_arguments", "document_difference", "report", "run"]

_SCORE = "_bits_per_byte"
_FILES = {mode: f"artifacts/evaluate/{mode}.safetensors" for mode in ("roundtrip", "sliding", "streaming", "hedge")}
_FILES["ttt"] = "artifacts/evaluate/ttt/scores.safetensors"
_TIMES = ("_seconds", "_per_second", "_percent_of_peak")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf compare`."""
    parser.add_argument(
        "experiments", nargs=2, metavar="EXP", help="experiment, branch, tag or commit; `workspace`: the files here"
    )
    parser.add_argument("--all", action="store_true", help="also figures that are times")


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    with dvc_repository() as repo:
        first, second = (read_experiment(repo, name) for name in args.experiments)
        print("\n".join(report(first, second, times=args.all)))
    return 0


def report(first: Experiment, second: Experiment, *, times: bool) -> list[str]:
    """The lines of the comparison: settings, code, data, then the figures that moved."""
    lines = [f"{first.name} -> {second.name}", "", "settings"]
    lines += _changes(first.settings, second.settings)
    lines += ["code"]
    stages = [name for name in sorted({*first.code, *second.code}) if first.code.get(name) != second.code.get(name)]
    lines += [f"  differs in the stages {', '.join(stages)}"] if stages else ["  the same"]
    lines += ["data"]
    lines += _changes(_short(first.data), _short(second.data))
    lines += ["figures that moved"]
    moved = [name for name in sorted({*first.metrics, *second.metrics})
             if first.metrics.get(name) != second.metrics.get(name)]  # fmt: skip
    hidden = [] if times else [name for name in moved if name.endswith(_TIMES)]
    shown = sorted((name for name in moved if name not in hidden), key=lambda name: (not name.endswith(_SCORE), name))
    lines += [_figure(name, first, second) for name in shown] or ["  none"]
    if hidden:
        lines.append(f"  ({len(hidden)} times left out: --all)")
    if any("s.e. " in line for line in lines):
        lines.append("\ns.e.: standard error over the documents of the text, without that of the seed (`golf seeds`)")
    return lines


def _short(data: Mapping[str, str]) -> dict[str, str]:
    return {path: value[:8] for path, value in data.items()}


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    keys = [key for key in sorted({*first, *second}) if first.get(key, "-") != second.get(key, "-")]
    width = max(map(len, keys), default=0)
    return [f"  {key:<{width}}  {first.get(key, '-')} -> {second.get(key, '-')}" for key in keys] or ["  the same"]


def _figure(name: str, first: Experiment, second: Experiment) -> str:
    before, after = first.metrics.get(name), second.metrics.get(name)
    if before is None or after is None:
        return f"  {name:<34} {_plain(before)} -> {_plain(after)}"
    line = f"  {name:<34} {_plain(before)} -> {_plain(after)}  {_signed(after - before)}"
    return f"{line}  {_judged(name, after - before, first, second)}" if name.endswith(_SCORE) else line


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def _signed(value: float) -> str:
    return f"{value:+,}" if isinstance(value, int) else f"{value:+.3g}"


def _judged(name: str, difference: float, first: Experiment, second: Experiment) -> str:
    """What may be said of a score's difference."""
    try:
        error = document_difference(_documents(first, name), _documents(second, name))
    except GolfError as reason:
        return f"no standard error, so no verdict: {reason}"
    times = abs(difference) / error if error else math.inf
    word = "gain" if difference < 0 else "loss"
    if times < 1:
        return f"s.e. {error:.2g}: no {word}, below its standard error"
    return f"s.e. {error:.2g}: {word if times >= 2 else f'no {word} shown'}, {times:.1f} standard errors"


def _documents(experiment: Experiment, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Nats float64 (D,) and bytes int64 (D,) of every document; ``GolfError`` where they are not to be had."""
    from golf.scoring.results import load_documents

    scorer = name.removesuffix(_SCORE)
    mode = scorer.partition("_")[0]
    if mode not in _FILES:
        raise GolfError("it is no score of documents")
    with scratch_directory("golf-compare") as folder:
        target = folder / "scores.safetensors"
        try:
            experiment.files.get_file(_FILES[mode], str(target))
        except FileNotFoundError as error:
            raise GolfError(f"{_FILES[mode]} of {experiment.name} is not in the cache (`dvc pull`)") from error
        table = load_documents({mode: target})
    if scorer not in table.nats:
        raise GolfError("it is no score of documents")
    return table.nats[scorer], table.doc_bytes


def document_difference(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """Standard error, in bits per byte, of the difference of two scores of the same documents.

    Each is nats float64 (D,) and bytes int64 (D,). The difference is a ratio of sums over documents, so its error is
    that of the ratio estimator (W. G. Cochran, Sampling Techniques, 1977, section 6.3). Raises ``GolfError`` for
    other documents, or fewer than two.
    """
    (nats, sizes), (others, other_sizes) = first, second
    if not np.array_equal(sizes, other_sizes):
        raise GolfError("the two scored other documents")
    if len(sizes) < 2:
        raise GolfError("the text is one document")
    changes = others - nats
    left = changes - changes.sum() / sizes.sum() * sizes
    count = len(sizes)
    return float(math.sqrt(count / (count - 1) * np.square(left).sum()) / math.log(2.0) / sizes.sum())
