"""Stage `rivals`: other ways to compress the same imported model, judged on the same windows.

The public recipe is GPTQ with one step per row, a multiple of its spread (SDClip), and one static rANS table per
tensor. Files of llama.cpp's quantizers are given by path and judged as the floats that they mean.

In: artifacts/{average,calibrate}, artifacts/tokens, the files of `rivals.gguf`. Out: artifacts/rivals/points.json.
"""

from __future__ import annotations

from pathlib import Path

from golf.base.files import write_json
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.imports.judge import JudgeConfig, judged_texts, origin_model
from golf.imports.rivals import RivalsConfig, gguf_point, public_point
from golf.quantize.config import QuantizeConfig


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for wrong parameters, weights, tokens or files."""
    config, quantize = load_section(params, "rivals", RivalsConfig), load_section(params, "quantize", QuantizeConfig)
    origin = origin_model(root)
    texts = judged_texts(root, load_section(params, "judge", JudgeConfig), origin)
    points = [public_point(root, quantize, clip, origin, texts) for clip in config.public_clips]
    points += [gguf_point(root / path, origin, texts) for path in config.gguf]
    write_json(root / "artifacts/rivals/points.json", {"points": points})
    for found in points:
        print(f"{found['name']}: {found['bytes']:,} bytes, KL {found['summary']['other_kl']:.4f}", flush=True)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
