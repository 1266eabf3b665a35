"""Speed of the text codec beside the float scorer, on one core, in one process: tokens per second of processor time.

    python -m benchmarks.codec --artifact artifacts/compress/model.golf --tokens artifacts/tokens/val

Measured, each after a warm-up: the batched float32 streaming scorer; single float32 steps of 64 streams (what portable
arithmetic codes and decodes with); the integer-exact network in passes of 64 tokens (coding) and in single steps
(decoding), over the same tokens; then whole files, with the mixture and without. Prints one JSON object a row; the last
has the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from golf.scoring.streaming import PassConfig, streaming_nats
from golf.scoring.text import ValidationText, load_text
from golf.textcodec.files import CodecConfig, unzip_file, zip_tokens
from golf.textcodec.model import TextModel, open_model
from golf.textcodec.stepper import open_stepper

STREAMS, WINDOW = 64, 256


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="artifacts/tokens/val")
    parser.add_argument("--coded", type=int, default=32768, help="tokens of the files (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=512, help="of 64 streams (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = open_model(args.artifact)
    text = load_text(args.tokens, vocab_size=model.vocab_size, tokenizer_sha256=model.tokenizer_sha256)
    rates = {"scorer": score(model, text, args.coded)}
    rates |= {"float steps": steps(model, text, args.steps, "portable", ahead=False)}
    rates |= {"integer steps": steps(model, text, args.steps, "integer", ahead=False)}
    rates |= {"integer ahead": steps(model, text, args.steps, "integer", ahead=True)}
    for mixture in (False, True):
        rates |= code(model, np.asarray(text.tokens[: args.coded], np.int64), mixture=mixture)
    show(
        what="ratios", encoding_network_to_scorer=rates["integer ahead"] / rates["scorer"],
        decoding_network_to_float_steps=rates["integer steps"] / rates["float steps"],
        coding_with_mixture_to_without=rates["zip+"] / rates["zip"],
        decoding_with_mixture_to_without=rates["unzip+"] / rates["unzip"],
    )  # fmt: skip


def score(model: TextModel, text: ValidationText, targets: int) -> float:
    """The streaming scorer on whole documents of at least ``targets`` targets."""
    count = min(int(np.searchsorted(text.target_bounds, targets)), len(text.doc_starts))
    end = text.doc_starts[count] if count < len(text.doc_starts) else len(text.tokens)
    head = ValidationText(text.tokens[:end], text.doc_starts[:count], text.doc_bytes[:count], text.vocab_size)
    config = PassConfig(window=WINDOW, chunk=128, segment=8192, warmup=3072, streams=8, precision="fp32")
    streaming_nats(model.model, ValidationText(text.tokens[:600], text.doc_starts[:1], text.doc_bytes[:1],
                                               text.vocab_size), config)  # fmt: skip
    seconds = timed(lambda: streaming_nats(model.model, head, config))
    show(what="float32 streaming scorer", tokens=head.num_targets, tokens_per_second=head.num_targets / seconds)
    return head.num_targets / seconds


def steps(model: TextModel, text: ValidationText, count: int, arithmetic: Any, *, ahead: bool) -> float:
    """The network alone: ``count`` steps of all streams, known to it ahead or not; with the nats of the next tokens."""
    inputs = np.ascontiguousarray(text.tokens[: STREAMS * count].reshape(STREAMS, count), np.int64)
    with open_stepper(model, arithmetic=arithmetic, threads=1) as make:
        make(STREAMS, WINDOW, inputs[:, :1] if ahead else None).step(inputs[:, 0])
        stepper = make(STREAMS, WINDOW, inputs if ahead else None)
        seconds, nats = 0.0, 0.0
        for step in range(count):
            begin = time.process_time()
            logits = stepper.step(inputs[:, step])
            seconds += time.process_time() - begin
            if step + 1 < count:
                truth = np.take_along_axis(logits, inputs[:, step + 1, None], 1)[:, 0]
                nats += float((np.log(np.exp(logits).sum(1)) - truth).sum())
    show(
        what=f"{arithmetic} network, {'64 tokens ahead' if ahead else 'single steps'}", tokens=inputs.size,
        nats_per_token=nats / (STREAMS * (count - 1)), tokens_per_second=inputs.size / seconds,
    )  # fmt: skip
    return inputs.size / seconds


def code(model: TextModel, tokens: np.ndarray, *, mixture: bool) -> dict[str, float]:
    """A file of ``tokens`` and back."""
    config = CodecConfig(streams=STREAMS, window=WINDOW, threads=1, mixture=mixture)
    reports: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        coded, back = Path(folder) / "sample.golfz", Path(folder) / "sample.txt"
        zip_tokens([tokens[:256]], coded, model, config, total_bytes=256)
        unzip_file(coded, back, model)
        zip_seconds = timed(
            lambda: reports.append(zip_tokens([tokens], coded, model, config, total_bytes=3 * len(tokens)))
        )
        unzip_seconds = timed(lambda: reports.append(unzip_file(coded, back, model)))
    made, restored = reports
    assert restored.text_sha256 == made.text_sha256
    show(
        what="file with the mixture" if mixture else "file of the model alone", tokens=made.tokens,
        text_bytes=made.text_bytes, stated_bytes=made.stated_bits / 8, code_bytes=made.code_bytes,
        file_bytes=made.file_bytes, overhead_percent=made.overhead_percent,
        zip_tokens_per_second=made.tokens / zip_seconds, unzip_tokens_per_second=made.tokens / unzip_seconds,
    )  # fmt: skip
    mark = "+" if mixture else ""
    return {f"zip{mark}": made.tokens / zip_seconds, f"unzip{mark}": made.tokens / unzip_seconds}


def timed(work: Callable[[], Any]) -> float:
    """Processor seconds of ``work``."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def show(**row: Any) -> None:
    """One row of the report."""
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
