"""Plots of one run as PNG and SVG: loss, schedules, size by tensor, score against size, the online mixture.

Drawn from history.tsv, tensors.tsv, the tables of stage hedge and the metrics files; same input, same bytes (no dates,
fixed ids). ``new_figure`` and ``save_figure`` draw the pictures of commands and benchmarks too.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from golf.base.files import FileError, require
from golf.report.results import Metrics

__all__ = ["MIXTURE_TABLES", "draw_all", "draw_mixture", "new_figure", "read_table", "running_mean", "save_figure"]

SIZE = (7.2, 4.0)  # inches
MIXTURE_TABLES = ("orders", "weights", "rows")
PARTS = {
    "hedge_bias": "document bias",
    "hedge_cascade": "cascade over it",
    "hedge_chain": "back-off chain over that",
    "hedge_final": "chain and cascade mixed",
    "hedge": "all",
}
SMOOTHED = 9  # sampled targets in one running mean

Columns = Mapping[str, list[str]]


class _Table(dict[str, list[str]]):
    """Columns of strings by name; one that is not there is a ``FileError``."""

    origin = ""

    def __missing__(self, key: str) -> list[str]:
        raise FileError(f"{self.origin}: no column `{key}` in it")


def read_table(path: str | Path, *, made_by: str, words: Sequence[str] = ()) -> dict[str, list[str]]:
    """A TSV file as columns of strings, numbers but for those named ``words``; ``FileError`` names its stage."""
    with open(require(path, made_by=made_by), newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    table, head = _Table(), rows[0] if rows else []
    table.origin = f"{path}, made by {made_by}"
    for number, row in enumerate(rows[1:], start=2):
        numbers = [cell for cell, name in zip(row, head, strict=False) if name not in words]
        if len(row) != len(head) or not all(map(_is_number, numbers)):
            raise FileError(f"{path}, line {number}: not a number in each of {len(head)} columns; re-run {made_by}")
    table |= {name: [row[column] for row in rows[1:]] for column, name in enumerate(head)}
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def draw_all(
    folder: Path, *, metrics: Metrics, history: Path, tensors: Path, curves: Path, compressors: tuple[str, ...]
) -> None:
    """Write every plot into ``folder`` (which exists), each as .png and .svg; ``curves`` is the folder of the mixture's
    tables, made by stage hedge."""
    steps = read_table(history, made_by="stage train")
    _save(_loss(steps), folder / "loss")
    _save(_schedule(steps), folder / "schedule")
    _save(
        _size(read_table(tensors, made_by="stage compress", words=("tensor", "role", "shape", "coder")), metrics),
        folder / "size",
    )
    _save(_score_against_size(metrics, compressors), folder / "score_size")
    made_by = "stage hedge"
    _save(_gain(read_table(curves / "position.tsv", made_by=made_by), "last_target"), folder / "gain_position")
    _save(_gain(read_table(curves / "orders.tsv", made_by=made_by), "order"), folder / "gain_order")
    _save(_weights(read_table(curves / "weights.tsv", made_by=made_by)), folder / "weights")
    _save(_calibration(read_table(curves / "calibration.tsv", made_by=made_by)), folder / "calibration")
    draw_mixture(folder, {name: read_table(curves / f"{name}.tsv", made_by=made_by) for name in MIXTURE_TABLES}, _save)


def new_figure(size: tuple[float, float] = SIZE) -> Any:
    """An empty figure of ``size`` inches in the style of all plots."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "golf", "axes.spines.top": False, "axes.spines.right": False})
    return Figure(figsize=size, layout="constrained")


def save_figure(figure: Any, path: Path, kind: str) -> None:
    """Write ``figure`` to ``path`` as ``kind`` (png or svg): same input, same bytes."""
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(path, format=kind, dpi=110, metadata=metadata)


def _save(figure: Any, path: Path) -> None:
    for kind in ("png", "svg"):
        save_figure(figure, path.with_suffix(f".{kind}"), kind)


