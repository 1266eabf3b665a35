"""Stage `quantize`: averaged float weights to integers with steps; matrices by role, small tensors to fp16.

In: artifacts/average/model.safetensors; for the methods gptq and gptq_trellis artifacts/calibrate and, with
quantize.gptq.token_exponent, artifacts/tokens/train. Out: artifacts/quantize/{model.safetensors,errors.tsv},
metrics/quantize.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.base.files import write_json
from golf.base.main import main_guard
from golf.base.params import load_section
from golf.quantize.config import QuantizeConfig
from golf.quantize.pipeline import Quantizer
from golf.quantize.storage import save_result


def main() -> None:
    """Run the stage; ``GolfError`` for wrong parameters or weights."""
    parser = argparse.ArgumentParser(prog="python -m stages.quantize", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--root", type=Path, default=Path("."))
    args = parser.parse_args()
    config = load_section(args.params, "quantize", QuantizeConfig)
    result = Quantizer.load(args.root, config).run()
    save_result(args.root / "artifacts/quantize", result)
    write_json(args.root / "metrics/quantize.json", result.metrics)


if __name__ == "__main__":
    main_guard(main, name="quantize")
