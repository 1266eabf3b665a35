"""Plots of one run as PNG and SVG: loss, schedules, size by tensor, score against size.

Drawn from history.tsv, tensors.tsv and the metrics files; same input, same bytes (no dates, fixed ids).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from golf.files import require
from golf.report.mixture_plots import MIXTURE_TABLES, draw_mixture
from golf.report.results import Metrics

__all__ = ["draw_all", "read_table"]

SIZE = (7.2, 4.0)  # inches


def read_table(path: str | Path, *, made_by: str) -> dict[str, list[str]]:
    """A TSV file as columns of strings; ``FileError`` names the stage that makes it."""
    with open(require(path, made_by=made_by), newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else {})}


def draw_all(
    folder: Path, *, metrics: Metrics, history: Path, tensors: Path, curves: Path, compressors: tuple[str, ...]
) -> None:
    """Write every plot into ``folder`` (which exists), each as .png and .svg; ``curves`` is the folder of the mixture's
    tables, made by stage hedge."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "golf", "axes.spines.top": False, "axes.spines.right": False})
    steps = read_table(history, made_by="stage train")
    _save(_loss(steps), folder / "loss")
    _save(_schedule(steps), folder / "schedule")
    _save(_size(read_table(tensors, made_by="stage compress"), metrics), folder / "size")
    _save(_score_against_size(metrics, compressors), folder / "score_size")
    made_by = "stage hedge"
    _save(_gain(read_table(curves / "position.tsv", made_by=made_by), "last_target"), folder / "gain_position")
    _save(_gain(read_table(curves / "orders.tsv", made_by=made_by), "order"), folder / "gain_order")
    _save(_weights(read_table(curves / "weights.tsv", made_by=made_by)), folder / "weights")
    _save(_calibration(read_table(curves / "calibration.tsv", made_by=made_by)), folder / "calibration")
    draw_mixture(folder, {name: read_table(curves / f"{name}.tsv", made_by=made_by) for name in MIXTURE_TABLES}, _save)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def _numbers(values: list[str]) -> list[float]:
    return [float(value) for value in values]


def _loss(steps: dict[str, list[str]]) -> Any:
    figure, axes = _figure()
    axes.plot(_numbers(steps["step"]), _numbers(steps["loss"]), linewidth=1.0, color="tab:blue")
    axes.set(xlabel="step", ylabel="training loss (nats per token)", title="Loss")
    axes.grid(alpha=0.3)
    return figure


def _schedule(steps: dict[str, list[str]]) -> Any:
    figure, axes = _figure()
    axes.plot(_numbers(steps["step"]), _numbers(steps["lr_multiplier"]), color="tab:orange")
    axes.set(xlabel="step", ylabel="learning-rate multiplier", ylim=(0, 1.05), title="Schedules that fired")
    depth = axes.twinx()
    depth.step(_numbers(steps["step"]), _numbers(steps["depth"]), where="post", color="tab:green")
    depth.set(ylabel="repeats in use", ylim=(0, max(_numbers(steps["depth"])) + 0.5))
    axes.yaxis.label.set_color("tab:orange")
    depth.yaxis.label.set_color("tab:green")
    return figure


def _size(tensors: dict[str, list[str]], metrics: Metrics) -> Any:
    figure, axes = _figure()
    sizes = sorted(zip(_numbers(tensors["bytes"]), tensors["tensor"], strict=True))[-24:]
    axes.barh([name for _, name in sizes], [size for size, _ in sizes], color="tab:blue")
    axes.set(xlabel="bytes", title=f"Where {metrics.compress['total_bytes']:,} bytes go (largest tensors)")
    axes.tick_params(axis="y", labelsize=6)
    return figure


def _score_against_size(metrics: Metrics, compressors: tuple[str, ...]) -> Any:
    figure, axes = _figure()
    rest = metrics.compress["total_bytes"] - metrics.compress["payload_bytes"]
    score = metrics.scores["sliding"]["sliding_bits_per_byte"]
    for name in ("raw", *compressors):
        size = metrics.compress[f"{name}_bytes"] + rest
        axes.plot(size, score, "o", color="tab:gray")
        axes.annotate(name, (size, score), rotation=60, xytext=(2, 6), textcoords="offset points", fontsize=8)
    colours = {"roundtrip": "tab:red", "sliding": "tab:blue", "streaming": "tab:orange", "hedge": "tab:green"}
    for mode, colour in colours.items():
        value = metrics.scores[mode][f"{mode}_bits_per_byte"]
        axes.plot(metrics.compress["total_bytes"], value, "D", color=colour, label=f"golf, {mode}")
    axes.set(xlabel="artifact + decoder (bytes)", ylabel="bits per byte", title="Score against size")
    axes.margins(0.15)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _gain(table: dict[str, list[str]], key: str) -> Any:
    """Nats per token below the streaming score, against the position in the text or the longest repeated context."""
    figure, axes = _figure()
    base = _numbers(table["streaming_nats_per_token"])
    places = _numbers(table[key]) if key != "order" else [float(i) for i in range(len(table[key]))]
    names = {"hedge": "whole mixture", "hedge_simple": "plain Hedge"}
    for name, label in names.items():
        gain = [a - b for a, b in zip(base, _numbers(table[f"{name}_nats_per_token"]), strict=True)]
        axes.plot(places, gain, marker="." if key == "order" else "", label=label)
    axes.axhline(0.0, color="tab:gray", linewidth=0.8)
    if key == "order":
        axes.set_xticks(places, [f"{float(order):g}" for order in table[key]])
    labels = {"last_target": "targets scored", "order": "longest context seen before (tokens)"}
    axes.set(xlabel=labels[key], ylabel="gain over streaming (nats per token)", title="Gain of the online mixture")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _weights(table: dict[str, list[str]]) -> Any:
    figure, axes = _figure()
    for name in (name for name in table if name.startswith("simple_")):
        axes.plot(_numbers(table["target"]), _numbers(table[name]), linewidth=1.0, label=name.removeprefix("simple_"))
    axes.set(xlabel="targets scored", ylabel="weight", ylim=(0, 1), title="Weights of plain Hedge")
    axes.legend(fontsize=7)
    return figure


def _calibration(table: dict[str, list[str]]) -> Any:
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="tab:gray", linewidth=0.8)
    axes.plot(_numbers(table["confidence"]), _numbers(table["hit_rate"]), "o-", markersize=3)
    axes.set(xlabel="probability of the likeliest token", ylabel="share of targets that are it", title="Calibration")
    axes.grid(alpha=0.3)
    return figure
