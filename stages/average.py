"""Stage 3: snapshots of training to one set of weights, with held-out losses of raw, averaged and EMA weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.files import read_meta, save_torch, write_json
from golf.guard import main_guard
from golf.params import load_section


def main() -> int:
    """Write artifacts/average/model.safetensors and metrics/average.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--root", default=".")
    args = parser.parse_args()
    return run(Path(args.params), Path(args.root))


def run(params: Path, root: Path) -> int:
    """Average, score on the held-out split, write."""
    from golf.data.shards import load_split
    from golf.training.average import AverageConfig, average_weights, heldout_loss, load_model

    config = load_section(params, "average", AverageConfig)
    trained = root / "artifacts/train"
    meta = read_meta(trained / "final.safetensors", made_by="`python -m stages.train`")
    chosen = average_weights(trained, config.kind, config.last)
    tokens = load_split(root / "artifacts/tokens/holdout").tokens

    kinds = ["raw"] + ["mean"] * any(trained.glob("snapshot_*")) + ["ema"] * (trained / "ema.safetensors").exists()
    metrics: dict[str, float | int | str] = {"average_kind": config.kind, "heldout_tokens": len(tokens)}
    for kind in kinds:
        weights = chosen if kind == config.kind else average_weights(trained, kind, config.last)
        loss = heldout_loss(load_model(meta, weights), tokens, length=int(meta["sequence_length"]))
        metrics[f"heldout_{kind}_nats_per_token"] = loss
        print(f"held-out loss, {kind} weights: {loss:.5f} nats per token", flush=True)
    save_torch(root / "artifacts/average/model.safetensors", chosen, {**meta, "average": config.kind})
    write_json(root / "metrics/average.json", metrics)
    return 0


if __name__ == "__main__":
    main_guard(main, name="average")
