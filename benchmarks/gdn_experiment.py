"""Does each part of the GDN-Hybrid recipe pay, and does the family? Equal steps, several seeds, real artifacts.

    python benchmarks/gdn_experiment.py --tokens artifacts/tokens --work /tmp/gdn [--seeds 1,2,3] [--minutes 50]

Parts (`--parts`), every number the round trip of a packed and decoded artifact in canonical bits per byte:
`ablation`: nothing, warmdown, + SWA, + QAT, + both, + GPTQ at equal steps. SWA and GPTQ need no training of their own,
so three runs a seed serve all rows, and these share what is the same in them: the warmdown goes on from the checkpoint
of the constant run at 60 % of the steps, QAT from the warmdown's at 89 %, bit for bit as if each had run alone. QAT
rounds to the grid of `sdclip`, the method of every row without GPTQ.
`families`: GDN-Hybrid, flat and depth-recurrent at equal artifact bytes (the clip is searched) and equal training time
(CPU seconds of a step measured first, side by side, and the steps chosen for it).
`quantizers`: RTN, GPTQ-lite, SDClip and GPTQ with its options at equal artifact bytes: weight error, KL, bits per byte.
Runs and rows that are there already are kept, so the command may be repeated after an interruption.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf.calibrate import CalibrateConfig, calibrate, calibration_windows
from golf.cli.params import compose
from golf.container.write import pack
from golf.decode import decode_artifact
from golf.files import read_meta, write_json
from golf.models.registry import build_model, config_from_dict
from golf.optim.groups import OptimiserConfig, Optimisers
from golf.params import from_dict
from golf.quantize.pipeline import QuantizeConfig, quantize_model
from golf.scoring.roundtrip import RoundtripConfig, score_roundtrip
from golf.scoring.text import ValidationText
from golf.tokens.shards import load_split, open_split
from golf.training.average import average_weights, load_model
from golf.training.checkpoint import open_checkpoints
from golf.training.config import TrainConfig
from golf.training.loop import Trainer
from golf.training.outputs import write_outputs
from golf.training.signals import StopFlag, TrainingInterrupted

CLIP = 12.85
COMMON = ["train.tokens_per_step=1024", "train.micro_batch_tokens=1024", "train.warmdown_shape=cosine"]
COMMON += ["train.warmdown=0.4", "train.snapshot_every=0.01", "train.snapshot_below=0.2", "train.precision=fp32"]
SMALL = ["model.width=96", "model.heads=3", "model.kv_heads=1"]
HYBRID = ["model.layout=gdn_swa_gdn_swa_shared", "model.delta_heads=3", "model.hash_rows=1024", "model.hash_width=32"]
FAMILIES = {  # preset, model, overrides: some 0.45 to 0.5 M weights each
    "gdn_hybrid": ("gdn_hybrid_cpu_small", "gdn_hybrid_small", HYBRID),
    "transformer": ("cpu_small", "transformer_small", ["model.layers=5", "train.depth_phases=[]"]),
    "depth_recurrent": ("cpu_small", "depth_recurrent_small", ["model.value_tables=1"]),
}
RUNS = {
    "constant": ["train.warmdown=0.0"],
    "warmdown": [],
    "warmdown_qat": ["train.qat.below=0.15", f"train.qat.clip={CLIP}"],
}
GOES_ON = {"constant": ("warmdown", 0.6), "warmdown": ("warmdown_qat", 0.89)}  # equal up to this share of the steps
ABLATION = {  # row: run, weights, method
    "nothing": ("constant", "raw", "sdclip"),
    "nothing, moving average": ("constant", "ema", "sdclip"),
    "warmdown": ("warmdown", "raw", "sdclip"),
    "warmdown + SWA": ("warmdown", "mean", "sdclip"),
    "warmdown + QAT": ("warmdown_qat", "raw", "sdclip"),
    "warmdown + both": ("warmdown_qat", "mean", "sdclip"),
    "warmdown + both + GPTQ": ("warmdown_qat", "mean", "gptq"),
    "warmdown + SWA + GPTQ": ("warmdown", "mean", "gptq"),
    "warmdown + GPTQ": ("warmdown", "raw", "gptq"),
}
QUANTIZERS = {  # row: overrides; the first sets the bytes that the others meet
    "GPTQ-lite": ["quantize.method=gptq_lite"],
    "RTN (row maximum)": ["quantize.method=gptq_lite", "quantize.percentiles=[1.0]"],
    "RTN (SDClip)": ["quantize.method=sdclip"],
    "GPTQ, equal column steps": ["quantize.method=gptq", "quantize.gptq.column_exponent=0.0"],
    "GPTQ, equal column steps, act-order": [
        "quantize.method=gptq", "quantize.gptq.column_exponent=0.0", "quantize.gptq.act_order=true",
    ],
    "GPTQ": ["quantize.method=gptq"],
    "GPTQ + trellis": ["quantize.method=gptq_trellis"],
}  # fmt: skip


@functools.lru_cache(maxsize=64)
def parameters(family: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Composed parameters of a family's small model."""
    preset, model, own = FAMILIES[family]
    return compose(Path("conf"), preset=preset, model=model, overrides=[*COMMON, *SMALL, *own, *overrides])


