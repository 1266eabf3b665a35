"""Stage report: the results table and the plots of the run, from metrics files."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Literal

from golf.base.files import atomic_directory, write_json, write_text
from golf.base.main import main_guard
from golf.base.params import load_section
from golf.report.plots import draw_all
from golf.report.results import MODES, read_metrics, results_markdown, summary
from golf.scoring.documents import load_documents


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Section ``report`` of params.yaml."""

    compressors: tuple[Literal["zlib", "zstd", "xz", "brotli"], ...]  # shown beside our coder


def main() -> int:
    """Read metrics/, write reports/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="parameter file (default: params.yaml)")
    parser.add_argument("--root", default=".", type=Path, help="folder of artifacts/ and metrics/ (default: .)")
    args = parser.parse_args()
    config = load_section(args.params, "report", ReportConfig)
    metrics = read_metrics(args.root / "metrics")
    with atomic_directory(args.root / "reports" / "plots") as folder:
        draw_all(
            folder,
            metrics=metrics,
            history=args.root / "artifacts" / "train" / "history.tsv",
            tensors=args.root / "artifacts" / "compress" / "tensors.tsv",
            curves=args.root / "artifacts" / "evaluate" / "hedge",
            compressors=config.compressors,
        )
    names = {mode: args.root / "artifacts" / "evaluate" / f"{mode}.safetensors" for mode in MODES}
    write_text(args.root / "reports" / "documents.tsv", load_documents(names).tsv())
    table = results_markdown(metrics, compressors=config.compressors)
    write_text(args.root / "reports" / "results.md", table)
    write_json(args.root / "reports" / "summary.json", summary(metrics))
    print(table)
    return 0


if __name__ == "__main__":
    main_guard(main, name="report")
