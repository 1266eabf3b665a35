"""`golf rehearse`: every branch of a preset in minutes, before the paid run.

The stages of dvc.yaml run one after another, as they are, in a folder of their own on a tiny synthetic corpus, with the
preset's model and triggers forced to act within a few steps: every depth, warmdown, snapshots, moving average and QAT;
training is stopped by SIGTERM after a few steps and continued from its checkpoint. On GPUs the preset's own sequence
and micro batch lengths are kept, so that memory is rehearsed too; a micro batch that does not fit is halved until it
does, and the rehearsal fails with the size that fits. Without a GPU a model too wide for a CPU is narrowed. What is
smaller than in the preset is printed first.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.cli.rehearsal import forced, smaller, synthetic_corpus
from golf.files import read_json, write_json

__all__ = ["HELP", "Branch", "add_arguments", "rehearse", "run", "stage_commands"]

HELP = "run every branch of a preset in minutes, with forced triggers, before the paid run"
_STOP_AFTER = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf rehearse`."""
    parser.add_argument("--preset", default="cpu_small", help="file in conf/preset (default: cpu_small)")
    parser.add_argument("--model", help="file in conf/model (default: the preset's)")
    parser.add_argument("--root", type=Path, help="folder to work in and keep (default: a temporary one)")
    parser.add_argument("--compile", action="store_true", help="compile on a CPU too (minutes); a GPU always does")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="single values, as in train.qat.below=0.2")


@dataclass(frozen=True)
class Branch:
    """One thing that must work: whether it did, what was seen, and the seconds it took."""

    name: str
    passed: bool
    seen: str
    seconds: float

    def line(self) -> str:
        """One line of the report."""
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name:<22} {self.seconds:6.1f} s  {self.seen}"


def run(args: argparse.Namespace) -> int:
    """Rehearse and report; exit code 1 when a branch failed."""
    from golf.cli.params import compose

    repository = Path.cwd()
    values = compose(repository / "conf", preset=args.preset, model=args.model, overrides=args.overrides)
    original, devices = values, _cuda_devices()
    values = forced(values, cuda=devices > 0, compiled=args.compile, devices=max(1, devices))
    for line in smaller(original, values):
        _say(line)
    if args.root is not None:
        branches = rehearse(values, repository, args.root, say=_say)
    else:
        with tempfile.TemporaryDirectory(prefix="golf-rehearsal-") as folder:
            branches = rehearse(values, repository, Path(folder), say=_say)
    failed = [branch.name for branch in branches if not branch.passed]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = f"{sum(branch.seconds for branch in branches):.0f} s, {used.ru_utime + used.ru_stime:.0f} CPU seconds"
    outcome = f"FAIL: {', '.join(failed)}" if failed else "PASS"
    _say(f"rehearsal of {args.preset}: {outcome}, {len(branches)} branches, {seconds}")
    return 1 if failed else 0


def _say(line: str) -> None:
    print(line, flush=True)


def _cuda_devices() -> int:
    import torch

    wanted = (os.environ.get("GOLF_DEVICE") or "cuda").startswith("cuda")
    return torch.cuda.device_count() if wanted and torch.cuda.is_available() else 0


def stage_commands(pipeline: Path) -> list[tuple[str, list[str]]]:
    """``(name, arguments of python)`` of every stage of dvc.yaml in its order, matrix stages expanded."""
    from ruamel.yaml import YAML

    commands = []
    for name, stage in YAML(typ="safe").load(pipeline.read_text())["stages"].items():
        if "matrix" not in stage:
            commands.append((name, shlex.split(stage["cmd"])[1:]))
            continue
        ((axis, values),) = stage["matrix"].items()
        for value in values:
            text = re.sub(rf"\$\{{item\.{axis}\}}", str(value), stage["cmd"])
            commands.append((f"{name} {value}", shlex.split(text)[1:]))
    return commands


def rehearse(values: dict[str, Any], repository: Path, root: Path, *, say: Callable[[str], None]) -> list[Branch]:
    """Run all stages of ``repository`` in ``root``; the first stage that fails ends the rehearsal."""
    root = root.resolve()
    synthetic_corpus(root / "corpus")
    values["tokenize"]["path"] = str(root / "corpus")
    write_json(root / "params.json", values)
    place = ["--params", str(root / "params.json"), "--root", str(root)]
    branches: list[Branch] = []

    def done(branch: Branch) -> bool:
        branches.append(branch)
        say(branch.line())
        return branch.passed

    for name, arguments in stage_commands(repository / "dvc.yaml"):
        command = [sys.executable, *arguments, *place]
        if name == "train":
            first, memory = _fitting(values, command, repository, root)
            if memory is not None:
                done(memory)  # a failure, and yet the rest is rehearsed
            passed = done(first)
            passed = passed and done(_finished("train, resumed", command, repository, root))
            if passed:
                outcomes = [done(branch) for branch in _training_branches(values, root)]  # all are told
                passed = all(outcomes)
        else:
            passed = done(_finished(name, command, repository, root))
        if not passed:
            break
    return branches


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "GOLF_CKPT_DIR": str(root / "ckpt")}