class StopAt(StopFlag):
    """Ends a run after ``step`` updates, as SIGTERM would: with a checkpoint."""

    trainer: Trainer | None = None
    step = 0

    @property
    def signum(self) -> int:
        return int(self.trainer is not None and self.trainer.state.events.step == self.step)

    @signum.setter
    def signum(self, value: int) -> None:
        """No signal sets it."""


@dataclass
class Experiment:
    """Where things lie, and the rows found so far."""

    tokens: Path
    work: Path
    rows: list[dict[str, Any]]
    until: float
    text: ValidationText
    steps: int

    def row(self, make: Callable[[], dict[str, Any]], **key: Any) -> None:
        """Add ``make()`` under ``key`` unless it is there or the time is up; every row is on disk at once."""
        if any(key.items() <= row.items() for row in self.rows) or time.monotonic() > self.until:
            return
        began = time.process_time()
        row = {**key, **make(), "cpu_seconds": round(time.process_time() - began, 1)}
        self.rows.append(row)
        write_json(self.work / "results.json", self.rows)
        print(json.dumps(row), flush=True)

    def trained(self, family: str, name: str, seed: int, steps: int, overrides: Sequence[str]) -> Path:
        """The folder of a training run, trained now if it is not there."""
        folder = self.work / f"runs/{family}-{name}-{seed}-{steps}"
        if (folder / "ledger.json").exists():
            return folder
        values = parameters(family, (*overrides, f"train.iterations={steps}", f"train.seed={seed}"))
        config = from_dict(TrainConfig, values["train"])
        source = open_split(self.tokens / "train")
        meta = {"model": values["model"], "vocab_size": source.vocab_size, "sequence_length": config.sequence_length}
        stop, began, result = StopAt(), time.process_time(), None
        here = self.work / f"checkpoints/{folder.name}"
        child, share = GOES_ON.get(name, ("", 0.0)) if family == "gdn_hybrid" else ("", 0.0)
        heir = self.work / f"checkpoints/{family}-{child}-{seed}-{steps}"
        with open_checkpoints(here) as checkpoints:
            for last in [round(share * steps), steps] if child and not heir.exists() else [steps]:
                torch.manual_seed(seed)
                model = build_model(config_from_dict(values["model"]), source.vocab_size)
                stop.trainer = trainer = Trainer(
                    model, config, source=source, checkpoints=checkpoints, base_meta=meta, log=lambda _: None, stop=stop
                )
                stop.step = last
                try:
                    result = trainer.run()
                except TrainingInterrupted:
                    shutil.copytree(here, heir, ignore=shutil.ignore_patterns("lock"))
            assert result is not None
            write_outputs(folder, result.state, checkpoints, {**result.ledger}, meta)
            checkpoints.remove()
        print(f"{folder.name}: {time.process_time() - began:.0f} CPU s, loss {result.final_loss:.4f}", flush=True)
        return folder


