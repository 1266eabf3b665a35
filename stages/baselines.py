"""Stage `baselines`: what general-purpose compressors make of the model's integers and of the validation text.

Minutes at full size, for which nothing but the report waits.

In: artifacts/fit/model.safetensors, artifacts/tokens/{val,tokenizer.model}. Out: metrics/baselines.json.
"""

from __future__ import annotations

from pathlib import Path

from golf.base.distributed import usable_cores
from golf.base.files import write_json
from golf.base.main import run_stage
from golf.data.tokenizer import Tokenizer
from golf.quantize.storage import load_quantized
from golf.report.baselines import integer_sizes, xz
from golf.scoring.text import decode_documents, load_text


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for inputs that are missing or do not belong together."""
    model = load_quantized(root / "artifacts/fit/model.safetensors")
    integers = [model.tensors[name].values for name in sorted(model.tensors)]
    metrics: dict[str, float] = {f"{k}_bytes": v for k, v in integer_sizes(integers, threads=usable_cores()).items()}
    tokenizer = Tokenizer.from_file(root / "artifacts/tokens/tokenizer.model", made_by="stage tokenize")
    text = load_text(root / "artifacts/tokens/val", vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.sha256)
    raw = decode_documents(text, tokenizer.decode)
    metrics["xz_bits_per_byte"] = 8.0 * len(xz(raw)) / len(raw)
    write_json(root / "metrics/baselines.json", metrics)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
