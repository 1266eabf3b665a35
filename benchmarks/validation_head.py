"""Every scorer on the competition's validation head with given weights: bits per byte and CPU seconds of one core.

    python -m benchmarks.validation_head --root DIR --models A.safetensors B.safetensors [--targets N]
        [--stride-targets N] [--window W] [--options] [--records DIR]

DIR is where `python -m stages.tokenize` wrote artifacts/tokens with the competition's tokenizer and shards; the models
are snapshots or final weights of `stages.train` (float32). The text is cut at a document's end, at N targets at most.
Sliding with stride 128 costs several passes, so it is scored on a prefix (0: not at all), and round trip and streaming
beside it; ``--column`` adds the scores of the first N targets. ``--options`` switches the options of the mixture on, a
few at a time. ``--records`` keeps the records of the streaming pass and reuses them. Times are ``time.process_time``
after compilation: a loaded machine stretches them less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from golf.base.files import load_numpy, load_torch, save_numpy
from golf.base.params import load_section
from golf.base.score import bits_per_byte
from golf.data.shards import open_split
from golf.mixture.batch import MixResult, mix
from golf.mixture.config import MixtureConfig
from golf.mixture.counts import count_contexts
from golf.mixture.document import count_documents
from golf.mixture.record import NeuralRecord, StreamRecord
from golf.models.registry import build_model, config_from_dict
from golf.scoring.hedge import NeuralScores, mix_hedge
from golf.scoring.mixture_score import HedgeConfig
from golf.scoring.network import RoundtripConfig, SlidingConfig, window_nats
from golf.scoring.record_stream import StreamingConfig, record_stream
from golf.scoring.streaming import streaming_nats
from golf.scoring.text import ValidationText, load_text

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no document_orders": {"document_orders": ()},
    "document_orders [0]": {"document_orders": (0,)},
    "document_orders [1]": {"document_orders": (1,)},
    "document_orders [0, 1]": {"document_orders": (0, 1)},
    "document_orders [1, 2, 3]": {"document_orders": (1, 2, 3)},
}
T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """The result and its CPU seconds."""
    begin = time.process_time()
    result = function()
    return result, time.process_time() - begin


def head_text(root: Path, targets: int) -> ValidationText:
    """Whole documents of the validation split, together ``targets`` at most; 0 takes all."""
    split = open_split(root / "artifacts/tokens/val")
    kept = {"vocab_size": split.vocab_size, "tokenizer_sha256": split.tokenizer_sha256}
    return cut(load_text(root / "artifacts/tokens/val", **kept), targets)


def cut(text: ValidationText, targets: int) -> ValidationText:
    if not 0 < targets < text.num_targets:
        return text
    whole = int(np.searchsorted(text.doc_starts, targets + 1, side="right")) - 1  # documents that end before the cut
    end = int(text.doc_starts[whole])
    return ValidationText(text.tokens[:end], text.doc_starts[:whole], text.doc_bytes[:whole], text.vocab_size)


def load_model(path: Path) -> tuple[Any, dict[str, Any]]:
    state, meta = load_torch(path, made_by="stage train")
    model = build_model(config_from_dict(meta["model"]), int(meta["vocab_size"]))
    model.load_state_dict(state)
    return model.eval(), meta


def mixed(text: ValidationText, record: NeuralRecord, config: MixtureConfig) -> tuple[MixResult, dict[str, float]]:
    """The mixture without its own checks, and CPU seconds of counting, of the document's counts and of mixing."""
    bare = replace(record, sample_positions=record.sample_positions[:0], sample_log_probs=record.sample_log_probs[:0])
    tokens, near = text.tokens.astype(np.int32), config.layers.near_tokens
    table, counting = timed(
        lambda: count_contexts(
            tokens, text.doc_starts, orders=config.orders, vocab_size=text.vocab_size, near_tokens=near
        )
    )
    orders = config.layers.document_orders
    documents, document = timed(lambda: count_documents(tokens, text.doc_starts, orders, near_tokens=near))
    result, mixing = timed(lambda: mix(tokens, table, bare, config, documents))
    return result, {"counting": counting, "document": document, "mixing": mixing}


def warm(text: ValidationText, record: NeuralRecord, config: MixtureConfig) -> None:
    """Compile everything on the first tokens."""
    small = cut(text, max(2000, int(text.doc_starts[1]) + 1)) if len(text.doc_starts) > 1 else text
    num = len(small.tokens)
    arrays = {name: value[:num] for name, value in vars(record).items() if not name.startswith("sample")}
    none = {"sample_positions": record.sample_positions[:0], "sample_log_probs": record.sample_log_probs[:0]}
    layers = config.layers
    documents = count_documents(small.tokens, small.doc_starts, layers.document_orders, near_tokens=layers.near_tokens)
    table = count_contexts(small.tokens, small.doc_starts, orders=config.orders, vocab_size=text.vocab_size)
    mix(small.tokens, table, NeuralRecord(**arrays, **none), config, documents)


