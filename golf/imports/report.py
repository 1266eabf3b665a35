"""The table and the rate-distortion plot of an imported model and its rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.base.files import FileError, checked, read_json
from golf.base.params import Count, to_dict
from golf.imports.judge import mean_and_error
from golf.imports.texts import DOMAINS

__all__ = ["Imported", "draw_curve", "read_points", "table"]


@dataclass(frozen=True)
class Imported:
    """What the report takes from metrics/import.json."""

    import_source: str
    import_weights: Count


@dataclass(frozen=True)
class _Point:
    name: str
    bytes: Count
    summary: dict[str, float]
    windows: dict[str, dict[str, tuple[float, ...]]]


@dataclass(frozen=True)
class _Points:
    points: tuple[_Point, ...]


def read_points(path: Path, *, made_by: str) -> list[dict[str, Any]]:
    """The compressed models that a stage judged; ``FileError`` names the file, what is wrong and the stage."""
    found: list[dict[str, Any]] = to_dict(
        checked(_Points, read_json(path, made_by=made_by), path=path, made_by=made_by)
    )["points"]
    for one in found:
        for domain in DOMAINS:
            parts = ("kl", "kl_error", "top_agreement", "bits_per_byte", "origin_bits_per_byte")
            sums = one["windows"].get(domain, {})
            lengths = {len(sums.get(key, ())) for key in ("kl", "targets")}
            if any(f"{domain}_{part}" not in one["summary"] for part in parts) or len(lengths) > 1 or lengths == {0}:
                raise FileError(f"{path}: a point without the figures of the domain {domain}; re-run {made_by}")
    return found


def table(points: Sequence[dict[str, Any]], *, origin: str, weights: int) -> str:
    """Markdown; the first point is ours, the differences of KL to it are paired by window."""
    lines = [
        f"# {origin} compressed, {weights:,} weights",
        "",
        "| method | bytes | bits per weight | domain | KL, nats per token | difference to golf | same likeliest token "
        "| bits per byte | origin |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for found in points:
        for domain in DOMAINS:
            own, first, says = found["windows"][domain], points[0]["windows"][domain], found["summary"]
            kl, base, targets = (np.array(x) for x in (own["kl"], first["kl"], own["targets"]))
            mean, error = mean_and_error(kl - base, targets)
            paired = "" if found is points[0] else f"{mean:+.4f} ± {error:.4f}"
            lines.append(
                f"| {found['name']} | {found['bytes']:,} | {8 * found['bytes'] / weights:.2f} | {domain} "
                f"| {says[f'{domain}_kl']:.4f} ± {says[f'{domain}_kl_error']:.4f} | {paired} "
                f"| {100 * says[f'{domain}_top_agreement']:.1f} % | {says[f'{domain}_bits_per_byte']:.4f} "
                f"| {says[f'{domain}_origin_bits_per_byte']:.4f} |"
            )
    lines += ["", "± is the standard error over windows; bytes are whole files, with configuration and tokenizer."]
    return "\n".join(lines) + "\n"


def draw_curve(points: Sequence[dict[str, Any]], path: Path) -> None:
    """KL against bytes, logarithmic, one mark for each point and domain."""
    from golf.report.plots import new_figure, save_figure

    figure = new_figure()
    axes = figure.subplots()
    for domain, marker in zip(DOMAINS, ("o", "^"), strict=True):
        for i, found in enumerate(points):
            kl = max(found["summary"][f"{domain}_kl"], 1e-6)
            label = f"{found['name']}, {domain} text"
            axes.plot(found["bytes"] / 1e6, kl, marker, color=f"C{i}", label=label)
    axes.set(xlabel="megabytes", ylabel="KL to the origin, nats per token", yscale="log")
    axes.legend(fontsize="small")
    save_figure(figure, path, path.suffix[1:])
