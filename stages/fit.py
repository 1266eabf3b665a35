"""Stage `fit`: steps scaled until artifact and decoder meet a number of bytes, split by measured damage, or neither.

In: artifacts/quantize, passed on as it is where neither is asked for; else what `quantize` reads, its parameters,
artifacts/tokens/{train,tokenizer.model} and the sources of golf.artifact.decode.
Out: artifacts/fit/{model.safetensors,errors.tsv}, metrics/fit.json.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from golf.artifact.ship import CompressConfig, pack_decoder
from golf.artifact.write import pack
from golf.base.files import atomic_directory, require, write_bytes, write_json
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.data.shards import open_split
from golf.quantize.config import FitConfig, QuantizeConfig
from golf.quantize.fit import fitted
from golf.quantize.pipeline import Quantizer
from golf.quantize.storage import save_result
from golf.quantize.tensors import QuantizedModel

SOURCES = Path(__file__).resolve().parent.parent


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for wrong parameters or a target that no steps meet."""
    config, out = load_section(params, "fit", FitConfig), root / "artifacts/fit"
    metrics = {"fit_target_bytes": float(config.target_bytes)}
    if config.acts:
        quantizer = Quantizer.load(root, load_section(params, "quantize", QuantizeConfig))
        size = _size(root, load_section(params, "compress", CompressConfig), config.target_bytes)
        result = fitted(quantizer, config, text=open_split(root / "artifacts/tokens/train"), size=size, say=_say)
        save_result(out, result)
        metrics |= result.metrics
    else:
        with atomic_directory(out) as folder:
            for name in ("model.safetensors", "errors.tsv"):
                quantized = require(root / "artifacts/quantize" / name, made_by="`quantize`")
                write_bytes(folder / name, quantized.read_bytes())
    write_json(root / "metrics/fit.json", metrics)


def _size(root: Path, config: CompressConfig, target: int) -> Callable[[QuantizedModel], int]:
    """Bytes of artifact and decoder as `compress` writes them."""
    tokenizer = require(root / "artifacts/tokens/tokenizer.model", made_by="`tokenize`").read_bytes()
    _say(f"fit: target {target:,} bytes, the decoder's included; coder: {config.coder}")

    def size(model: QuantizedModel) -> int:
        data = pack(model, tokenizer, coders=config.coders, embedding_coders=config.embedding_coders)
        return len(data) + len(pack_decoder(SOURCES, data))

    return size


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
