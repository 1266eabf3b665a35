"""Stage report: the results table and the plots of the run, from metrics files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from golf.base.files import atomic_directory, write_json, write_text
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.report.plots import draw_all
from golf.report.results import MODES, read_metrics, results_markdown, summary
from golf.scoring.results import load_documents


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Section ``report`` of params.yaml."""

    compressors: tuple[Literal["zlib", "zstd", "xz", "brotli"], ...]  # shown beside our coder


def run(params: Path, root: Path) -> int:
    """Read metrics/, write reports/."""
    config = load_section(params, "report", ReportConfig)
    metrics = read_metrics(root / "metrics")
    with atomic_directory(root / "reports" / "plots") as folder:
        draw_all(
            folder,
            metrics=metrics,
            history=root / "artifacts" / "train" / "history.tsv",
            tensors=root / "artifacts" / "compress" / "tensors.tsv",
            curves=root / "artifacts" / "evaluate" / "hedge",
            compressors=config.compressors,
        )
    names = {mode: root / "artifacts" / "evaluate" / f"{mode}.safetensors" for mode in MODES}
    write_text(root / "reports" / "documents.tsv", load_documents(names).tsv())
    table = results_markdown(metrics, compressors=config.compressors)
    write_text(root / "reports" / "results.md", table)
    write_json(root / "reports" / "summary.json", summary(metrics))
    print(table)
    return 0


if __name__ == "__main__":
    run_stage(run, description=__doc__)
