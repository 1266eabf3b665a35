"""Plots of the online mixture: what each part gains by the longest repeated context, weights over time, calibration.

Drawn from the tables of stage hedge (columns of strings). Shapes: S sampled targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["MIXTURE_TABLES", "draw_mixture", "running_mean"]

MIXTURE_TABLES = ("orders", "weights", "rows")
PARTS = {
    "hedge_bias": "A: document bias",
    "hedge_chain": "B: back-off chain",
    "hedge_cascade": "C: cascade",
    "hedge_final": "D: B and C mixed",
    "hedge": "all",
}
SIZE = (7.2, 4.0)  # inches
SMOOTHED = 9  # sampled targets in one running mean

Columns = Mapping[str, list[str]]


def draw_mixture(folder: Path, tables: Mapping[str, Columns], save: Callable[[Any, Path], None]) -> None:
    """Draw ``tables`` (``MIXTURE_TABLES``) into ``folder``, each figure written by ``save``."""
    save(_parts(tables["orders"]), folder / "gain_parts")
    save(_weights(tables["weights"]), folder / "weights_mixture")
    save(_rows(tables["rows"]), folder / "calibration_mixture")


def running_mean(values: list[float], width: int) -> list[float]:
    """Mean of each value and its neighbours, at most ``width`` in all; the window shrinks at both ends."""
    half = width // 2
    pieces = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(piece) / len(piece) for piece in pieces]


def _figure(**labels: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(**labels)
    axes.grid(alpha=0.3)
    return figure, axes


def _numbers(values: list[str]) -> list[float]:
    return [float(value) for value in values]


def _parts(table: Columns) -> Any:
    """Bars: share of the whole gain in bits that falls on targets with this longest repeated context."""
    figure, axes = _figure(
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


def _weights(table: Columns) -> Any:
    """Weight of the chain (the cascade has the rest) at the sampled targets, and its running mean."""
    figure, axes = _figure(
        xlabel="targets scored", ylabel="weight of the chain (B)", ylim=(0, 1), title="Weights of the mixture"
    )
    at, chain = _numbers(table["target"]), _numbers(table["chain"])
    axes.plot(at, chain, ".", markersize=3, color="tab:gray", label="at one target, by its bucket")
    axes.plot(at, running_mean(chain, SMOOTHED), color="tab:blue", label=f"mean of {SMOOTHED}")
    axes.legend(fontsize=8)
    return figure


def _rows(table: Columns) -> Any:
    """Every entry of the sampled rows: tokens that came against the sum of their probabilities, by probability."""
    figure, axes = _figure(
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
