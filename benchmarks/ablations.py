"""What each part of the recipe is worth on a small model: equal steps, several seeds, scored as coded artifacts.

    python -m benchmarks.ablations --tokens artifacts/tokens --work /tmp/golf-ablations
    python -m benchmarks.ablations --work /tmp/golf-ablations --table docs/results/ablations.md   # the table alone
    python -m benchmarks.ablations --stack record --tokens artifacts/tokens --work /tmp/golf-record --steps 100

Every variant differs from its base in the keys that ``STACKS`` lists and nothing else; runs of one seed see the same
batches. Base: final weights of a recurrent model with progressive depth, or of the preset `record_cpu_small`, quantized
by SDClip and coded. Averages (SWA, EMA) are those of the base runs, where it keeps any. Scored: nats per token of the
float weights, and sliding bits per byte of the artifact decoded again, on whole documents of the validation split.
Results are appended to WORK/results.jsonl, one JSON object a row; a restart continues with what is missing. Standard
deviations are those of a sample (n - 1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sections import quantize_section
from golf.artifact.decode import decode_artifact
from golf.artifact.write import pack
from golf.base.files import write_text
from golf.base.params import from_dict
from golf.cli.params import compose
from golf.data.shards import load_split, open_split
from golf.models.registry import build_model, config_from_dict
from golf.quantize.pipeline import Quantizer
from golf.scoring.modes import run_mode
from golf.scoring.network import SlidingConfig
from golf.scoring.text import ValidationText
from golf.training.average import heldout_loss, mean_of
from golf.training.checkpoint import open_checkpoints
from golf.training.config import TrainConfig
from golf.training.loop import Trainer

LEVELS = {"embedding": 31, "attention": 31, "mlp": 31}
MODEL: dict[str, Any] = {
    "family": "depth_recurrent", "width": 96, "blocks": 2, "repeats": 3, "heads": 2, "kv_heads": 1, "mlp_ratio": 2.0,
    "value_tables": 2, "cross_repeat_skip": True, "xsa_last": 2, "negative_slope": 0.5, "softcap": 30.0,
    "rope_base": 10000.0, "qk_gain": 1.5, "norm_eps": 1e-6,
}  # fmt: skip
FLAT: dict[str, Any] = {  # as many layers as the recurrent model runs at full depth, as many coded bytes
    "family": "transformer", "width": 88, "layers": 6, "heads": 2, "kv_heads": 1, "mlp_ratio": 2.12,
    "unet_skips": True, "negative_slope": 0.0, "softcap": 30.0, "rope_base": 10000.0, "qk_gain": 1.5, "norm_eps": 1e-6,
}  # fmt: skip
CONF = Path(__file__).resolve().parent.parent / "conf"
TRAIN: dict[str, Any] = compose(CONF)["train"] | {
    "iterations": 100, "tokens_per_step": 2048, "sequence_length": 256, "micro_batch_tokens": 2048,
    "depth_phases": [[0.4, 1], [0.65, 2], [1.0, 3]], "warmdown": 0.5, "momentum_warmup_steps": 25,
    "snapshot_below": 0.3, "ema_decay": 0.94, "checkpoint_seconds": 1e9, "log_seconds": 1e9,
}  # fmt: skip
_RECORD = compose(CONF, preset="record_cpu_small")
RECORD: dict[str, Any] = _RECORD["model"]
RECORD_TRAIN: dict[str, Any] = _RECORD["train"] | {
    "iterations": 100, "momentum_warmup_steps": 25, "snapshot_below": 0.0, "checkpoint_seconds": 1e9,
    "log_seconds": 1e9,
}  # fmt: skip
QUANTIZE = quantize_section("sdclip", 12.85)
WEIGHTS = ("raw", "swa", "ema")


@dataclass(frozen=True)
class Variant:
    """A change of the base: other model keys (a whole other model for another family) and other train keys."""

    label: str
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """A base, and what is changed of it."""

    model: dict[str, Any]
    train: dict[str, Any]
    variants: dict[str, Variant]

    def model_keys(self, name: str) -> dict[str, Any]:
        """The whole section ``model`` of a variant."""
        changes = self.variants[name].model
        return changes if "family" in changes else {**self.model, **changes}


VARIANTS = {
    "base": Variant("base: recurrent, 2 blocks x 3"),
    "flat": Variant("flat transformer of equal bytes, 6 layers", FLAT, {"depth_phases": []}),
    "full_depth": Variant("progressive depth off (full depth throughout)", {}, {"depth_phases": []}),
    "qat": Variant("late QAT on (last quarter)", {}, {"qat": {"below": 0.5, "clip": 12.85, "levels": LEVELS}}),
    "no_value_tables": Variant("value embeddings off", {"value_tables": 0}),
    "no_skip": Variant("cross-repeat skip off", {"cross_repeat_skip": False}),
    "no_xsa": Variant("XSA off", {"xsa_last": 0}),
    "relu": Variant("ReLU^2 in place of LeakyReLU^2", {"negative_slope": 0.0}),
    "full_depth_time": Variant(
        "progressive depth off, equal processor time (73 steps)",
        {},
        {"depth_phases": [], "iterations": 73, "momentum_warmup_steps": 18},
    ),
    "wide_no_tables": Variant(
        "value embeddings off, equal bytes (width 140)", {"value_tables": 0, "width": 140, "mlp_ratio": 2.1}
    ),
    "constant_lr": Variant("warmdown off (so no snapshots)", {}, {"warmdown": 0.0, "snapshot_below": 0.0}),
}

RECORD_VARIANTS = {
    "base": Variant("base: `record_cpu_small`"),
    "no_table": Variant("no n-gram table", {"hash_rows": 0, "hash_width": 0}),
    "no_skips": Variant("no U-Net skips", {"skips": False}),
    "no_lanes": Variant("no lanes", {"lanes_from": RECORD["layers"]}),
    "no_layer_scale": Variant("no layer scale", {"layer_scale": False}),
    "whole_rotary": Variant("rotary on all channels of a head", {"rope_dims": RECORD["width"] // RECORD["heads"]}),
    "no_gates": Variant("no gates of heads", {"gate_width": 0}),
    "no_smear": Variant("no smeared embedding", {"smear_width": 0}),
    "no_exclusive": Variant("no exclusive attention", {"exclusive": False}),
    "loop": Variant("loop run twice from 35 %", {"repeats": 2}, {"depth_phases": [[0.35, 1], [1.0, 2]]}),
    "untied": Variant(
        "the same, weights of its own", {"repeats": 2, "untied": True}, {"depth_phases": [[0.35, 1], [1.0, 2]]}
    ),
}
STACKS = {"recipe": Stack(MODEL, TRAIN, VARIANTS), "record": Stack(RECORD, RECORD_TRAIN, RECORD_VARIANTS)}


def validation_text(folder: Path, most_bytes: int) -> ValidationText:
    """Whole documents from the head of the validation split, ``most_bytes`` of text at most."""
    split = load_split(folder / "val")
    count = max(1, int(np.searchsorted(np.cumsum(split.doc_bytes), most_bytes, side="right")))
    end = int(split.doc_starts[count]) if count < len(split.doc_starts) else len(split.tokens)
    return ValidationText(
        split.tokens[:end].astype(np.int64), split.doc_starts[:count], split.doc_bytes[:count],
        open_split(folder / "train").vocab_size,
    )  # fmt: skip


def trained(
    stack: Stack, name: str, seed: int, tokens: Path
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Weights of one run by kind (raw; swa and ema where there are any), and what training says of itself."""
    split = open_split(tokens / "train")
    config = from_dict(TrainConfig, {**stack.train, **stack.variants[name].train, "seed": seed})
    torch.manual_seed(seed)
    model = build_model(config_from_dict(stack.model_keys(name)), split.vocab_size)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder, open_checkpoints(Path(folder)) as checkpoints:
        trainer = Trainer(model, config, source=split, checkpoints=checkpoints, base_meta={}, log=lambda line: None)
        result = trainer.run()
        weights = {"raw": {name: tensor.clone() for name, tensor in result.state.weights.items()}}
        snapshots = sorted(Path(folder).glob("snapshot_*"))
        if snapshots:
            weights["swa"] = mean_of(snapshots)
        if result.state.ema:
            weights["ema"] = result.state.ema
    return weights, {
        "train_loss": result.final_loss,
        "cpu_seconds": time.process_time() - began,
        "parameters": result.parameters,
        "snapshots": len(snapshots),
        "qat_updates": max(result.state.events.fake_quantizations.values(), default=0),
    }


