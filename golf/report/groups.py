"""Groups of runs that differ in their seeds: mean and spread, differences by seed, and one-sided tests.

A difference is the second group's figure less the first's, so below 0 is better wherever less is better. Welch's test
(B. L. Welch, "The generalization of Student's problem when several different population variances are involved",
Biometrika 34, 1947) needs no pairs and no equal spreads; the test on pairs takes runs of the same seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from golf.base.errors import GolfError

__all__ = ["LEVEL", "Difference", "Group", "compare_groups", "groups_markdown", "judged", "less_is_better"]

LEVEL = 0.05  # of both tests


@dataclass(frozen=True)
class Group:
    """Runs of one setting: what it is called, and for every metric the figures in the order of the seeds."""

    label: str
    values: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Difference:
    """``mean`` and standard ``error`` of the differences by seed (n - 1), and one-sided p values for "second is less"
    by Welch's test and by the t-test on pairs; NaN where nothing varies."""

    mean: float
    error: float
    welch_p: float
    paired_p: float


def compare_groups(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The difference of two groups with the same seeds in the same order, at least two.

    Raises ``GolfError`` where scipy is not installed.
    """
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise GolfError("scipy, which has the tests, is not installed: pip install 'golf[pipeline]'") from None
    assert len(first) == len(second) >= 2
    pairs = [b - a for a, b in zip(first, second, strict=True)]
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    varied = statistics.stdev(first) > 0.0 or statistics.stdev(second) > 0.0
    welch = float(stats.ttest_ind(second, first, equal_var=False, alternative="less").pvalue) if varied else math.nan
    paired = float(stats.ttest_rel(second, first, alternative="less").pvalue) if error > 0.0 else math.nan
    return Difference(statistics.fmean(pairs), error, welch, paired)


def less_is_better(metric: str) -> bool:
    """Whether ``metric`` is a code length, a loss, a size or a time, by the unit in its name."""
    return metric.endswith(("_per_byte", "_per_token", "_bytes", "_seconds", "_loss"))


def judged(difference: Difference, *, less: bool) -> str:
    """What may be said of a difference: gain, loss (where less is better, else less, more), or that nothing is shown.

    A difference below its standard error is none, whatever the tests say of it.
    """
    better, worse = ("gain", "loss") if less else ("less", "more")
    if difference.mean == 0.0:
        return "the same"
    if abs(difference.mean) < difference.error:
        return "not shown: below its standard error"
    for p, basis in ((difference.welch_p, ""), (difference.paired_p, ", by pairs alone")):
        if p < LEVEL:
            return better + basis
        if p > 1.0 - LEVEL:
            return worse + basis
    return "not shown" if difference.error > 0.0 else "every seed alike"


def groups_markdown(title: str, about: str, seeds: Sequence[int], groups: Sequence[Group]) -> str:
    """One page: means and spreads of every metric, the comparison of two groups, and every run.

    All groups have the same metrics, each with one figure per seed.
    """
    metrics = list(groups[0].values)
    rows = []
    for metric in metrics:
        cells = []
        for group in groups:
            spread = statistics.stdev(group.values[metric])
            cells += [_figure(statistics.fmean(group.values[metric]), spread), f"{spread:.3g}"]
        rows.append([metric, *cells])
    header = ["metric", *(word for group in groups for word in (f"{group.label}: mean", "sd (n-1)"))]
    parts = [f"# {title}", about, _table(header, rows)]
    if len(groups) == 2:
        parts += _comparison(metrics, groups)
    parts.append("## Every run")
    header = ["metric", "setting", *(f"seed {seed}" for seed in seeds)]
    rows = []
    for metric in metrics:
        for group in groups:
            spread = statistics.stdev(group.values[metric])
            rows.append([metric, group.label, *(_figure(value, spread) for value in group.values[metric])])
        if len(groups) == 2:
            pairs = [b - a for a, b in zip(groups[0].values[metric], groups[1].values[metric], strict=True)]
            rows.append([metric, "difference", *(f"{pair:+.3g}" for pair in pairs)])
    return "\n\n".join([*parts, _table(header, rows)]) + "\n"


def _comparison(metrics: Sequence[str], groups: Sequence[Group]) -> list[str]:
    rows = []
    for metric in metrics:
        found = compare_groups(groups[0].values[metric], groups[1].values[metric])
        verdict = judged(found, less=less_is_better(metric))
        tests = [f"{p:.3g}" if not math.isnan(p) else "-" for p in (found.welch_p, found.paired_p)]
        rows.append([metric, f"{found.mean:+.3g}", f"{found.error:.2g}", *tests, verdict])
    said = (
        f"{groups[1].label} less {groups[0].label}, by seed. Both p are one-sided, for less; Welch's test takes the "
        f"two groups, the other one the pairs. A gain exceeds its standard error and has p < {LEVEL}."
    )
    header = ["metric", "mean difference", "standard error", "p (Welch)", "p (pairs)", "verdict"]
    return ["## Difference", said, _table(header, rows)]


def _figure(value: float, spread: float) -> str:
    """``value`` with three digits of its ``spread``, at most six behind the point."""
    if spread <= 0.0:
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"
    digits = min(max(2 - math.floor(math.log10(spread)), 0), 6)
    return f"{value:,.{digits}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
