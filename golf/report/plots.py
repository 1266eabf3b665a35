"""Plots of one run as PNG and SVG: loss, schedules, size by tensor, score against size.

Drawn from history.tsv, tensors.tsv and the metrics files; same input, same bytes (no dates, fixed ids).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from golf.files import require
from golf.report.results import Metrics

__all__ = ["draw_all", "read_table"]

SIZE = (7.2, 4.0)  # inches


def read_table(path: str | Path, *, made_by: str) -> dict[str, list[str]]:
    """A TSV file as columns of strings; ``FileError`` names the stage that makes it."""
    with open(require(path, made_by=made_by), newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else {})}


def draw_all(folder: Path, *, metrics: Metrics, history: Path, tensors: Path, compressors: tuple[str, ...]) -> None:
    """Write loss, schedule, size and score plots into ``folder`` (which exists), each as .png and .svg."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "golf", "axes.spines.top": False, "axes.spines.right": False})
    steps = read_table(history, made_by="stage train")
    _save(_loss(steps), folder / "loss")
    _save(_schedule(steps), folder / "schedule")
    _save(_size(read_table(tensors, made_by="stage compress"), metrics), folder / "size")
    _save(_score_against_size(metrics, compressors), folder / "score_size")


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
    for mode, colour in (("roundtrip", "tab:red"), ("sliding", "tab:blue"), ("hedge", "tab:green")):
        value = metrics.scores[mode][f"{mode}_bits_per_byte"]
        axes.plot(metrics.compress["total_bytes"], value, "D", color=colour, label=f"golf, {mode}")
    axes.set(xlabel="artifact + decoder (bytes)", ylabel="bits per byte", title="Score against size")
    axes.margins(0.15)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure
