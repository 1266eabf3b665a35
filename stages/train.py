"""Stage 2: token shards to trained weights, snapshots, history and event ledger.

Environment: GOLF_DEVICE (cpu, cuda), GOLF_CKPT_DIR (checkpoints, default .ckpt), OMP_NUM_THREADS, and GOLF_TORCHRUN,
the options of the torchrun that this stage becomes (``--standalone --nproc-per-node=2``); without it one process per
visible GPU, where there are several. Under torchrun every process trains its share of the global batch. Several
machines: docs/training.md.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf.base.code import Code
from golf.base.distributed import PeerLostError, ReplicaError, gpus_to_share, joined, place, torchrun
from golf.base.errors import GolfError
from golf.base.files import sha256_file, write_json
from golf.base.main import run_stage
from golf.base.params import load_section, read_params

if TYPE_CHECKING:
    from golf.models.configs.families import ModelConfig
    from golf.training.config import TrainConfig
    from golf.training.loop import Trainer
    from golf.training.outputs import TrainResult
    from golf.training.plan import Machine, Plan

_GRACE_SECONDS = 60  # a process of several that has not stopped so long after a signal waits for a lost one
_NOT_OF_THE_RUN = ("allow_slow", "checkpoint_seconds", "log_seconds", "live")  # they do not change the weights


def main(params: Path, root: Path) -> int:
    """Train with the sections `model` and `train`; resume from the newest checkpoint of the same run."""
    parent = os.getppid()
    from golf.training.config import TrainConfig
    from golf.training.signals import end_with_parent

    load_section(params, "train", TrainConfig)  # a typo must not wait for torch or for other processes
    end_with_parent(parent)
    launch = _launch(os.environ)
    if launch is not None:
        os.execv(sys.executable, [sys.executable, *launch, *sys.argv[1:]])
    return run(params, root)


def _launch(environment: Mapping[str, str]) -> list[str] | None:
    """Arguments of Python that start torchrun in this process's place; ``None`` where it is not expected (any more)."""
    if "RANK" in environment:
        return None
    options = environment.get("GOLF_TORCHRUN")
    if options is None and (devices := gpus_to_share(environment)):
        options = f"--standalone --nproc-per-node={devices}"
    return torchrun(options, "stages.train") if options else None


def run(params: Path, root: Path) -> int:
    """Read, plan, train, write, compare with the plan."""
    from golf.training.config import TrainConfig, check_qat

    config = load_section(params, "train", TrainConfig)
    check_qat(config.qat, read_params(params).get("quantize") or {})

    import torch

    from golf.data.shards import open_split
    from golf.models.registry import build_model, config_from_dict, config_to_dict
    from golf.training.checkpoint import open_checkpoints
    from golf.training.loop import DivergedError, MemoryShortError, Trainer
    from golf.training.outputs import live_sink
    from golf.training.ready import SlowRunError, describe
    from golf.training.signals import TrainingInterrupted, stop_on_signals

    rank, world, device = place(os.environ)
    say = _say if rank == 0 else _silent
    with _one_message(rank, GolfError):
        model_config = config_from_dict(read_params(params).get("model"), where=f"{params}: model")
        split = open_split(root / "artifacts/tokens/train")
        torch.manual_seed(config.seed)
        model = build_model(model_config, split.vocab_size)
        planned, machines = _plan(config, model_config, split.vocab_size, device, world)
    described = config_to_dict(model_config)
    meta = {"model": described, "vocab_size": split.vocab_size, "sequence_length": config.sequence_length}
    with (
        _one_message(rank, PeerLostError, ReplicaError, DivergedError, MemoryShortError, SlowRunError),
        stop_on_signals(grace_seconds=_GRACE_SECONDS if world > 1 else 0) as stop,
        joined(rank, world, torch.device(device)) as group,
    ):
        key = group.share_hex(_run_key(config, described, root) if rank == 0 else "0" * 64)
        folder = Path(os.environ.get("GOLF_CKPT_DIR") or root / ".ckpt") / key
        with (
            open_checkpoints(folder, writer=rank == 0) as checkpoints,
            live_sink(root / "dvclive", enabled=config.live and rank == 0) as sink,
        ):
            trainer = Trainer(
                model, config, source=split, checkpoints=checkpoints, base_meta=meta, device=device, group=group,
                stop=stop, log=say, sink=sink, slowest=machines[0] if machines else None,
            )  # fmt: skip
            for line in planned.lines() + _warnings(config, params) + describe(trainer):
                say(line)
            try:
                result = trainer.run()
            except TrainingInterrupted as interrupted:
                say(f"train: {interrupted}")
                return interrupted.exit_code
            if rank == 0:
                _write(root, trainer, result, planned)
    for line in result.summary():
        say(line)
    return 0


@contextmanager
def _one_message(rank: int, *kinds: type[Exception]) -> Iterator[None]:
    """What every process of a group finds alike, only rank 0 tells; the others leave in silence with exit code 1."""
    try:
        yield
    except kinds as error:
        if rank == 0:
            raise
        raise SystemExit(1) from error


def _plan(
    config: TrainConfig, model: ModelConfig, vocab_size: int, device: str, world: int
) -> tuple[Plan, tuple[Machine, ...]]:
    """The plan and, when GPUs train against a clock, the machines (slowest first) that it is made for.

    ``PlanError`` when it is refused.
    """
    from golf.models.configs.families import max_depth
    from golf.training.plan import credible_machines, plan

    config.check_world(world)
    full = max_depth(model)
    machines = credible_machines(
        model, vocab_size, config.depths(full), tokens_per_step=config.tokens_per_step,
        sequence_length=config.attention_length, world=world,
    )  # fmt: skip
    machines = machines if device.startswith("cuda") and config.budget_seconds > 0 else ()
    return plan(config.schedule(full), machines), machines


def _warnings(config: TrainConfig, params: Path) -> list[str]:
    """Where QAT prepares for other steps than `quantize` will use; no output depends on that section."""
    from golf.training.config import qat_differences

    return [f"warning: {text}" for text in qat_differences(config.qat, read_params(params).get("quantize") or {})]


def _run_key(config: TrainConfig, model: dict[str, Any], root: Path) -> str:
    """Name of the run's checkpoints: parameters, model, tokens and code that determine the weights."""
    from golf.training.checkpoint import run_key

    repository = Path(__file__).resolve().parent.parent
    shards = sorted((root / "artifacts/tokens/train").glob("*.safetensors"))
    return run_key(
        {
            "train": {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_OF_THE_RUN},
            "model": model,
            "tokens": {path.name: sha256_file(path) for path in shards},
            "code": Code(repository, [model["family"]]).fingerprint("stages.train"),
        }
    )


def _write(root: Path, trainer: Trainer, result: TrainResult, planned: Plan) -> None:
    """Outputs first, so that a run which broke its plan keeps its weights; the checkpoints go last."""
    from golf.training.ledger import check_ledger
    from golf.training.outputs import write_outputs

    write_outputs(root / "artifacts/train", result.state, trainer.checkpoints, result.ledger, trainer.base_meta)
    check_ledger(result.ledger, planned, timed=trainer.config.budget_seconds > 0)
    metrics, timing = result.metrics()
    write_json(root / "metrics/train.json", metrics)
    write_json(root / "metrics/train_timing.json", timing)
    trainer.checkpoints.remove()


def _silent(line: str) -> None:
    """The run log is written by rank 0."""


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run_stage(main, description=__doc__)