def scored(
    described: dict[str, Any], weights: dict[str, torch.Tensor], text: ValidationText, tokenizer: bytes, length: int
) -> dict[str, float]:
    """Loss of the float weights, and sliding score of the artifact they become."""
    vocab = text.vocab_size
    model = build_model(config_from_dict(described), vocab).eval().requires_grad_(False)
    model.load_state_dict(weights)
    loss = heldout_loss(model, text.tokens, length=length)
    arrays = {name: tensor.float().numpy() for name, tensor in weights.items()}
    quantizer = Quantizer(arrays, model, QUANTIZE, meta={"model": described, "vocab_size": vocab})
    data = pack(quantizer.run().model, tokenizer)
    config = SlidingConfig(length, length // 2, 8, "fp32")
    score = run_mode("sliding", decode_artifact(data).model, text, config).score
    return {"float_nats_per_token": loss, "artifact_bytes": len(data), "sliding_bpb": score.bits_per_byte}


def read_results(path: Path) -> list[dict[str, Any]]:
    """Rows so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def measure(stack: Stack, args: argparse.Namespace, path: Path) -> None:
    """Run what is missing, a seed at a time, so that an unfinished table has whole seeds."""
    text = validation_text(args.tokens, args.bytes)
    tokenizer = (args.tokens / "tokenizer.model").read_bytes()
    for seed in range(1, args.seeds + 1):
        for name in args.only or stack.variants:
            done = {(row["variant"], row["seed"]) for row in read_results(path)}
            if (name, seed) in done:
                continue
            weights, about = trained(stack, name, seed, args.tokens)
            kinds = tuple(weights) if name == "base" else ("raw",)  # the averages are an ablation of the base alone
            described = stack.model_keys(name)
            rows = [scored(described, weights[kind], text, tokenizer, 256) for kind in kinds]
            with path.open("a", encoding="utf-8") as file:
                for kind, row in zip(kinds, rows, strict=True):
                    place = {"variant": name, "seed": seed, "weights": kind, "text_bytes": text.num_bytes}
                    file.write(json.dumps({**place, **row, **about}) + "\n")
            print(f"{name} seed {seed}: {rows[0]} {about['cpu_seconds']:.0f} s of CPU", flush=True)


def _spread(values: list[float], digits: int) -> str:
    std = f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{std}"


def table(variants: dict[str, Variant], rows: list[dict[str, Any]]) -> list[str]:
    """Markdown rows: means, sample standard deviations, and differences to the base seed by seed."""
    base = {row["seed"]: row for row in rows if row["variant"] == "base" and row["weights"] == "raw"}
    keys = [(name, kind) for name in variants for kind in (WEIGHTS if name == "base" else ("raw",))]
    keys.sort(key=lambda key: key[1] != "raw" and 1)  # the averages after what was trained
    out = [
        "| variant | seeds | float nats/token | sliding bpb, artifact | bpb against base | artifact bytes | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    labels = {"swa": "SWA on (mean of the base's snapshots)", "ema": "EMA on (of the base)"}
    for name, kind in keys:
        found = [row for row in rows if row["variant"] == name and row["weights"] == kind and row["seed"] in base]
        if not found:
            continue
        against = [row["sliding_bpb"] - base[row["seed"]]["sliding_bpb"] for row in found]
        change = "" if (name, kind) == ("base", "raw") else _spread(against, 4)
        sign = "+" if change and not change.startswith("-") else ""
        out.append(
            f"| {labels.get(kind, variants[name].label)} | {len(found)} "
            f"| {_spread([row['float_nats_per_token'] for row in found], 4)} "
            f"| {_spread([row['sliding_bpb'] for row in found], 4)} | {sign}{change} "
            f"| {statistics.fmean(row['artifact_bytes'] for row in found):,.0f} "
            f"| {statistics.fmean(row['cpu_seconds'] for row in found):.0f} |"
        )
    return out


def write_table(path: Path, stack: Stack, rows: list[dict[str, Any]], commit: str) -> None:
    """Replace what stands between the markers of ``path``; a new page gets them."""
    begin, end = "<!-- table:begin -->", "<!-- table:end -->"
    page = path.read_text(encoding="utf-8") if path.exists() else f"# Ablations\n\n{begin}\n{end}\n"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    base = next(row for row in rows if row["variant"] == "base")
    about = (
        f"{stack.train['iterations']} steps of {stack.train['tokens_per_step']:,} tokens, {base['parameters']:,} "
        f"parameters in the base, {base['text_bytes']:,} bytes of validation text, torch {torch.__version__}, "
        f"commit {commit}."
    )
    write_text(path, before + "\n".join([begin, about, "", *table(stack.variants, rows), end]) + after)


def main() -> None:
    """Measure what is missing, then print (and write) the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, help="artifacts/tokens of the default corpus; without it only the table")
    parser.add_argument("--work", type=Path, required=True, help="folder of results.jsonl")
    parser.add_argument("--table", type=Path, help="Markdown page whose table is replaced")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=50_000, help="bytes of validation text at most")
    parser.add_argument("--stack", choices=list(STACKS), default="recipe")
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, help="another number of steps (a trial)")
    args = parser.parse_args()
    stack = STACKS[args.stack]
    if args.steps:
        stack.train["iterations"] = args.steps
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    results, stamp = args.work / "results.jsonl", args.work / "commit.txt"
    if args.tokens is not None:
        if not stamp.exists():
            head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
            stamp.write_text(head.stdout, encoding="utf-8")
        measure(stack, args, results)
    rows = read_results(results)
    print("\n".join(table(stack.variants, rows)))
    if args.table is not None:
        write_table(args.table, stack, rows, stamp.read_text(encoding="utf-8").strip())


if __name__ == "__main__":
    main()
