"""The artifact alone scores the validation tokens; one mode a run: roundtrip, sliding, streaming or ttt.

In: artifacts/compress/model.golf and artifacts/tokens/val, nothing else.
Out: artifacts/evaluate/MODE.safetensors (nats, bytes and tokens of each document),
artifacts/evaluate/MODE_tokens.safetensors (nats of each target; of streaming the record that `stages.hedge` mixes)
and metrics/evaluate_MODE.json; of ttt the folder artifacts/evaluate/ttt with scores.safetensors, empty when
`evaluate.ttt.enabled` is false. Environment: GOLF_DEVICE (cpu, cuda), OMP_NUM_THREADS. Where several GPUs are visible
this stage becomes a torchrun of one process for each, as it may be started by hand
(``torchrun --nproc-per-node 2 -m stages.evaluate streaming``): they share the passes; the score is the same.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from golf.base.distributed import HOURS, gpus_to_share, joined, place, torchrun
from golf.base.files import atomic_directory, save_numpy, write_json
from golf.base.main import run_stage
from golf.base.params import to_dict
from golf.scoring.modes import MODES, load_modes, mode_of
from golf.scoring.results import Scored
from golf.scoring.text import decode_documents, load_text

NETWORK_MODES = tuple(name for name in MODES if name != "hedge")  # which `stages.hedge` scores, without a network


def main(mode: str, params: Path, root: Path) -> int:
    """Score here, or on all GPUs in torchrun's place."""
    load_modes(params, (mode,))  # a typo must not wait for other processes
    if devices := gpus_to_share(os.environ):
        launched = torchrun(f"--standalone --nproc-per-node={devices}", "stages.evaluate")
        os.execv(sys.executable, [sys.executable, *launched, *sys.argv[1:]])
    return run(mode, params, root)


def run(mode: str, params: Path, root: Path) -> int:
    """Decode, check, score, write; nothing but an empty result for a mode that is switched off."""
    config = load_modes(params, (mode,))[mode]
    if not getattr(config, "enabled", True):
        with atomic_directory(root / f"artifacts/evaluate/{mode}"):
            write_json(root / f"metrics/evaluate_{mode}.json", {f"{mode}_enabled": False})
        return 0

    import torch

    from golf.artifact.decode import load_artifact
    from golf.data.tokenizer import Tokenizer

    decoded = load_artifact(root / "artifacts/compress/model.golf")
    kept: dict[str, Any] = {"vocab_size": decoded.vocab_size, "tokenizer_sha256": decoded.tokenizer_sha256}
    text = load_text(root / "artifacts/tokens/val", **kept)
    decode_documents(text, Tokenizer(decoded.tokenizer_model).decode)
    rank, world, device = place(os.environ)
    with joined(rank, world, torch.device(device), patience=HOURS) as ranks:
        begin = time.perf_counter()
        scored = mode_of(mode).run(mode, decoded.model.to(device), text, config, ranks)
        seconds = time.perf_counter() - begin
    if rank or scored is None:
        return 0
    metrics = scored.score.metrics(seconds)
    if hasattr(config, "enabled"):
        metrics[f"{mode}_enabled"] = True
    meta = {"mode": mode, "artifact_sha256": decoded.sha256, "config": to_dict(config)} | kept
    _write(root, mode, scored, meta)
    write_json(root / f"metrics/evaluate_{mode}.json", metrics)
    shared = f", {world} processes" if world > 1 else ""
    print(f"evaluate {mode}: {scored.score.bits_per_byte:.4f} bits per byte, {seconds:.1f} s{shared}", flush=True)
    return 0


def _write(root: Path, mode: str, scored: Scored, meta: dict[str, Any]) -> None:
    folder = root / "artifacts/evaluate"
    if scored.tensors:
        save_numpy(folder / f"{mode}_tokens.safetensors", dict(scored.tensors), meta)
        save_numpy(folder / f"{mode}.safetensors", scored.score.tensors(), meta)
    else:  # a mode that can be switched off leaves a folder, which may be empty
        with atomic_directory(folder / mode) as temporary:
            save_numpy(temporary / "scores.safetensors", scored.score.tensors(), meta)


if __name__ == "__main__":
    run_stage(main, description=__doc__, modes=sorted(NETWORK_MODES))
