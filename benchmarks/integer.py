"""What the integer-exact network costs and gains: bits per byte, tokens per CPU second, coded against stated size.

    python -m benchmarks.integer --artifact artifacts/compress/model.golf --tokens artifacts/tokens/val

Both networks are scored by the streaming scorer on the head of the validation text, in whole documents of at least
``--targets`` targets; then the head of ``--coded`` tokens is coded and decoded in each arithmetic. One thread, CPU
seconds of this process (of a busy machine all the same). Prints one JSON object a row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf.artifact.decode import Decoded, load_artifact
from golf.base.score import bits_per_byte
from golf.scoring.streaming import PassConfig, streaming_nats
from golf.scoring.text import ValidationText, load_text
from golf.textcodec.files import CodecConfig, unzip_file, zip_tokens
from golf.textcodec.integer.network import IntegerNetwork

WARM = 256  # tokens coded beforehand, so that compiling the loops is not timed


def main() -> None:
    """Run the measurements that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.integer", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="artifacts/tokens/val")
    parser.add_argument("--targets", type=int, default=32768, help="scored at least (default: %(default)s); 0: none")
    parser.add_argument("--coded", type=int, default=32768, help="tokens coded (default: %(default)s); 0: none")
    parser.add_argument("--modes", default="integer,integer+mixture,portable", help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    decoded = load_artifact(args.artifact)
    text = load_text(args.tokens, vocab_size=decoded.vocab_size, tokenizer_sha256=decoded.tokenizer_sha256)
    if args.targets:
        score(decoded, head(text, args.targets))
    for mode in args.modes.split(",") if args.coded else []:
        code(decoded, text.tokens[: args.coded], mode)


def head(text: ValidationText, targets: int) -> ValidationText:
    """The first whole documents with ``targets`` targets or more."""
    count = min(int(np.searchsorted(text.target_bounds, targets)), len(text.doc_starts))
    end = text.doc_starts[count] if count < len(text.doc_starts) else len(text.tokens)
    return ValidationText(text.tokens[:end], text.doc_starts[:count], text.doc_bytes[:count], text.vocab_size)


def score(decoded: Decoded, text: ValidationText) -> None:
    """Streaming nats of the float network and of the integer one, and the integer one in other shapes."""
    config = PassConfig(window=256, chunk=128, segment=8192, warmup=3072, streams=8, precision="fp32")
    networks: dict[str, Any] = {"float": decoded.model, "integer": IntegerNetwork(decoded.model)}
    found = {}
    for name, network in networks.items():
        network.step(torch.zeros(8, 128, dtype=torch.int64), network.new_state(8, 256, 128))
        found[name], seconds = timed(partial(streaming_nats, network, text, config))
        bits = bits_per_byte(float(found[name].sum()), text.num_bytes)
        show(what="streaming", network=name, targets=text.num_targets, bytes=text.num_bytes, bits_per_byte=bits,
             tokens_per_cpu_second=text.num_targets / seconds)  # fmt: skip
    difference = found["integer"] - found["float"]
    show(what="cost", bits_per_byte=bits_per_byte(float(found["integer"].sum()), text.num_bytes)
         - bits_per_byte(float(found["float"].sum()), text.num_bytes), mean_nats=float(difference.mean()),
         max_abs_nats=float(np.abs(difference).max()))  # fmt: skip


def code(decoded: Decoded, tokens: np.ndarray, mode: str) -> None:
    """Code and decode ``tokens`` in ``mode``: an arithmetic, with ``+mixture`` or without."""
    arithmetic, _, mixture = mode.partition("+")
    config = CodecConfig(streams=64, window=256, threads=1, arithmetic=arithmetic, mixture=bool(mixture))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        coded, back = Path(folder) / "sample.golfz", Path(folder) / "sample.txt"
        zip_tokens([tokens[:WARM]], coded, decoded, config, total_bytes=WARM)
        unzip_file(coded, back, decoded)
        report, zip_seconds = timed(lambda: zip_tokens([tokens], coded, decoded, config, total_bytes=3 * len(tokens)))
        restored, unzip_seconds = timed(lambda: unzip_file(coded, back, decoded))
    assert restored.text_sha256 == report.text_sha256
    show(what="codec", mode=mode, tokens=report.tokens, text_bytes=report.text_bytes, code_bytes=report.code_bytes,
         file_bytes=report.file_bytes, stated_bytes=report.stated_bits / 8, overhead_percent=report.overhead_percent,
         zip_tokens_per_cpu_second=report.tokens / zip_seconds,
         unzip_tokens_per_cpu_second=report.tokens / unzip_seconds)  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of ``work`` and the CPU seconds it took."""
    begin = time.process_time()
    return work(), time.process_time() - begin


def show(**row: Any) -> None:
    """One row of the report."""
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
