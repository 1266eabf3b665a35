"""Stage `texts`: the text that an imported model is calibrated on and judged by, coded with the model's own tokenizer.

In: the corpora of section `texts`, artifacts/average, artifacts/tokens/tokenizer.model.
Out: artifacts/tokens/train, artifacts/tokens/judged/{calibration,other}, metrics/texts.json.
"""

from __future__ import annotations

from pathlib import Path

from golf.base.files import write_json
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.imports.texts import TextsConfig, write_texts


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for a corpus without enough text or a tokenizer that cannot be read."""
    metrics = write_texts(load_section(params, "texts", TextsConfig), root)
    write_json(root / "metrics/texts.json", metrics)
    for key, value in metrics.items():
        print(f"{key.replace('_', ' ')}: {value:,}", flush=True)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
