"""Stage `calibrate`: second moments of the inputs of every quantized matrix, on training text or own samples, for GPTQ.

In: artifacts/average/model.safetensors, artifacts/tokens/train. Out: artifacts/calibrate/hessians.safetensors,
metrics/calibrate.json and, with calibrate.sensitivity_tokens, artifacts/calibrate/rows.safetensors: what an error in
each row costs. GOLF_DEVICE chooses the device; validation text is never read.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from golf.base import files
from golf.base.distributed import place
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.quantize.calibrate import WEIGHTS, CalibrateConfig, calibrate, calibration_windows, sampled_windows
from golf.quantize.hessian import save_hessians

if TYPE_CHECKING:
    from golf.models.base import LanguageModel


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for wrong parameters, weights or tokens."""
    config = load_section(params, "calibrate", CalibrateConfig)
    from golf.data.shards import open_split
    from golf.models.registry import load_weights, model_of
    from golf.quantize.layerwise import LayerWise

    started = time.perf_counter()
    state, meta = load_weights(root / WEIGHTS, made_by="`average`")
    model = model_of(meta, state, path=root / WEIGHTS, made_by="`average`")
    del state  # the model has a copy
    model, split = model.to(place(os.environ).device).eval(), open_split(root / "artifacts/tokens/train")
    if config.source == "samples":
        windows = sampled_windows(model, config, bos_id=split.bos_id)
    else:
        windows = calibration_windows(split, config)
    with files.atomic_directory(root / "artifacts/calibrate") as folder:
        calibrated = _by_layer if isinstance(model, LayerWise) else _at_once
        count, without = calibrated(model, windows, config, folder)
        if config.sensitivity_tokens:
            _sensitivities(model, windows, config, folder)
    metrics = {
        "calibrate_source": config.source,
        "calibrate_tokens": int(windows.size),
        "calibrate_hessians": count,
        "calibrate_without_hessian": len(without),
    }
    files.write_json(root / "metrics/calibrate.json", metrics)
    for name, reason in without.items():
        print(f"calibrate: {name}: {reason}", flush=True)
    text, seconds = f"{windows.size:,} tokens ({config.source})", time.perf_counter() - started
    print(f"calibrate: {count} Hessians of {text}, {seconds:.1f} s", flush=True)


def _at_once(
    model: LanguageModel, windows: np.ndarray, config: CalibrateConfig, folder: Path
) -> tuple[int, dict[str, str]]:
    result = calibrate(model, windows, config)
    meta = {"source": config.source, "tokens": result.tokens, "samples": result.samples, "without": result.without}
    save_hessians(folder / "hessians.safetensors", result.hessians, meta)
    return len(result.hessians), result.without


def _by_layer(
    model: LanguageModel, windows: np.ndarray, config: CalibrateConfig, folder: Path
) -> tuple[int, dict[str, str]]:
    meta = {"source": config.source, "tokens": int(windows.size)}
    from golf.quantize.layerwise import calibrate_by_layer

    return calibrate_by_layer(model, windows, folder / "hessians.safetensors", meta)


def _sensitivities(model: LanguageModel, windows: np.ndarray, config: CalibrateConfig, folder: Path) -> None:
    from golf.quantize.sensitivity import row_sensitivities

    count = max(1, min(len(windows), config.sensitivity_tokens // config.window))
    part = windows[[i * len(windows) // count for i in range(count)]]
    meta = {"source": config.source, "tokens": int(part.size)}
    files.save_numpy(folder / "rows.safetensors", row_sensitivities(model, part), meta)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
