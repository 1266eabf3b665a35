"""Stage `compress`: quantized model and tokenizer to one artifact, packed decoder beside it, sizes checked.

In: artifacts/fit/model.safetensors, artifacts/tokens/tokenizer.model, the sources of golf.artifact.decode.
Out: artifacts/compress/{model.golf,decoder.zip,tensors.tsv}, metrics/compress.json. Above the limit it then fails.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from golf.artifact.read import unpack
from golf.artifact.ship import CompressConfig, check_limit, pack_decoder, size_metrics, size_rows
from golf.artifact.write import pack
from golf.base import files
from golf.base.main import main_guard
from golf.base.params import load_section
from golf.quantize.storage import load_quantized
from golf.report.baselines import integer_sizes

SOURCES = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the stage; ``ValueError`` for wrong parameters or inputs, or an artifact above the limit."""
    parser = argparse.ArgumentParser(prog="python -m stages.compress", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--root", type=Path, default=Path("."))
    args = parser.parse_args()
    config = load_section(args.params, "compress", CompressConfig)
    model = load_quantized(args.root / "artifacts/fit/model.safetensors")
    tokenizer = files.require(args.root / "artifacts/tokens/tokenizer.model", made_by="`tokenize`").read_bytes()
    started = time.perf_counter()
    data = pack(model, tokenizer, coders=config.coders, embedding_coders=config.embedding_coders)
    packed = time.perf_counter()
    unpacked = unpack(data)  # what the decoder will see, checked before anything is written
    decoded = time.perf_counter()
    print(f"encoded in {packed - started:.1f} s, decoded in {decoded - packed:.1f} s, compilation included", flush=True)
    decoder = pack_decoder(SOURCES, data)
    out = args.root / "artifacts/compress"
    files.write_bytes(out / "model.golf", data)
    files.write_bytes(out / "decoder.zip", decoder)
    rows = size_rows(unpacked)
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    files.write_text(out / "tensors.tsv", "\n".join(lines) + "\n")
    metrics = size_metrics(unpacked, decoder_bytes=len(decoder), limit_bytes=config.limit_bytes)
    integers = [model.tensors[name].values for name in sorted(model.tensors)]
    sizes = integer_sizes(integers, threads=os.cpu_count() or 1)
    files.write_json(args.root / "metrics/compress.json", metrics | {f"{k}_bytes": v for k, v in sizes.items()})
    check_limit(metrics)


if __name__ == "__main__":
    main_guard(main, name="compress")
