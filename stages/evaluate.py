"""Stage 6: the artifact alone scores the validation tokens; one mode a run: roundtrip, sliding, streaming or hedge.

In: artifacts/compress/model.golf and artifacts/tokens/val, nothing else.
Out: artifacts/evaluate/MODE.safetensors (nats, bytes and tokens of each document) and metrics/evaluate_MODE.json.
Environment: GOLF_DEVICE (cpu, cuda), OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from golf.files import save_numpy, write_json
from golf.guard import main_guard
from golf.params import load_section, to_dict
from golf.scoring.hedge import HedgeConfig, score_hedge
from golf.scoring.results import Score
from golf.scoring.roundtrip import RoundtripConfig, score_roundtrip
from golf.scoring.sliding import SlidingConfig, score_sliding
from golf.scoring.streaming import StreamingConfig, score_streaming
from golf.scoring.text import decode_documents, load_text, xz_bits_per_byte

MODES: Mapping[str, tuple[type, Callable[..., Score]]] = MappingProxyType(
    {
        "roundtrip": (RoundtripConfig, score_roundtrip),
        "sliding": (SlidingConfig, score_sliding),
        "streaming": (StreamingConfig, score_streaming),
        "hedge": (HedgeConfig, score_hedge),
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

    from golf.decode import load_artifact
    from golf.tokens.tokenizer import Tokenizer

    decoded = load_artifact(root / "artifacts/compress/model.golf")
    text = load_text(
        root / "artifacts/tokens/val", vocab_size=decoded.vocab_size, tokenizer_sha256=decoded.tokenizer_sha256
    )
    raw = decode_documents(text, Tokenizer(decoded.tokenizer_model).decode)
    device = os.environ.get("GOLF_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    begin = time.perf_counter()
    score = score_mode(decoded.model.to(device), text, config)
    metrics = score.metrics(time.perf_counter() - begin)
    if mode == "roundtrip":
        metrics["xz_bits_per_byte"] = xz_bits_per_byte(raw)
    meta = {"mode": mode, "artifact_sha256": decoded.sha256, "config": to_dict(config)}
    save_numpy(root / f"artifacts/evaluate/{mode}.safetensors", score.tensors(), meta)
    write_json(root / f"metrics/evaluate_{mode}.json", metrics)
    print(f"evaluate {mode}: {score.bits_per_byte:.4f} bits per byte, {metrics[f'{mode}_seconds']:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    main_guard(main, name="evaluate")
