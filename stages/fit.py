"""Stage `fit`: steps scaled until artifact and decoder meet a number of bytes, split by measured damage, or neither.

In: artifacts/quantize, passed on as it is where neither is asked for; else what `quantize` reads, its parameters,
artifacts/tokens/{train,tokenizer.model} and the sources of golf.artifact.decode.
Out: artifacts/fit/{model.safetensors,errors.tsv}, metrics/fit.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from golf.artifact.ship import CompressConfig, pack_decoder
from golf.artifact.write import pack
from golf.base.files import require, write_bytes, write_json
from golf.base.main import main_guard
from golf.base.params import load_section
from golf.data.shards import open_split
from golf.quantize.config import FitConfig, QuantizeConfig
from golf.quantize.fit import fitted
from golf.quantize.pipeline import Quantizer
from golf.quantize.storage import save_result
from golf.quantize.tensors import QuantizedModel

SOURCES = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the stage; ``GolfError`` for wrong parameters or a target that no steps meet."""
    parser = argparse.ArgumentParser(prog="python -m stages.fit", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--root", type=Path, default=Path("."))
    args = parser.parse_args()
    config, out = load_section(args.params, "fit", FitConfig), args.root / "artifacts/fit"
    metrics = {"fit_target_bytes": float(config.target_bytes)}
    if config.acts:
        quantizer = Quantizer.load(args.root, load_section(args.params, "quantize", QuantizeConfig))
        size = _size(args.root, load_section(args.params, "compress", CompressConfig))
        result = fitted(quantizer, config, text=open_split(args.root / "artifacts/tokens/train"), size=size, say=_say)
        save_result(out, result)
        metrics |= result.metrics
    else:
        for name in ("model.safetensors", "errors.tsv"):
            write_bytes(out / name, require(args.root / "artifacts/quantize" / name, made_by="`quantize`").read_bytes())
    write_json(args.root / "metrics/fit.json", metrics)


def _size(root: Path, config: CompressConfig) -> Callable[[QuantizedModel], int]:
    """Bytes of artifact and decoder as `compress` writes them."""
    tokenizer = require(root / "artifacts/tokens/tokenizer.model", made_by="`tokenize`").read_bytes()
    _say(f"fit: sizes are of artifact and decoder; coder: {config.coder}")

    def size(model: QuantizedModel) -> int:
        data = pack(model, tokenizer, coders=config.coders, embedding_coders=config.embedding_coders)
        return len(data) + len(pack_decoder(SOURCES, data))

    return size


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main_guard(main, name="fit")
