"""Stage `quantize`: averaged float weights to integers with steps; matrices by role, small tensors to fp16.

In: artifacts/average/model.safetensors; for the methods gptq and gptq_trellis artifacts/calibrate.
Out: artifacts/quantize/{model.safetensors,errors.tsv}, metrics/quantize.json.
"""

from __future__ import annotations

from pathlib import Path

from golf.base.files import write_json
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.quantize.config import QuantizeConfig
from golf.quantize.pipeline import Quantizer
from golf.quantize.storage import save_result


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for wrong parameters or weights."""
    result = Quantizer.load(root, load_section(params, "quantize", QuantizeConfig), once=True).run()
    save_result(root / "artifacts/quantize", result)
    write_json(root / "metrics/quantize.json", result.metrics)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