def _axes(*, grid: bool = True, **labels: Any) -> tuple[Any, Any]:
    figure = new_figure()
    axes = figure.subplots()
    axes.set(**labels)
    if grid:
        axes.grid(alpha=0.3)
    return figure, axes


def _numbers(values: list[str]) -> list[float]:
    return [float(value) for value in values]


def _loss(steps: Columns) -> Any:
    figure, axes = _axes(xlabel="step", ylabel="training loss (nats per token)", title="Loss")
    axes.plot(_numbers(steps["step"]), _numbers(steps["loss"]), linewidth=1.0, color="tab:blue")
    return figure


def _schedule(steps: Columns) -> Any:
    figure, axes = _axes(
        grid=False, xlabel="step", ylabel="learning-rate multiplier", ylim=(0, 1.05), title="Schedules that fired"
    )
    axes.plot(_numbers(steps["step"]), _numbers(steps["lr_multiplier"]), color="tab:orange")
    depth = axes.twinx()
    depth.step(_numbers(steps["step"]), _numbers(steps["depth"]), where="post", color="tab:green")
    depth.set(ylabel="repeats in use", ylim=(0, max(_numbers(steps["depth"])) + 0.5))
    axes.yaxis.label.set_color("tab:orange")
    depth.yaxis.label.set_color("tab:green")
    return figure


def _size(tensors: Columns, metrics: Metrics) -> Any:
    figure, axes = _axes(
        grid=False, xlabel="bytes", title=f"Where {metrics.compress['total_bytes']:,} bytes go (largest tensors)"
    )
    sizes = sorted(zip(_numbers(tensors["bytes"]), tensors["tensor"], strict=True))[-24:]
    axes.barh([name for _, name in sizes], [size for size, _ in sizes], color="tab:blue")
    axes.tick_params(axis="y", labelsize=6)
    return figure


def _score_against_size(metrics: Metrics, compressors: tuple[str, ...]) -> Any:
    figure, axes = _axes(xlabel="artifact + decoder (bytes)", ylabel="bits per byte", title="Score against size")
    rest = metrics.compress["total_bytes"] - metrics.compress["payload_bytes"]
    score = metrics.scores["sliding"]["sliding_bits_per_byte"]
    for name in ("raw", *compressors):
        size = metrics.baselines[f"{name}_bytes"] + rest
        axes.plot(size, score, "o", color="tab:gray")
        axes.annotate(name, (size, score), rotation=60, xytext=(2, 6), textcoords="offset points", fontsize=8)
    colors = {"roundtrip": "tab:red", "sliding": "tab:blue", "streaming": "tab:orange", "hedge": "tab:green"}
    for mode, color in colors.items():
        value = metrics.scores[mode][f"{mode}_bits_per_byte"]
        axes.plot(metrics.compress["total_bytes"], value, "D", color=color, label=f"golf, {mode}")
    axes.margins(0.15)
    axes.legend(fontsize=8)
    return figure


def _gain(table: Columns, key: str) -> Any:
    """Nats per token below the streaming score, against the position in the text or the longest repeated context."""
    labels = {"last_target": "targets scored", "order": "longest context seen before (tokens)"}
    figure, axes = _axes(
        xlabel=labels[key], ylabel="gain over streaming (nats per token)", title="Gain of the online mixture"
    )
    base = _numbers(table["streaming_nats_per_token"])
    x = _numbers(table[key]) if key != "order" else [float(i) for i in range(len(table[key]))]
    names = {"hedge": "whole mixture", "hedge_simple": "plain Hedge"}
    for name, label in names.items():
        gain = [a - b for a, b in zip(base, _numbers(table[f"{name}_nats_per_token"]), strict=True)]
        axes.plot(x, gain, marker="." if key == "order" else "", label=label)
    axes.axhline(0.0, color="tab:gray", linewidth=0.8)
    if key == "order":
        axes.set_xticks(x, [f"{float(order):g}" for order in table[key]])
    axes.legend(fontsize=8)
    return figure


