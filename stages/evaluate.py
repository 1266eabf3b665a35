"""Stage 6: the artifact alone scores the validation tokens; one mode a run: roundtrip, sliding or streaming.

In: artifacts/compress/model.golf and artifacts/tokens/val, nothing else.
Out: artifacts/evaluate/MODE.safetensors (nats, bytes and tokens of each document),
artifacts/evaluate/MODE_tokens.safetensors (nats of each target; of streaming the record that `stages.hedge` mixes)
and metrics/evaluate_MODE.json. Environment: GOLF_DEVICE (cpu, cuda), OMP_NUM_THREADS. Under torchrun
(``torchrun --nproc-per-node 2 -m stages.evaluate streaming``) processes share the passes; the score is the same.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from golf.distributed import HOURS, Ranks, joined, place
from golf.files import save_numpy, write_json
from golf.guard import main_guard
from golf.params import load_section, to_dict
from golf.report.baselines import xz
from golf.scoring.record import StreamingConfig, record_stream
from golf.scoring.results import make_score
from golf.scoring.streaming import serve_stream
from golf.scoring.text import ValidationText, decode_documents, load_text
from golf.scoring.windowed import RoundtripConfig, SlidingConfig, WindowConfig, window_nats

# what a mode leaves: nats (n,) of every target, the number of its windows, and the arrays of MODE_tokens.safetensors
Scored = tuple[np.ndarray, int, dict[str, np.ndarray]]


def windowed(model: Any, text: ValidationText, config: WindowConfig, ranks: Ranks) -> Scored:
    """Windows that overlap or do not."""
    nats, windows = window_nats(model, text, config, ranks=ranks)
    return nats, windows, {"nats": nats}


def streaming(model: Any, text: ValidationText, config: StreamingConfig, ranks: Ranks) -> Scored | None:
    """Each token once, and the record for the mixture from the same logits, which rank 0 gathers."""
    if ranks.rank:
        serve_stream(model, text, config, ranks)
        return None
    record = record_stream(model, text, config, ranks=ranks)
    return record.nats, 0, record.tensors()


MODES: Mapping[str, tuple[type, Callable[..., Scored | None]]] = MappingProxyType(
    {
        "roundtrip": (RoundtripConfig, windowed),
        "sliding": (SlidingConfig, windowed),
        "streaming": (StreamingConfig, streaming),
    }
)


def main() -> int:
    """Score with the section `evaluate.MODE`."""
    parser = argparse.ArgumentParser(prog="python -m stages.evaluate", description=__doc__)
    parser.add_argument("mode", choices=sorted(MODES))
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--root", default=".")
    args = parser.parse_args()
    return run(args.mode, Path(args.params), Path(args.root))


def run(mode: str, params: Path, root: Path) -> int:
    """Decode, check, score, write."""
    config_class, score_mode = MODES[mode]
    config: Any = load_section(params, f"evaluate.{mode}", config_class)

    import torch

    from golf.data.tokenizer import Tokenizer
    from golf.decode import load_artifact

    decoded = load_artifact(root / "artifacts/compress/model.golf")
    kept: dict[str, Any] = {"vocab_size": decoded.vocab_size, "tokenizer_sha256": decoded.tokenizer_sha256}
    text = load_text(root / "artifacts/tokens/val", **kept)
    raw = decode_documents(text, Tokenizer(decoded.tokenizer_model).decode)
    rank, world, device = place(os.environ)
    with joined(rank, world, torch.device(device), patience=HOURS) as ranks:
        begin = time.perf_counter()
        scored = score_mode(decoded.model.to(device), text, config, ranks)
        seconds = time.perf_counter() - begin
    if rank or scored is None:
        return 0
    nats, windows, tensors = scored
    score = make_score(mode, text, nats, windows=windows)
    metrics = score.metrics(seconds)
    if mode == "roundtrip":
        metrics["xz_bits_per_byte"] = 8.0 * len(xz(raw)) / len(raw)
    meta = {"mode": mode, "artifact_sha256": decoded.sha256, "config": to_dict(config)} | kept
    save_numpy(root / f"artifacts/evaluate/{mode}_tokens.safetensors", tensors, meta)
    save_numpy(root / f"artifacts/evaluate/{mode}.safetensors", score.tensors(), meta)
    write_json(root / f"metrics/evaluate_{mode}.json", metrics)
    shared = f", {world} processes" if world > 1 else ""
    print(f"evaluate {mode}: {score.bits_per_byte:.4f} bits per byte, {seconds:.1f} s{shared}", flush=True)
    return 0


if __name__ == "__main__":
    main_guard(main, name="evaluate")
