"""What the saved bytes buy: recurrent models that fill one cap of artifact bytes, by GPTQ-lite int6 and by our stack.

    python -m benchmarks.fixed_cap --tokens artifacts/tokens --work /tmp/golf-fixed-cap

Runs: `narrow`, as wide as GPTQ-lite int6 with order-0 rANS fits under the cap; `wide`, as wide as GPTQ with trellis,
column steps, rows by damage and the split by tensor fits at a little over 3 bits a weight; `wide_time`, the wide
model with fewer steps, so that it takes the processor time of `narrow`. All else is that of `benchmarks.ablations`;
runs of one seed see the same batches. The narrow weights are coded both ways, which shows what precision alone brings.
Our stack is fitted to the very bytes that GPTQ-lite takes in that seed. A size is that of the whole artifact, tokenizer
included, decoder not (it is the same for all). Scores: sliding bits per byte of the decoded artifact. Weights are kept
in WORK, rows appended to WORK/results.jsonl; a restart goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ablations import MODEL, TRAIN, Stack, Variant, read_results, trained, validation_text
from benchmarks.sections import quantize_section
from golf.artifact.decode import decode_artifact
from golf.artifact.ship import CompressConfig
from golf.artifact.write import pack
from golf.base import files
from golf.data.shards import SplitReader, open_split
from golf.models.registry import build_model, config_from_dict
from golf.quantize.calibrate import CalibrateConfig, Divergence, calibrate, calibration_windows, training_windows
from golf.quantize.fit import fit_to_target
from golf.quantize.pipeline import Quantizer
from golf.quantize.sensitivity import row_sensitivities
from golf.quantize.tensors import QuantizedModel
from golf.scoring.modes import run_mode
from golf.scoring.network import SlidingConfig
from golf.scoring.text import ValidationText
from golf.training.optimizers import OptimizerConfig, Optimizers

LITE = quantize_section("gptq_lite", 8.0)
STACK = quantize_section("gptq_trellis", 12.0, row_exponent=0.375)
CALIBRATE = CalibrateConfig(tokens=16384, window=256, source="train", sensitivity_tokens=0)
SLIDING = SlidingConfig(256, 128, 8, "fp32")
TITLES = {
    ("narrow", "lite"): "(a) narrow, GPTQ-lite int6",
    ("narrow", "stack"): "(a)'s weights, our stack",
    ("wide", "stack"): "(b) wide, our stack, equal tokens",
    ("wide_time", "stack"): "(b) wide, our stack, equal processor time",
}
BASE = ("narrow", "lite")


@dataclass(frozen=True)
class Bench:
    """Where things lie, the settings, and the text that is scored."""

    tokens: Path
    work: Path
    cap: int  # bytes of an artifact at most
    widths: dict[str, int]
    steps: int
    text: ValidationText
    tokenizer: bytes

    @property
    def results(self) -> Path:
        """Rows so far, one JSON object a line."""
        return self.work / "results.jsonl"

    def training(self) -> SplitReader:
        """The training split."""
        return open_split(self.tokens / "train")

    def packed(self, model: QuantizedModel, coder: str) -> bytes:
        """The artifact."""
        config = CompressConfig(coder, self.cap)  # type: ignore[arg-type]
        return pack(model, self.tokenizer, coders=config.coders, embedding_coders=config.embedding_coders)


def step_share(bench: Bench) -> float:
    """Processor time of a step of `narrow` over that of `wide`: best of 5 at each depth, side by side; kept in WORK."""
    path = bench.work / "step_share.json"
    if not path.exists():
        ids = torch.randint(bench.text.vocab_size, (8, 257), generator=torch.Generator().manual_seed(0))
        described = [{**MODEL, "width": bench.widths[run]} for run in ("narrow", "wide")]
        models = [build_model(config_from_dict(keys), bench.text.vocab_size) for keys in described]
        optimizers = [Optimizers(model, OptimizerConfig(0.02, 0.02, 0.02)) for model in models]
        means, begin = [0.0, 0.0], 0.0
        for until, depth in TRAIN["depth_phases"]:
            times: list[list[float]] = [[], []]
            for _ in range(6):
                for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                    model.set_depth(depth)
                    began = time.process_time()
                    model.loss(ids[:, :-1], ids[:, 1:]).backward()
                    for parameter in model.parameters():
                        if parameter.grad is None:  # of a repeat not yet in use
                            parameter.grad = torch.zeros_like(parameter)
                    optimizer.step()
                    optimizer.zero_grad()
                    times[place].append(time.process_time() - began)
            means = [mean + (until - begin) * min(found[1:]) for mean, found in zip(means, times, strict=True)]
            begin = until
        files.write_json(path, {"narrow_seconds": means[0], "wide_seconds": means[1]})
    found = json.loads(path.read_text(encoding="utf-8"))
    return float(found["narrow_seconds"] / found["wide_seconds"])


def weights_of(bench: Bench, run: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Float weights of ``run``, trained now if they are not there, and what is known of them."""
    path = bench.work / f"{run}-{seed}.safetensors"
    if not path.exists():
        steps = bench.steps
        if run == "wide_time":
            steps = round(steps * step_share(bench))
        model = {**MODEL, "width": bench.widths[run]}
        train = {"iterations": steps, "momentum_warmup_steps": steps // 4, "snapshot_below": 0.0}
        kinds, about = trained(Stack(model, TRAIN, {run: Variant(run, {}, train)}), run, seed, bench.tokens)
        arrays = {name: tensor.float().numpy() for name, tensor in kinds["raw"].items()}
        meta = {"model": model, "vocab_size": bench.text.vocab_size, "steps": steps, "parameters": about["parameters"]}
        files.save_numpy(path, arrays, {**meta, "train_cpu_seconds": round(about["cpu_seconds"], 1)})
    return files.load_numpy(path, made_by="this script")


def coded(bench: Bench, state: dict[str, np.ndarray], meta: dict[str, Any], target: int) -> tuple[bytes, Any]:
    """The artifact of ``state`` by our stack, fitted to ``target`` bytes, or (0) by GPTQ-lite int6; and metrics."""
    model = build_model(config_from_dict(meta["model"]), meta["vocab_size"]).eval()
    if not target:
        result = Quantizer(state, model, LITE, meta=meta).run()
        return bench.packed(result.model, "rans"), result.metrics
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    windows = calibration_windows(bench.training(), CALIBRATE)
    found, rows = calibrate(model, windows, CALIBRATE), row_sensitivities(model, windows)
    hessians = {**found.hessians, **dict.fromkeys(found.without)}
    quantizer = Quantizer(state, model, STACK, meta=meta, hessians=hessians, sensitivities=rows)
    damage = Divergence(model, state, training_windows(bench.training(), tokens=2048, window=256))
    size = lambda quantized: len(bench.packed(quantized, "smallest"))  # noqa: E731 (needs bench)
    fit = fit_to_target(quantizer, size=size, target=target, damage=damage)
    return bench.packed(fit.result.model, "smallest"), fit.result.metrics | fit.metrics


def row_of(bench: Bench, run: str, seed: int, coding: str) -> dict[str, Any]:
    """One measured row."""
    torch.set_num_threads(1)  # anew: numba's OpenMP layer sets its own number when a model is quantized
    state, meta = weights_of(bench, run, seed)
    known = {(row["run"], row["coding"], row["seed"]): row for row in read_results(bench.results)}
    target = known[*BASE, seed]["artifact_bytes"] if coding == "stack" else 0
    began = time.process_time()
    data, metrics = coded(bench, state, meta, target)
    seconds = time.process_time() - began
    if len(data) > bench.cap:
        raise ValueError(f"{run}, {coding}: {len(data)} bytes, above --cap {bench.cap}; lower its width")
    exact = build_model(config_from_dict(meta["model"]), meta["vocab_size"]).eval().requires_grad_(False)
    windows = training_windows(open_split(bench.tokens / "holdout"), tokens=8192, window=256)
    model = decode_artifact(data).model
    divergence = Divergence(exact, state, windows)({name: t.numpy() for name, t in model.state_dict().items()})
    exact.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return {
        "run": run, "seed": seed, "coding": coding, "cap": bench.cap, "width": meta["model"]["width"],
        "parameters": meta["parameters"], "steps": meta["steps"], "train_cpu_seconds": meta["train_cpu_seconds"],
        "coding_cpu_seconds": round(seconds, 1), "artifact_bytes": len(data),
        "bits_per_weight": metrics["quantized_bits_per_weight"], "kl": divergence,
        "float_bpb": run_mode("sliding", exact, bench.text, SLIDING).score.bits_per_byte,
        "sliding_bpb": run_mode("sliding", model, bench.text, SLIDING).score.bits_per_byte,
        "text_bytes": bench.text.num_bytes,
    }  # fmt: skip


def _mean(values: list[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):,.{digits}f}{spread}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: means over seeds, sample standard deviations, and differences to (a) seed by seed."""
    base = {row["seed"]: row["sliding_bpb"] for row in rows if (row["run"], row["coding"]) == BASE}
    out = [
        "| what | width | parameters | steps | train CPU s | bytes | bits/weight | KL | float bpb | sliding bpb | "
        "against (a) | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, title in TITLES.items():
        found = [row for row in rows if (row["run"], row["coding"]) == key and row["seed"] in base]
        if not found:
            continue
        first, means = found[0], {name: statistics.fmean(row[name] for row in found) for name in found[0] if name not in
                                  ("run", "coding")}  # fmt: skip
        away = [row["sliding_bpb"] - base[row["seed"]] for row in found]
        out.append(
            f"| {title} | {first['width']} | {first['parameters']:,} | {means['steps']:.0f} | "
            f"{means['train_cpu_seconds']:.0f} | {means['artifact_bytes']:,.0f} | {means['bits_per_weight']:.2f} | "
            f"{means['kl']:.4f} | {_mean([r['float_bpb'] for r in found], 4)} | "
            f"{_mean([r['sliding_bpb'] for r in found], 4)} | {'' if key == BASE else _mean(away, 4)} | {len(found)} |"
        )
    return out


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, help="artifacts/tokens of the default corpus")
    parser.add_argument("--work", type=Path, required=True, help="folder of weights and results.jsonl")
    parser.add_argument("--cap", type=int, default=300_000, help="bytes of an artifact at most")
    parser.add_argument("--narrow", type=int, default=92, help="width of (a)")
    parser.add_argument("--wide", type=int, default=144, help="width of (b)")
    parser.add_argument("--steps", type=int, default=240, help="steps of 2,048 tokens, of (a) and of (b) by tokens")
    parser.add_argument("--seeds", default="1,2", help="one after the other")
    parser.add_argument("--runs", default="narrow,wide,wide_time")
    parser.add_argument("--bytes", type=int, default=100_000, help="bytes of validation text at most")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    widths = {"narrow": args.narrow, "wide": args.wide, "wide_time": args.wide}
    text, tokenizer = validation_text(args.tokens, args.bytes), (args.tokens / "tokenizer.model").read_bytes()
    bench = Bench(args.tokens, args.work, args.cap, widths, args.steps, text, tokenizer)
    short = {**TRAIN, "iterations": 2, "momentum_warmup_steps": 0}
    trained(Stack({**MODEL, "width": 16}, short, {"warm-up": Variant("warm-up")}), "warm-up", 0, args.tokens)
    for seed in map(int, args.seeds.split(",")):
        for run, coding in TITLES:
            done = {(row["run"], row["coding"], row["seed"]) for row in read_results(bench.results)}
            if run in args.runs.split(",") and (run, coding, seed) not in done:
                row = row_of(bench, run, seed, coding)
                with bench.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    print(f"{TRAIN['tokens_per_step']:,} tokens a step, cap {args.cap:,} bytes\n")
    print("\n".join(table(read_results(bench.results))))


if __name__ == "__main__":
    main()