class Bench:
    """One text, one set of parameters; prints a Markdown row for every scorer."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.text = head_text(args.root, args.targets)
        self.prefix, self.first = cut(self.text, args.stride_targets), cut(self.text, args.column)
        params = args.params
        window = {"window": args.window, "precision": args.precision}
        self.roundtrip = replace(load_section(params, "evaluate.roundtrip", RoundtripConfig), **window)
        self.sliding = replace(load_section(params, "evaluate.sliding", SlidingConfig), stride=128, **window)
        self.streaming = replace(
            load_section(params, "evaluate.streaming", StreamingConfig), **window, chunk=args.chunk, warmup=args.warmup
        )
        self.hedge = load_section(params, "evaluate.hedge", HedgeConfig)
        self.config = MixtureConfig(self.streaming, self.hedge)

    def bits(self, nats: np.ndarray) -> float:
        """Bits per byte of a score of the text, of its prefix or of its first targets."""
        text = next(t for t in (self.text, self.prefix, self.first) if t.num_targets == len(nats))
        return bits_per_byte(float(nats.sum()), text.num_bytes)

    def row(self, name: str, nats: np.ndarray, seconds: float | None, base: float | None = None) -> None:
        speed = f"{len(nats) / seconds:,.0f}" if seconds else "-"
        gain = f"{base - self.bits(nats):+.4f}" if base is not None else "-"
        num = self.first.num_targets
        first = f"{self.bits(nats[:num]):.4f}" if len(nats) >= num else "-"
        print(f"| {name} | {len(nats):,} | {self.bits(nats):.4f} | {gain} | {first} | {seconds or 0.0:.2f} | {speed} |",
              flush=True)  # fmt: skip

    def model(self, path: Path) -> None:
        model, meta = load_model(path)
        told = {key: meta[key] for key in ("step", "progress", "multiplier") if key in meta}
        heads = f"scorer | targets | bits per byte | gain over streaming | first {self.first.num_targets:,} | CPU s"
        print(f"\n## {path.name} {told}\n\n| {heads} | targets per CPU s |\n|---|---|---|---|---|---|---|", flush=True)
        if self.args.stride_targets:
            self.windows(model)
        record, taken = self.record(model, path)
        base = self.bits(record.nats)
        self.row("streaming, with the record for the mixture", record.nats, taken, base)
        self.mixture(record, base)

    def windows(self, model: Any) -> None:
        """Round trip, sliding and streaming on the prefix."""
        timed(lambda: window_nats(model, cut(self.text, 3000), self.roundtrip))
        (nats, _), seconds = timed(lambda: window_nats(model, self.prefix, self.roundtrip))
        self.row("round trip", nats, seconds)
        (nats, _), seconds = timed(lambda: window_nats(model, self.prefix, self.sliding))
        self.row("sliding, stride 128", nats, seconds)
        nats, seconds = timed(lambda: streaming_nats(model, self.prefix, self.streaming))
        self.row("streaming", nats, seconds)

    def record(self, model: Any, path: Path) -> tuple[StreamRecord, float | None]:
        kept = self.args.records / f"{path.stem}.safetensors" if self.args.records else None
        if kept and kept.is_file():
            tensors, meta = load_numpy(kept, made_by="an earlier run")
            return StreamRecord.from_tensors(tensors), meta["seconds"]
        record, seconds = timed(lambda: record_stream(model, self.text, self.streaming))
        if kept:
            save_numpy(kept, record.tensors(), {"seconds": seconds})
        return record, seconds

    def mixture(self, record: StreamRecord, base: float) -> None:
        """Plain Hedge, parts, whole, and the options one by one."""
        none = record.base.sample_positions[:0]
        neural = NeuralScores(record.nats, record.tempered, none, record.sample_log_probs[:0])
        simple, seconds = timed(lambda: mix_hedge(self.text, neural, self.hedge.simple(self.streaming.temperatures)))
        self.row("plain Hedge, fixed share", simple.nats, seconds, base)
        self.row("document bias alone", record.base.nll[1:], None, base)
        warm(self.text, record.base, self.config)
        result, _ = mixed(self.text, record.base, self.config)
        for name in ("cascade", "chain", "final"):
            self.row(f"up to {name}", result.nats[name][1:], None, base)
        for name, changes in OPTIONS.items() if self.args.options else (("default", {}),):
            config = replace(self.config, layers=replace(self.hedge, **changes))
            result, seconds_of = mixed(self.text, record.base, config)
            shown = ", ".join(f"{part} {value:.2f}" for part, value in seconds_of.items())
            self.row(f"whole mixture, {name} ({shown})", result.nats["mixture"][1:], sum(seconds_of.values()), base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--targets", type=int, default=0)
    parser.add_argument("--stride-targets", type=int, default=65536)
    parser.add_argument("--column", type=int, default=65536)
    parser.add_argument("--window", type=int, default=512, help="the training length")
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--warmup", type=int, default=2044, help="layers * (window - 1)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--options", action="store_true")
    parser.add_argument("--records", type=Path)
    args = parser.parse_args()
    if args.records:
        args.records.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    print(f"{bench.text.num_targets:,} targets, {bench.text.num_bytes:,} bytes; prefix {bench.prefix.num_targets:,}")
    for path in args.models:
        bench.model(path)


if __name__ == "__main__":
    main()
