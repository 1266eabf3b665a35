"""Stage 6, score-first test-time training (`evaluate.ttt`, off by default): a score of its own.

In: artifacts/compress/model.golf and artifacts/tokens/val, nothing else.
Out: artifacts/evaluate/ttt/scores.safetensors (nats, bytes and tokens of each document) and metrics/evaluate_ttt.json;
switched off, an empty folder and `{"ttt_enabled": false}`. Environment: GOLF_DEVICE (cpu, cuda), OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from golf.distributed import place
from golf.files import atomic_directory, save_numpy, write_json
from golf.guard import main_guard
from golf.params import load_section, to_dict
from golf.scoring.text import load_text
from golf.scoring.ttt import TttConfig, score_ttt


def main() -> int:
    """Score with the section `evaluate.ttt`."""
    parser = argparse.ArgumentParser(prog="python -m stages.ttt", description=__doc__)
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--root", default=".")
    args = parser.parse_args()
    return run(Path(args.params), Path(args.root))


def run(params: Path, root: Path) -> int:
    """Decode, score, write; nothing but an empty result when it is switched off."""
    config = load_section(params, "evaluate.ttt", TttConfig)
    folder, metrics = root / "artifacts/evaluate/ttt", root / "metrics/evaluate_ttt.json"
    if not config.enabled:
        with atomic_directory(folder):
            write_json(metrics, {"ttt_enabled": False})
        return 0

    from golf.decode import load_artifact

    decoded = load_artifact(root / "artifacts/compress/model.golf")
    sha256 = decoded.tokenizer_sha256
    text = load_text(root / "artifacts/tokens/val", vocab_size=decoded.vocab_size, tokenizer_sha256=sha256)
    begin = time.perf_counter()
    score = score_ttt(decoded.model.to(place(os.environ).device), text, config)
    seconds = time.perf_counter() - begin
    meta = {"mode": "ttt", "artifact_sha256": decoded.sha256, "config": to_dict(config)}
    with atomic_directory(folder) as temporary:
        save_numpy(temporary / "scores.safetensors", score.tensors(), meta)
    write_json(metrics, {"ttt_enabled": True, **score.metrics(seconds)})
    print(f"ttt: {score.bits_per_byte:.4f} bits per byte, {seconds:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    main_guard(main, name="ttt")