def _weights(table: Columns) -> Any:
    figure, axes = _axes(
        grid=False, xlabel="targets scored", ylabel="weight", ylim=(0, 1), title="Weights of plain Hedge"
    )
    for name in (name for name in table if name.startswith("simple_")):
        axes.plot(_numbers(table["target"]), _numbers(table[name]), linewidth=1.0, label=name.removeprefix("simple_"))
    axes.legend(fontsize=7)
    return figure


def _calibration(table: Columns) -> Any:
    figure, axes = _axes(
        xlabel="probability of the likeliest token", ylabel="share of targets that are it", title="Calibration"
    )
    axes.plot([0, 1], [0, 1], color="tab:gray", linewidth=0.8)
    axes.plot(_numbers(table["confidence"]), _numbers(table["hit_rate"]), "o-", markersize=3)
    return figure


def draw_mixture(folder: Path, tables: Mapping[str, Columns], save: Callable[[Any, Path], None]) -> None:
    """Draw ``tables`` (``MIXTURE_TABLES``) into ``folder``, each figure written by ``save``."""
    save(_parts(tables["orders"]), folder / "gain_parts")
    save(_chain_weights(tables["weights"]), folder / "weights_mixture")
    save(_rows(tables["rows"]), folder / "calibration_mixture")


def running_mean(values: list[float], width: int) -> list[float]:
    """Mean of each value and its neighbors, at most ``width`` in all; the window shrinks at both ends."""
    half = width // 2
    pieces = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(piece) / len(piece) for piece in pieces]


def _parts(table: Columns) -> Any:
    """Bars: share of the whole gain in bits that falls on targets with this longest repeated context."""
    figure, axes = _axes(
        xlabel="longest context seen before (tokens)",
        ylabel="nats saved in all, thousands",
        title="Gain of each part by the order of the repeat",
    )
    base, tokens = _numbers(table["streaming_nats_per_token"]), _numbers(table["tokens"])
    present = [name for name in PARTS if f"{name}_nats_per_token" in table]
    width = 0.8 / max(1, len(present))
    for i, name in enumerate(present):
        values = _numbers(table[f"{name}_nats_per_token"])
        saved = [(a - b) * n / 1e3 for a, b, n in zip(base, values, tokens, strict=True)]
        axes.bar([k + (i - len(present) / 2 + 0.5) * width for k in range(len(saved))], saved, width, label=PARTS[name])
    axes.axhline(0.0, color="tab:gray", linewidth=0.8)
    axes.set_xticks(range(len(base)), [f"{float(order):g}" for order in table["order"]])
    axes.legend(fontsize=8)
    return figure


def _chain_weights(table: Columns) -> Any:
    """Weight of the chain (the cascade has the rest) at the sampled targets, and its running mean."""
    figure, axes = _axes(
        xlabel="targets scored", ylabel="weight of the chain", ylim=(0, 1), title="Weights of the mixture"
    )
    at, chain = _numbers(table["target"]), _numbers(table["chain"])
    axes.plot(at, chain, ".", markersize=3, color="tab:gray", label="at one target, by its bucket")
    axes.plot(at, running_mean(chain, SMOOTHED), color="tab:blue", label=f"mean of {SMOOTHED}")
    axes.legend(fontsize=8)
    return figure


def _rows(table: Columns) -> Any:
    """Every entry of the sampled rows: tokens that came against the sum of their probabilities, by probability."""
    figure, axes = _axes(
        xlabel="probability of a token (half of it to all of it)",
        ylabel="came / expected",
        xscale="log",
        title="Calibration of whole rows",
    )
    axes.axhline(1.0, color="tab:gray", linewidth=0.8)
    for name, label in (("neural", "network (with A)"), ("hedge", "whole mixture")):
        expected, came = _numbers(table[f"{name}_expected"]), _numbers(table[f"{name}_came"])
        points = [(p, c / e) for p, e, c in zip(_numbers(table["at_most"]), expected, came, strict=True) if e >= 1.0]
        axes.plot([p for p, _ in points], [ratio for _, ratio in points], "o-", markersize=3, label=label)
    axes.legend(fontsize=8)
    return figure
