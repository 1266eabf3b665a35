"""Stage `calibrate`: second moments of the inputs of every quantized matrix, on training text or own samples, for GPTQ.

In: artifacts/average/model.safetensors, artifacts/tokens/train. Out: artifacts/calibrate/hessians.safetensors,
metrics/calibrate.json. GOLF_DEVICE chooses the device; validation text is never read.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from golf.base import files
from golf.base.distributed import place
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.quantize.calibrate import WEIGHTS, CalibrateConfig, calibrate, calibration_windows, sampled_windows
from golf.quantize.hessian import save_hessians


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for wrong parameters, weights or tokens."""
    config = load_section(params, "calibrate", CalibrateConfig)
    from golf.data.shards import open_split
    from golf.models.registry import load_weights, model_of

    started = time.perf_counter()
    state, meta = load_weights(root / WEIGHTS, made_by="`average`")
    model = model_of(meta, state, path=root / WEIGHTS, made_by="`average`")
    model, split = model.to(place(os.environ).device).eval(), open_split(root / "artifacts/tokens/train")
    if config.source == "samples":
        windows = sampled_windows(model, config, bos_id=split.bos_id)
    else:
        windows = calibration_windows(split, config)
    result = calibrate(model, windows, config)
    seconds = time.perf_counter() - started
    meta_out = {"source": config.source, "tokens": result.tokens, "samples": result.samples, "without": result.without}
    with files.atomic_directory(root / "artifacts/calibrate") as folder:
        save_hessians(folder / "hessians.safetensors", result.hessians, meta_out)
    metrics = {
        "calibrate_source": config.source,
        "calibrate_tokens": result.tokens,
        "calibrate_hessians": len(result.hessians),
        "calibrate_without_hessian": len(result.without),
    }
    files.write_json(root / "metrics/calibrate.json", metrics)
    for name, reason in result.without.items():
        print(f"calibrate: {name}: {reason}", flush=True)
    text = f"{result.tokens:,} tokens ({config.source})"
    print(f"calibrate: {len(result.hessians)} Hessians of {text}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
