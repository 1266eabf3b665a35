"""Quantizers at equal artifact bytes on a trained model: KL to the float model, and nats, on held-out tokens.

    python benchmarks/quantizers.py --root . --tokens 2048 --coder rans

Reads artifacts/{average,calibrate,tokens} below the root. Every row is a real artifact, packed and counted whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf.container.write import pack
from golf.files import load_numpy
from golf.models.registry import build_model, config_from_dict
from golf.quantize.hessian import load_hessians
from golf.quantize.pipeline import QuantizeConfig, quantize_model
from golf.shipping import CompressConfig
from golf.tokens.shards import load_split

LEVELS = {"embedding": 31, "attention": 31, "mlp": 31}
PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
RUNS = [
    *(("gptq_lite", levels, 12.85) for levels in (31, 15, 7)),
    *((method, 31, clip) for method in ("sdclip", "gptq", "gptq_trellis") for clip in (4.0, 8.0, 12.85, 16.0)),
]


@torch.no_grad()
def log_probabilities(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B, T, V) of the windows ``ids`` (B, T)."""
    rows = [torch.log_softmax(model.logits(model.hidden(part)), -1) for part in ids.split(4)]
    return torch.cat(rows)


def main() -> None:
    """Print one row per run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("."))
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--coder", default="rans")
    args = parser.parse_args()
    state, meta = load_numpy(args.root / "artifacts/average/model.safetensors", made_by="`average`")
    found, about = load_hessians(args.root / "artifacts/calibrate/hessians.safetensors", made_by="`calibrate`")
    hessians = {**found, **dict.fromkeys(about["without"])}  # type: ignore[call-overload]
    tokenizer = (args.root / "artifacts/tokens/tokenizer.model").read_bytes()
    model = build_model(config_from_dict(meta["model"]), meta["vocab_size"]).eval()
    tokens = load_split(args.root / "artifacts/tokens/holdout").tokens[: args.tokens + 1].astype(np.int64)
    ids, targets = (torch.from_numpy(x[: args.tokens // 256 * 256]).view(-1, 256) for x in (tokens, tokens[1:]))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    exact = log_probabilities(model, ids)
    nats = -exact.gather(-1, targets[..., None]).mean().item()
    print(f"float model: {nats:.5f} nats per token on {ids.numel()} held-out tokens", flush=True)
    print("| method | levels | clip | artifact bytes | KL, nats | nats per token |\n|---|---|---|---|---|---|")
    coders = CompressConfig(args.coder, 22, 16_000_000)
    for method, levels, clip in RUNS:
        config = QuantizeConfig(method, dict.fromkeys(LEVELS, levels), PERCENTILES, clip)  # type: ignore[arg-type]
        result = quantize_model(state, model, config, meta=meta, hessians=hessians).model
        data = pack(result, tokenizer, coders=coders.coders, embedding_coders=coders.embedding_coders)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in result.state().items()})
        found_rows = log_probabilities(model, ids)
        divergence = (exact.exp() * (exact - found_rows)).sum(-1).mean().item()
        loss = -found_rows.gather(-1, targets[..., None]).mean().item()
        print(f"| {method} | {levels} | {clip} | {len(data):,} | {divergence:.5f} | {loss:.5f} |", flush=True)


if __name__ == "__main__":
    main()