@dataclass(eq=False)  # hashable, for the cache below
class Subject:
    """Float weights and what was measured of them."""

    state: dict[str, np.ndarray]
    meta: dict[str, Any]
    experiment: Experiment

    @classmethod
    def read(cls, folder: Path, kind: str, experiment: Experiment) -> Subject:
        """Weights of ``kind`` (raw, mean, ema) of a training run."""
        meta = read_meta(folder / "final.safetensors", made_by="this experiment")
        return cls({n: t.numpy() for n, t in average_weights(folder, kind).items()}, meta, experiment)

    def model(self) -> Any:
        return load_model(self.meta, {name: torch.from_numpy(array) for name, array in self.state.items()})

    @functools.lru_cache(maxsize=8)  # noqa: B019 (a handful of subjects)
    def hessians(self, section: str) -> dict[str, Any]:
        config = from_dict(CalibrateConfig, json.loads(section))
        windows = calibration_windows(open_split(self.experiment.tokens / "train"), config)
        found = calibrate(self.model(), windows, config)
        return {**found.hessians, **dict.fromkeys(found.without)}

    def artifact(self, values: dict[str, Any], **changes: Any) -> tuple[bytes, Any]:
        """The packed artifact and the numbers of its quantization, with ``changes`` in the section `quantize`."""
        config = from_dict(QuantizeConfig, {**values["quantize"], **changes})
        hessians = self.hessians(json.dumps(values["calibrate"])) if config.needs_hessians else None
        result = quantize_model(self.state, self.model(), config, meta=self.meta, hessians=hessians)
        return pack(result.model, (self.experiment.tokens / "tokenizer.model").read_bytes()), result

    def at_bytes(self, values: dict[str, Any], target: int) -> tuple[bytes, Any, dict[str, Any]]:
        """As ``artifact``, within 0.3 % of ``target`` bytes where the knob is fine enough, and the knob's setting."""
        if values["quantize"]["method"] == "gptq_lite":
            tried = [(*self.artifact(values, **_levels(most)), _levels(most)) for most in range(7, 40, 2)]
            return min(tried, key=lambda found: abs(len(found[0]) - target))
        low, high = 1.0, 64.0
        for _ in range(12):
            changes = {"clip": (low * high) ** 0.5}
            data, result = self.artifact(values, **changes)
            if abs(len(data) / target - 1) < 0.003:
                break
            low, high = (changes["clip"], high) if len(data) > target else (low, changes["clip"])
        return data, result, changes

    def score(self, model: Any) -> float:
        return score_roundtrip(model, self.experiment.text, RoundtripConfig(256, 8, "fp32")).bits_per_byte

    @torch.no_grad()
    def divergence(self, model: Any) -> float:
        """KL from the float model, nats per token, on held-out text."""
        tokens = load_split(self.experiment.tokens / "holdout").tokens[: 32 * 256].astype(np.int64)
        total, exact = 0.0, self.model()
        for ids in torch.from_numpy(tokens).view(-1, 256).split(4):
            p, q = (torch.log_softmax(m.logits(m.hidden(ids)), -1) for m in (exact, model))
            total += float((p.exp() * (p - q)).sum())
        return total / len(tokens)


def _levels(most: int) -> dict[str, Any]:
    return {"levels": dict.fromkeys(("embedding", "attention", "mlp"), most)}


def ablation(experiment: Experiment, seed: int) -> None:
    """Rows of one seed."""
    for name, (run, kind, method) in ABLATION.items():

        def make(run: str = run, kind: str = kind, method: str = method) -> dict[str, Any]:
            subject = Subject.read(
                experiment.trained("gdn_hybrid", run, seed, experiment.steps, RUNS[run]), kind, experiment
            )
            data, _ = subject.artifact(parameters("gdn_hybrid", (f"quantize.method={method}",)), clip=CLIP)
            coded = subject.score(decode_artifact(data).model)
            return {"artifact_bytes": len(data), "bpb": coded, "float_bpb": subject.score(subject.model())}

        experiment.row(make, part="ablation", row=name, seed=seed)


def step_milliseconds(family: str, vocab_size: int) -> dict[str, Any]:
    """CPU milliseconds of an update at each depth, best of 5, and their mean over the depth phases."""
    values = parameters(family, ())
    model = build_model(config_from_dict(values["model"]), vocab_size)
    optimisers = Optimisers(model, OptimiserConfig(0.02, 0.02, 0.02))
    ids = torch.randint(vocab_size, (4, 257), generator=torch.Generator().manual_seed(0))
    mean = begin = 0.0
    for until, depth in values["train"]["depth_phases"] or [[1.0, 1]]:
        model.set_depth(depth)
        times = []
        for _ in range(6):
            start = time.process_time()
            model.loss(ids[:, :-1], ids[:, 1:]).backward()
            for parameter in model.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            optimisers.step()
            optimisers.zero_grad()
            times.append(1000 * (time.process_time() - start))
        mean, begin = mean + (until - begin) * min(times[1:]), until
    return {"step_ms": mean, "parameters": model.num_parameters()}


