"""Stage `quantize`: averaged float weights to integers with steps; matrices by role, small tensors to fp16.

In: artifacts/average/model.safetensors; for the methods gptq and gptq_trellis artifacts/calibrate/hessians.safetensors.
Out: artifacts/quantize/{model.safetensors,errors.tsv}, metrics/quantize.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from golf import files
from golf.guard import main_guard
from golf.models.registry import build_model, config_from_dict
from golf.params import load_section
from golf.quantize.hessian import load_hessians
from golf.quantize.pipeline import QuantizeConfig, quantize_model
from golf.quantize.storage import save_quantized

COLUMNS = ("tensor", "role", "shape", "weights", "relative_error", "bits_per_weight", "largest_integer")


def main() -> None:
    """Run the stage; ``ValueError`` for wrong parameters or weights."""
    parser = argparse.ArgumentParser(prog="python -m stages.quantize", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--root", type=Path, default=Path("."))
    args = parser.parse_args()
    config = load_section(args.params, "quantize", QuantizeConfig)
    state, meta = files.load_numpy(args.root / "artifacts/average/model.safetensors", made_by="`average`")
    missing = [key for key in ("model", "vocab_size") if key not in meta]
    if missing:
        raise files.FileError(f"artifacts/average/model.safetensors: meta has no `{missing[0]}`; re-run `average`")
    model = build_model(config_from_dict(meta["model"]), meta["vocab_size"])
    hessians = _hessians(args.root) if config.needs_hessians else None
    result = quantize_model(state, model, config, meta=meta, hessians=hessians)
    out = args.root / "artifacts/quantize"
    errors = {row["tensor"]: row["relative_error"] for row in result.rows}
    save_quantized(out / "model.safetensors", result.model, {"relative_error": errors})
    lines = ["\t".join(COLUMNS), *("\t".join(str(row[key]) for key in COLUMNS) for row in result.rows)]
    files.write_text(out / "errors.tsv", "\n".join(lines) + "\n")
    files.write_json(args.root / "metrics/quantize.json", result.metrics)


def _hessians(root: Path) -> dict[str, np.ndarray | None]:
    found, meta = load_hessians(root / "artifacts/calibrate/hessians.safetensors", made_by="`calibrate`")
    without = meta["without"]
    assert isinstance(without, dict)
    return {**found, **dict.fromkeys(without)}


if __name__ == "__main__":
    main_guard(main, name="quantize")
