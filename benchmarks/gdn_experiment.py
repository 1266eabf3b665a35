"""Does each part of the GDN-Hybrid recipe pay, and does the family? Equal steps, several seeds, real artifacts.

    python -m benchmarks.gdn_experiment --tokens artifacts/tokens --work /tmp/gdn [--seeds 1,2,3] [--minutes 50]

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
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gdn_runs import CLIP, FAMILIES, Runs, parameters
from golf.artifact.decode import decode_artifact
from golf.artifact.write import pack
from golf.base.files import read_meta, write_json
from golf.base.params import from_dict
from golf.data.shards import load_split, open_split
from golf.models.registry import build_model, config_from_dict
from golf.quantize.calibrate import CalibrateConfig, calibrate, calibration_windows, sampled_windows
from golf.quantize.pipeline import QuantizeConfig, Quantizer
from golf.scoring.network import iterate_rows, plan_roundtrip, score_rows
from golf.scoring.results import make_score
from golf.scoring.text import ValidationText
from golf.training.average import average_weights, load_model
from golf.training.optimizers import OptimizerConfig, Optimizers

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
    "GPTQ, own samples": ["quantize.method=gptq", "calibrate.source=samples"],
    "GPTQ + trellis": ["quantize.method=gptq_trellis"],
    "GPTQ + trellis, damping 0.1": ["quantize.method=gptq_trellis", "quantize.gptq.damping=0.1"],
}  # fmt: skip


@dataclass
class Experiment:
    """Where things lie, and the rows found so far; ``until`` in seconds of ``time.monotonic``."""

    tokens: Path
    work: Path
    rows: list[dict[str, Any]]
    until: float
    text: ValidationText
    steps: int

    @property
    def runs(self) -> Runs:
        """The training runs."""
        return Runs(self.tokens, self.work)

    def row(self, make: Callable[[], dict[str, Any]], **key: Any) -> None:
        """Add ``make()`` under ``key`` unless it is there or the time is up; every row is on disk at once."""
        if any(key.items() <= row.items() for row in self.rows) or time.monotonic() > self.until:
            return
        began = time.process_time()
        row = {**key, **make(), "cpu_seconds": round(time.process_time() - began, 1)}
        self.rows.append(row)
        write_json(self.work / "results.json", self.rows)
        print(json.dumps(row), flush=True)


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
    def calibrated(self, section: str) -> dict[str, Any]:
        """Hessians."""
        config, split = from_dict(CalibrateConfig, json.loads(section)), open_split(self.experiment.tokens / "train")
        own = config.source == "samples"
        model = self.model()
        windows = sampled_windows(model, config, bos_id=split.bos_id) if own else calibration_windows(split, config)
        found = calibrate(model, windows, config)
        return {**found.hessians, **dict.fromkeys(found.without)}

    def artifact(self, values: dict[str, Any], **changes: Any) -> tuple[bytes, Any]:
        """The packed artifact and the numbers of its quantization, with ``changes`` in the section `quantize`."""
        config = from_dict(QuantizeConfig, {**values["quantize"], **changes})
        needed = config.needs_hessians
        hessians = self.calibrated(json.dumps(values["calibrate"])) if needed else {}
        quantizer = Quantizer(self.state, self.model(), config, meta=self.meta, hessians=hessians)
        result = quantizer.run()
        return pack(result.model, (self.experiment.tokens / "tokenizer.model").read_bytes()), result

    def at_bytes(self, values: dict[str, Any], target: int) -> tuple[bytes, Any, dict[str, Any]]:
        """As ``artifact``, within 0.3 % of ``target`` bytes where the knob is fine enough, and the knob's setting."""
        if values["quantize"]["method"] == "gptq_lite":
            tried = [(*self.artifact(values, **_levels(most)), _levels(most)) for most in range(12, 18)]
            return min(tried, key=lambda found: abs(len(found[0]) - target))
        changes = {"clip": CLIP}
        for _ in range(8):
            data, result = self.artifact(values, **changes)
            if abs(len(data) / target - 1) < 0.003:
                break
            octaves = 8 * (len(data) - target) / result.metrics["quantized_weights"]  # a bit a weight each
            changes = {"clip": changes["clip"] * 2**octaves}
        return data, result, changes

    def score(self, model: Any) -> float:
        """Bits per byte in windows of 256 tokens that do not overlap."""
        text = self.experiment.text
        nats = score_rows(iterate_rows(model, text, plan_roundtrip(text.num_targets, 256), batch=8), text)
        return make_score("roundtrip", text, nats).bits_per_byte

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
            subject = Subject.read(experiment.runs.folder("gdn_hybrid", run, seed, experiment.steps), kind, experiment)
            data, _ = subject.artifact(parameters("gdn_hybrid", (f"quantize.method={method}",)), clip=CLIP)
            coded = subject.score(decode_artifact(data).model)
            return {"artifact_bytes": len(data), "bpb": coded, "float_bpb": subject.score(subject.model())}

        experiment.row(make, part="ablation", row=name, seed=seed)


def step_milliseconds(family: str, vocab_size: int) -> dict[str, Any]:
    """CPU milliseconds of an update at each depth, best of 5, and their mean over the depth phases."""
    values = parameters(family, ())
    model = build_model(config_from_dict(values["model"]), vocab_size)
    optimizers = Optimizers(model, OptimizerConfig(0.02, 0.02, 0.02))
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
            optimizers.step()
            optimizers.zero_grad()
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
            folder = experiment.runs.folder(family, "warmdown", seed, steps)
            subject = Subject.read(folder, "raw", experiment)
            data, _, knob = subject.at_bytes(parameters(family, ("quantize.method=gptq",)), target)
            coded, exact = subject.score(decode_artifact(data).model), subject.score(subject.model())
            return {"artifact_bytes": len(data), "bpb": coded, "float_bpb": exact, "steps": steps, **knob}

        experiment.row(make, part="families", row=family, seed=seed)


def quantizers(experiment: Experiment, seed: int) -> None:
    """Rows of one seed, on the hybrid trained with warmdown, no QAT and no averaging."""
    subject = Subject.read(experiment.runs.folder("gdn_hybrid", "warmdown", seed, experiment.steps), "raw", experiment)
    for name, overrides in QUANTIZERS.items():
        values = parameters("gdn_hybrid", tuple(overrides))

        def make(name: str = name, values: dict[str, Any] = values) -> dict[str, Any]:
            lite = [r for r in experiment.rows if r["part"] == "quantizers" and r["seed"] == seed]
            if name == "GPTQ-lite":
                knob: dict[str, Any] = _levels(15)
                data, result = subject.artifact(values, **knob)
            else:
                data, result, knob = subject.at_bytes(values, lite[0]["artifact_bytes"])
            model = decode_artifact(data).model
            found = {"bpb": subject.score(model), "kl": subject.divergence(model)}
            found |= {key: result.metrics[f"quantized_{key}"] for key in ("relative_error", "output_error")}
            return {"artifact_bytes": len(data), **found, **knob}

        experiment.row(make, part="quantizers", row=name, seed=seed)


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean and standard deviation (n - 1) over the seeds of every number."""
    out: list[str] = []
    for part, columns in (
        ("ablation", ("bpb", "float_bpb", "artifact_bytes")),
        ("families", ("bpb", "float_bpb", "artifact_bytes", "steps")),
        ("quantizers", ("bpb", "kl", "relative_error", "output_error", "artifact_bytes")),
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
    rows = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
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
