"""The training runs of `benchmarks.gdn_experiment`: small models of every family, and what runs share of each other."""

from __future__ import annotations

import functools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from golf.base.params import from_dict
from golf.cli.params import compose
from golf.data.shards import open_split
from golf.models.registry import build_model, config_from_dict
from golf.training.checkpoint import open_checkpoints
from golf.training.config import TrainConfig
from golf.training.loop import Trainer
from golf.training.outputs import write_outputs
from golf.training.signals import StopFlag, TrainingInterrupted

CLIP = 12.85
COMMON = ["train.tokens_per_step=1024", "train.micro_batch_tokens=1024", "train.warmdown_shape=cosine"]
COMMON += [
    "train.qat.below=0.0",
    "train.warmdown=0.4",
    "train.snapshot_every=0.01",
    "train.snapshot_below=0.2",
    "train.precision=fp32",
]
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


@dataclass(frozen=True)
class Runs:
    """Runs below ``work``, on the training split of ``tokens``."""

    tokens: Path
    work: Path

    def folder(self, family: str, name: str, seed: int, steps: int) -> Path:
        """The folder of run ``name``, trained now if it is not there."""
        folder = self.work / f"runs/{family}-{name}-{seed}-{steps}"
        if (folder / "ledger.json").exists():
            return folder
        values = parameters(family, (*RUNS[name], f"train.iterations={steps}", f"train.seed={seed}"))
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
