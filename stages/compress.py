"""Stage `compress`: quantized model and tokenizer to one artifact, packed decoder beside it, sizes checked.

In: artifacts/fit/model.safetensors, artifacts/tokens/tokenizer.model, the sources of golf.artifact.decode.
Out: artifacts/compress/{model.golf,decoder.zip,tensors.tsv}, metrics/compress.json. Above the limit it then fails.
"""

from __future__ import annotations

import time
from pathlib import Path

from golf.artifact.read import unpack
from golf.artifact.ship import CompressConfig, check_limit, pack_decoder, size_metrics, size_rows
from golf.artifact.write import pack
from golf.base import files
from golf.base.distributed import usable_cores
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.quantize.storage import load_quantized

SOURCES = Path(__file__).resolve().parent.parent


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for wrong parameters or inputs, or an artifact above the limit."""
    config = load_section(params, "compress", CompressConfig)
    model = load_quantized(root / "artifacts/fit/model.safetensors")
    tokenizer = files.require(root / "artifacts/tokens/tokenizer.model", made_by="`tokenize`").read_bytes()
    started = time.perf_counter()
    threads = usable_cores()
    data = pack(model, tokenizer, coders=config.coders, embedding_coders=config.embedding_coders, threads=threads)
    packed = time.perf_counter()
    del model  # the second takes as much memory
    unpacked = unpack(data, threads=threads)  # what the decoder will see, checked before anything is written
    decoded = time.perf_counter()
    print(f"encoded in {packed - started:.1f} s, decoded in {decoded - packed:.1f} s, compilation included", flush=True)
    decoder = pack_decoder(SOURCES, data)
    rows = size_rows(unpacked)
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    with files.atomic_directory(root / "artifacts/compress") as folder:
        files.write_bytes(folder / "model.golf", data)
        files.write_bytes(folder / "decoder.zip", decoder)
        files.write_text(folder / "tensors.tsv", "\n".join(lines) + "\n")
    metrics = size_metrics(unpacked, decoder_bytes=len(decoder), limit_bytes=config.limit_bytes)
    files.write_json(root / "metrics/compress.json", metrics)
    check_limit(metrics)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
