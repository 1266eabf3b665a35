"""Stage report: the results table, the plots and the page of the run.

In: metrics/, tables of train, compress and hedge, nats of every document and target, the validation tokens.
Out: reports/results.md, summary.json, documents.tsv, plots/ and index.html, one file to look at. Environment: none.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from golf.base.errors import GolfError
from golf.base.files import FileError, atomic_directory, load_numpy, write_json, write_text
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.data.case import visible
from golf.data.shards import load_split
from golf.data.tokenizer import Tokenizer
from golf.report.page import page
from golf.report.plots import draw_all
from golf.report.results import MODES, PARTS, read_metrics, results_markdown, summary
from golf.report.text_view import TextView
from golf.scoring.results import load_documents

SHOWN_PARTS = ("hedge_bias", "hedge_cascade", "hedge_chain", "hedge")  # of the mixture, token by token


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
    documents = load_documents(names).tsv()
    write_text(root / "reports" / "documents.tsv", documents)
    table = results_markdown(metrics, compressors=config.compressors)
    write_text(
        root / "reports" / "index.html",
        page(
            metrics=metrics,
            history=root / "artifacts" / "train" / "history.tsv",
            tensors=root / "artifacts" / "compress" / "tensors.tsv",
            curves=root / "artifacts" / "evaluate" / "hedge",
            compressors=config.compressors,
            documents=documents,
            view=_text_view(root),
        ),
    )
    write_text(root / "reports" / "results.md", table)
    write_json(root / "reports" / "summary.json", summary(metrics))
    print(table)
    return 0


def _text_view(root: Path) -> TextView:
    """The scored text with what scorers and stage hedge recorded of it; ``FileError`` where that does not fit."""
    split = load_split(root / "artifacts" / "tokens" / "val")
    tokenizer = Tokenizer.from_file(root / "artifacts" / "tokens" / "tokenizer.model", made_by="stage tokenize")
    pieces = tokenizer.token_bytes if tokenizer.case == "none" else [visible(piece) for piece in tokenizer.token_bytes]
    path = root / "artifacts" / "evaluate" / "hedge_tokens.safetensors"
    found, _ = load_numpy(path, made_by="stage hedge")
    nothing = np.zeros(0)
    nats = {"streaming": found.get("nats.streaming", nothing)}
    for mode in ("roundtrip", "sliding"):
        tensors, _ = load_numpy(path.with_name(f"{mode}_tokens.safetensors"), made_by=f"stage evaluate@{mode}")
        nats[mode] = tensors.get("nats", nothing)[: len(nats["streaming"])]
    nats |= {part: found[f"nats.{part}"] for part in SHOWN_PARTS if f"nats.{part}" in found}
    try:
        return TextView(
            tokens=split.tokens,
            doc_starts=split.doc_starts,
            pieces=pieces,
            nats=nats,
            names={**MODES, **PARTS, "hedge": "online mixture"},
            network_ids=found.get("network.ids", nothing),
            network_probs=found.get("network.probs", nothing),
            mixture_targets=found.get("mixture.targets", nothing),
            mixture_ids=found.get("mixture.ids", nothing),
            mixture_probs=found.get("mixture.probs", nothing),
        )
    except GolfError as error:
        raise FileError(f"{path}: {error}; re-run `dvc repro`") from error


if __name__ == "__main__":
    run_stage(run, description=__doc__)