def families(experiment: Experiment, seed: int) -> None:
    """Rows of one seed; the hybrid's run is that of the ablation."""
    for family in FAMILIES:
        experiment.row(
            functools.partial(step_milliseconds, family, experiment.text.vocab_size), part="speed", family=family
        )
    cost = {row["family"]: row["step_ms"] for row in experiment.rows if row["part"] == "speed"}
    target = next((r["artifact_bytes"] for r in experiment.rows if r.get("row") == "warmdown + GPTQ"), None)
    if len(cost) < len(FAMILIES) or target is None:
        return
    for family in FAMILIES:

        def make(family: str = family) -> dict[str, Any]:
            steps = round(experiment.steps * cost["gdn_hybrid"] / cost[family])
            folder = experiment.trained(family, "warmdown", seed, steps, [])
            subject = Subject.read(folder, "raw", experiment)
            data, _, knob = subject.at_bytes(parameters(family, ("quantize.method=gptq",)), target)
            coded, exact = subject.score(decode_artifact(data).model), subject.score(subject.model())
            return {"artifact_bytes": len(data), "bpb": coded, "float_bpb": exact, "steps": steps, **knob}

        experiment.row(make, part="families", row=family, seed=seed)


def quantizers(experiment: Experiment, seed: int) -> None:
    """Rows of one seed, on the hybrid trained with warmdown, no QAT and no averaging."""
    subject = Subject.read(
        experiment.trained("gdn_hybrid", "warmdown", seed, experiment.steps, []), "raw", experiment
    )
    for name, overrides in QUANTIZERS.items():
        values = parameters("gdn_hybrid", tuple(overrides))

        def make(name: str = name, values: dict[str, Any] = values) -> dict[str, Any]:
            lite = [r for r in experiment.rows if r["part"] == "quantizers" and r["seed"] == seed]
            if name == "GPTQ-lite":
                data, result = subject.artifact(values, **_levels(15))
                knob: dict[str, Any] = _levels(15)
            else:
                data, result, knob = subject.at_bytes(values, lite[0]["artifact_bytes"])
            model = decode_artifact(data).model
            error = result.metrics["quantized_relative_error"]
            found = {"bpb": subject.score(model), "kl": subject.divergence(model), "weight_error": error}
            return {"artifact_bytes": len(data), **found, **knob}

        experiment.row(make, part="quantizers", row=name, seed=seed)


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation (n - 1) over the seeds of every number."""
    out: list[str] = []
    for part, columns in (
        ("ablation", ("bpb", "float_bpb", "artifact_bytes")),
        ("families", ("bpb", "float_bpb", "artifact_bytes", "steps")),
        ("quantizers", ("bpb", "kl", "weight_error", "artifact_bytes")),
    ):
        chosen = [row for row in rows if row["part"] == part]
        out += [f"| {part} | n | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
        for name in dict.fromkeys(row["row"] for row in chosen):
            of_row = [row for row in chosen if row["row"] == name]
            cells = [_mean([row[column] for row in of_row]) for column in columns]
            out.append(f"| {name} | {len(of_row)} | " + " | ".join(cells) + " |")
        out.append("")
    return "\n".join(out)


def _mean(values: list[float]) -> str:
    if min(values) > 100:
        return f"{statistics.mean(values):,.0f}"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def validation_head(folder: Path, most_bytes: int) -> ValidationText:
    """Whole documents from the head of the validation split, ``most_bytes`` of text or a little more."""
    split = load_split(folder)
    documents = min(len(split.doc_bytes), int(np.searchsorted(np.cumsum(split.doc_bytes), most_bytes)) + 1)
    ends = np.append(split.doc_starts[1:], len(split.tokens))
    tokens = split.tokens[: ends[documents - 1]].astype(np.int64)
    return ValidationText(tokens, split.doc_starts[:documents], split.doc_bytes[:documents], split.vocab_size)


def main() -> None:
    """Run the parts seed by seed, so that an interruption leaves whole seeds; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, default=Path("artifacts/tokens"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--parts", default="ablation,families,quantizers")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--steps", type=int, default=400, help="updates of a run of the hybrid")
    parser.add_argument("--bytes", type=int, default=100_000, help="bytes of validation text scored")
    parser.add_argument("--minutes", type=float, default=1e6, help="start nothing new after this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = args.work / "results.json"
    rows = json.loads(results.read_text()) if results.exists() else []
    text = validation_head(args.tokens / "val", args.bytes)
    until = time.monotonic() + 60 * args.minutes
    experiment = Experiment(args.tokens, args.work, rows, until, text, args.steps)
    known = {"ablation": ablation, "families": families, "quantizers": quantizers}
    for part in args.parts.split(","):
        for seed in map(int, args.seeds.split(",")):
            known[part](experiment, seed)
    print(f"{text.num_bytes:,} bytes of validation text, {args.steps} steps\n\n{tables(rows)}")


if __name__ == "__main__":
    main()
