"""The online mixture: from the record of `evaluate streaming` to a score, in seconds, without a network.

In: artifacts/evaluate/streaming_tokens.safetensors and artifacts/tokens/val.
Out: artifacts/evaluate/hedge.safetensors (bytes, tokens and nats of each document, under every scorer),
artifacts/evaluate/hedge_tokens.safetensors (nats of the first targets under the parts of the mixture, and the likeliest
tokens there, for the page of `report`), artifacts/evaluate/hedge/*.tsv (for plots) and metrics/evaluate_hedge.json.
Environment: none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.base.errors import GolfError
from golf.base.files import FileError, atomic_directory, checked, save_numpy, write_json
from golf.base.main import run_stage
from golf.base.mapped import map_numpy
from golf.base.params import Count, load_section, to_dict
from golf.mixture.record import StreamRecord
from golf.scoring.likeliest import LikeliestRows
from golf.scoring.mixture_score import HedgeConfig, MixtureScore, score_mixture
from golf.scoring.record_stream import StreamingConfig
from golf.scoring.text import load_text

MADE_BY = "`python -m stages.evaluate streaming`"


@dataclass(frozen=True)
class Streamed:
    """The metadata of the record."""

    artifact_sha256: str
    vocab_size: Count
    tokenizer_sha256: str
    config: StreamingConfig


def run(params: Path, root: Path) -> int:
    """Load the record, mix, write."""
    config = load_section(params, "evaluate.hedge", HedgeConfig)
    path = root / "artifacts/evaluate/streaming_tokens.safetensors"
    tensors, meta = map_numpy(path, made_by=MADE_BY)
    made = checked(Streamed, meta, path=path, made_by=MADE_BY)
    text = load_text(root / "artifacts/tokens/val", vocab_size=made.vocab_size, tokenizer_sha256=made.tokenizer_sha256)
    try:
        record, likeliest = StreamRecord.from_tensors(tensors), LikeliestRows.from_tensors(tensors, text)
    except GolfError as error:
        raise FileError(f"{path}: {error}; re-run {MADE_BY}") from error
    begin = time.perf_counter()
    result = score_mixture(text, record, made.config, config, likeliest)
    metrics = result.score.metrics(time.perf_counter() - begin)
    meta = {"mode": "hedge", "artifact_sha256": made.artifact_sha256, "config": to_dict(config)}
    save_numpy(root / "artifacts/evaluate/hedge.safetensors", result.tensors(), meta)
    _write_tokens(root / "artifacts/evaluate/hedge_tokens.safetensors", record, likeliest, result, meta)
    with atomic_directory(root / "artifacts/evaluate/hedge") as folder:
        result.curves.write(folder)
    write_json(root / "metrics/evaluate_hedge.json", metrics)
    print(f"hedge: {result.score.bits_per_byte:.4f} bits per byte, {metrics['hedge_seconds']:.1f} s", flush=True)
    return 0


def _write_tokens(
    path: Path, record: StreamRecord, likeliest: LikeliestRows, result: MixtureScore, meta: dict[str, Any]
) -> None:
    """Of the first targets nats float32 under streaming and each part of the mixture, and the likeliest tokens."""
    nats = {"streaming": record.nats, "hedge": result.score.nats}
    nats |= {name: score.nats for name, score in result.beside.items()}
    shown = len(likeliest.network.targets)
    tensors = {f"nats.{name}": array[:shown].astype(np.float32) for name, array in nats.items()}
    assert result.likeliest is not None, "asked for"
    save_numpy(path, tensors | likeliest.network.tensors("network") | result.likeliest.tensors("mixture"), meta)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
