"""Stage `average`: snapshots of training to one set of weights, with held-out losses of raw, averaged and EMA weights.

In: artifacts/train, artifacts/tokens/holdout (documents of the training side; validation text is never read). Out:
artifacts/average/model.safetensors, metrics/average.json. GOLF_DEVICE chooses the device of the losses.
"""

from __future__ import annotations

import os
from pathlib import Path

from golf.base.distributed import place
from golf.base.files import atomic_directory, checked, read_meta, save_torch, write_json
from golf.base.main import run_stage
from golf.base.params import load_section


def run(params: Path, root: Path) -> int:
    """Average, score on the held-out split, write."""
    from golf.data.shards import load_split
    from golf.training.average import (
        AverageConfig,
        Trained,
        available_kinds,
        average_weights,
        heldout_loss,
        least_loss,
        load_model,
    )

    config = load_section(params, "average", AverageConfig)
    trained = root / "artifacts/train"
    final, made_by = trained / "final.safetensors", "`python -m stages.train`"
    meta = read_meta(final, made_by=made_by)
    length = checked(Trained, meta, path=final, made_by=made_by).sequence_length
    kinds = available_kinds(trained)
    if config.kind not in ("best", *kinds):
        average_weights(trained, config.kind, config.last)  # says which file is missing and what makes it
    tokens = load_split(root / "artifacts/tokens/holdout").tokens
    losses, device = {}, place(os.environ).device
    for kind in kinds:
        model = load_model(meta, average_weights(trained, kind, config.last), final).to(device)
        losses[kind] = heldout_loss(model, tokens, length=length)
        print(f"held-out loss, {kind} weights: {losses[kind]:.5f} nats per token", flush=True)
    chosen = least_loss(losses) if config.kind == "best" else config.kind
    print(f"average: {chosen} weights go on", flush=True)
    weights = average_weights(trained, chosen, config.last)
    with atomic_directory(root / "artifacts/average") as folder:
        save_torch(folder / "model.safetensors", weights, {**meta, "average": chosen})
    metrics: dict[str, float | int | str] = {"average_kind": chosen, "heldout_tokens": len(tokens)}
    metrics |= {f"heldout_{kind}_nats_per_token": loss for kind, loss in losses.items()}
    write_json(root / "metrics/average.json", metrics)
    return 0


if __name__ == "__main__":
    run_stage(run, description=__doc__)