def _finished(name: str, command: list[str], repository: Path, root: Path) -> Branch:
    begin = time.monotonic()
    result = subprocess.run(command, cwd=repository, env=_environment(root), capture_output=True, text=True)
    told = (result.stderr.strip() or result.stdout) if result.returncode else result.stdout  # `verify` fails on stdout
    said = told.strip().splitlines()
    passed, seen = result.returncode == 0, said[-1] if said else ""
    if name == "train, resumed" and passed:
        resumed = [line for line in said if line.startswith("resuming after step")]
        passed, seen = bool(resumed), resumed[0] if resumed else "started again from step 0"
    return Branch(name, passed, seen[:100], time.monotonic() - begin)


def _fitting(
    values: dict[str, Any], command: list[str], repository: Path, root: Path
) -> tuple[Branch, Branch | None]:
    """``_stopped``, with the micro batch halved until it fits into memory, and what there is to say of that."""
    train = values["train"]
    wanted, length = train["micro_batch_tokens"], train["sequence_length"]
    while True:
        branch = _stopped(command, repository, root)
        micro = train["micro_batch_tokens"]
        if branch.passed or "out of memory" not in branch.seen or micro <= length:
            break
        train["micro_batch_tokens"] = max(length, micro // 2 // length * length)
        write_json(root / "params.json", values)
    if train["micro_batch_tokens"] == wanted:
        return branch, None
    seen = f"train.micro_batch_tokens {wanted} does not fit here, {train['micro_batch_tokens']} does: set it"
    return branch, Branch("memory", False, seen, 0.0)


def _stopped(command: list[str], repository: Path, root: Path) -> Branch:
    """Training that gets SIGTERM after a few steps must save, say so and leave with 143 (torchrun: with 1)."""
    begin = time.monotonic()
    process = subprocess.Popen(
        command, cwd=repository, env=_environment(root), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    lines: list[str] = []
    asked = False  # a second SIGTERM would end it at once
    for line in process.stdout:
        lines.append(line.strip())
        if not asked and line.startswith(f"step {_STOP_AFTER}/"):
            process.send_signal(signal.SIGTERM)
            asked = True
    code = process.wait()
    said = [line for line in lines if "SIGTERM after step" in line]
    passed = code != 0 and bool(said) and any((root / "ckpt").glob("*/checkpoint.safetensors"))
    told = said or [line for line in lines if "out of memory" in line] or lines[-1:] or [""]
    return Branch("train, stopped", passed, told[0][:100], time.monotonic() - begin)


def _training_branches(values: Mapping[str, Any], root: Path) -> list[Branch]:
    """What the ledger says of each system."""
    ledger = read_json(root / "artifacts/train/ledger.json", made_by="`python -m stages.train`")
    wanted = [depth for _, depth in values["train"]["depth_phases"]] or [ledger["depth_phases"][-1][1]]
    depths = [depth for _, depth in ledger["depth_phases"]]
    qat = ledger.get("qat", {"fake_quantisations": {}, "share_of_quantised_weights": 0.0})
    multiplier, share = ledger["lr_multiplier_last"], qat["share_of_quantised_weights"]
    updates = sum(qat["fake_quantisations"].values())
    branches = [
        Branch("depths", depths == wanted, f"{depths}, wanted {wanted}", 0.0),
        Branch("warmdown", multiplier < 0.5, f"last multiplier {multiplier:.3f}", 0.0),
        Branch("snapshots", len(ledger["snapshot_steps"]) >= 2, f"after steps {ledger['snapshot_steps']}", 0.0),
        Branch("moving average", ledger["ema_updates"] == ledger["steps"], f"{ledger['ema_updates']} updates", 0.0),
    ]
    if values["train"]["qat"]["below"] > 0:
        branches.append(Branch("QAT", share == 1.0, f"{updates} fake quantizations, {share:.0%} of the weights", 0.0))
    return branches
