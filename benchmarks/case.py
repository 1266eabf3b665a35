"""Case operators in the tokenizer: tokens for a text, and bits per byte of small models at equal steps.

    python -m benchmarks.case tokens --texts TEXTS [--score TEXTS] --vocab 1024 8192 --work DIR
    python -m benchmarks.case bits --texts TEXTS [--score TEXTS] --vocab 1024 --seeds 1 --work DIR

TEXTS are .jsonl, also .xz, with a string `text` a line. Tokenizers, and models, learn from the first 20 MB of
``--texts``; scored are 2.6 MB (`bits`: 60 kB) of ``--score``, or of what follows in ``--texts``. `tokens` proves every
document's bytes. `bits` trains the flat transformer of conf/model/transformer_small.yaml for ``--steps`` and scores its
float weights, sliding.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.ablations import validation_text
from golf.base.files import atomic_directory, write_bytes
from golf.base.params import from_dict
from golf.data import tokenizer as library
from golf.data.case import Case, apply_case, operator_bytes, options_of, tag
from golf.data.shards import ShardWriter, open_split
from golf.data.tokenizer import Tokenizer
from golf.models.registry import build_model, config_from_dict
from golf.scoring.modes import run_mode
from golf.scoring.network import SlidingConfig
from golf.training.checkpoint import open_checkpoints
from golf.training.config import TrainConfig
from golf.training.loop import Trainer

ANY_SCRIPT = {"split_by_unicode_script": False}
VARIANTS: dict[str, tuple[str, Case, dict[str, Any]]] = {  # label, where the marks stand, options of the trainer
    "none": ("no operators", "none", {}),
    "none_any_script": ("no operators, pieces across scripts", "none", ANY_SCRIPT),
    "caseops": ("`caseops`: mark before the letters", "caseops", options_of("caseops")),
    "before_space": ("mark before the space, a piece of its own", "caseops_merged", options_of("caseops")),
    "caseops_merged": ("`caseops_merged`: before the space, merges", "caseops_merged",
                       options_of("caseops_merged")),
}  # fmt: skip
LEARNT_BYTES = 20_000_000


def texts(path: Path, first: int, last: int) -> Iterator[str]:
    """Texts of a file that lie whole between its byte ``first`` of text and byte ``last``."""
    end = 0
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"]
            begin, end = end, end + len(text.encode())
            if end > last:
                return
            if begin >= first:
                yield text


def learnt(args: argparse.Namespace) -> Iterator[str]:
    """Texts that tokenizers and models learn from."""
    return texts(args.texts, 0, LEARNT_BYTES)


def scored(args: argparse.Namespace, most: int) -> Iterator[str]:
    """Texts that they are measured on, ``most`` bytes at most."""
    return texts(args.score, 0, most) if args.score else texts(args.texts, LEARNT_BYTES, LEARNT_BYTES + most)


def tokenizer_of(name: str, vocab: int, args: argparse.Namespace) -> Tokenizer:
    """Trained, or read where an earlier call has left it."""
    path = args.work / f"{name}_{vocab}.model"
    if not path.exists():
        _, case, options = VARIANTS[name]
        marked = (apply_case(text, case) for text in learnt(args))
        write_bytes(path, library._train(marked, vocab, **options) + tag(case))
    return Tokenizer.from_file(path)


def tokens(args: argparse.Namespace) -> None:
    """The table of tokens."""
    documents = list(scored(args, 2_600_000))
    print(
        f"| {sum(len(text.encode()) for text in documents):,} bytes | vocabulary | tokens | bytes per token "
        "| tokens per byte | pieces with a capital | with an operator | operators alone |\n" + 8 * "|---" + "|"
    )
    for vocab, name in itertools.product(args.vocab, args.only or VARIANTS):
        tokenizer = tokenizer_of(name, vocab, args)
        found = [tokenizer.document(text) for text in documents]  # proves its bytes
        ids, size = np.concatenate([ids[1:] for ids, _ in found]), sum(size for _, size in found)
        operators, pieces = operator_bytes(tokenizer.token_bytes, tokenizer.case), tokenizer.token_bytes
        alone = (operators == [len(piece) for piece in pieces]) & (operators > 0)
        large = sum(any(65 <= byte <= 90 for byte in piece) for piece in pieces[260:])
        print(
            f"| {VARIANTS[name][0]} | {vocab:,} | {len(ids):,} | {size / len(ids):.4f} | {len(ids) / size:.4f} "
            f"| {large:,} | {(operators > 0).sum():,} | {alone[ids].mean():.2%} |", flush=True
        )  # fmt: skip


def bits(args: argparse.Namespace) -> None:
    """The table of bits per byte; results are kept in WORK/bits.jsonl, and a restart goes on behind them."""
    done = args.work / "bits.jsonl"
    done.touch()
    for seed, vocab, name in itertools.product(range(1, args.seeds + 1), args.vocab, args.only or VARIANTS):
        rows = [json.loads(line) for line in done.read_text(encoding="utf-8").splitlines()]
        if not any((row["variant"], row["vocab"], row["seed"]) == (name, vocab, seed) for row in rows):
            row = {"variant": name, "vocab": vocab, "seed": seed, **run(name, vocab, seed, args)}
            with done.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    rows = [json.loads(line) for line in done.read_text(encoding="utf-8").splitlines()]
    print("| variant | vocabulary | seeds | bits per byte | parameters | MB read | CPU s |\n" + 7 * "|---" + "|")
    for vocab, name in itertools.product(args.vocab, VARIANTS):
        if mine := [row for row in rows if row["variant"] == name and row["vocab"] == vocab]:
            scores = [row["bits_per_byte"] for row in mine]
            spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
            print(
                f"| {VARIANTS[name][0]} | {vocab:,} | {len(mine)} | {statistics.fmean(scores):.4f}{spread} "
                f"| {mine[0]['parameters']:,} | {mine[0]['text_read'] / 1e6:.2f} | {mine[0]['cpu_seconds']:.0f} |"
            )


def run(name: str, vocab: int, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One model trained and scored."""
    tokenizer, folder = tokenizer_of(name, vocab, args), args.work / f"tokens_{name}_{vocab}"
    if not folder.exists():
        with atomic_directory(folder) as made:
            for split, documents in (("train", learnt(args)), ("val", scored(args, 60_000))):
                writer = ShardWriter(made / split, vocab_size=vocab, bos_id=1, tokenizer_sha256=tokenizer.sha256)
                for document in documents:
                    writer.add(*tokenizer.document(document, official=split == "val"))
                writer.close()
    shape = yaml.safe_load(Path("conf/model/transformer_small.yaml").read_text(encoding="utf-8"))
    train = yaml.safe_load(Path("conf/config.yaml").read_text(encoding="utf-8"))["train"]
    train |= {"seed": seed, "iterations": args.steps, "depth_phases": [], "snapshot_below": 0.0, "ema_decay": 0.0}
    config = from_dict(TrainConfig, train | {"log_seconds": 1e9, "checkpoint_seconds": 1e9})
    torch.manual_seed(seed)
    model, began = build_model(config_from_dict(shape), vocab), time.process_time()
    with tempfile.TemporaryDirectory() as scratch, open_checkpoints(Path(scratch)) as checkpoints:
        kept: dict[str, Any] = {"checkpoints": checkpoints, "base_meta": {}, "log": lambda line: None}
        result = Trainer(model, config, source=open_split(folder / "train"), **kept).run()
    seconds = time.process_time() - began
    model = build_model(config_from_dict(shape), vocab).eval().requires_grad_(False)
    model.load_state_dict(result.state.weights)
    text = validation_text(folder, 60_000)
    score = run_mode("sliding", model, text, SlidingConfig(256, 128, 8, "fp32")).score
    return {
        "bits_per_byte": score.bits_per_byte, "text_bytes": text.num_bytes,
        "text_read": args.steps * 2048 * text.num_bytes / text.num_targets,
        "parameters": result.parameters, "cpu_seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tokens", "bits"])
    parser.add_argument("--texts", type=Path, required=True, help="what is learnt from")
    parser.add_argument("--score", type=Path, help="what is measured on (default: what follows in --texts)")
    parser.add_argument("--work", type=Path, required=True, help="folder of tokenizers and results, for one --texts")
    parser.add_argument("--vocab", type=int, nargs="+", default=[1024])
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    {"tokens": tokens, "bits": bits}[args.what](args)


if __name__ == "__main__":
    main()
