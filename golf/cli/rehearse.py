"""`golf rehearse`: every branch of a preset in minutes, before the paid run.

The stages of dvc.yaml run one after another, as they are, in a folder of their own on a tiny synthetic corpus, with the
preset's model and triggers forced to act within a few steps: every depth, warmdown, snapshots, moving average and QAT;
training is stopped by SIGTERM after a few steps and continued from its checkpoint. On GPUs the preset's own sequence
and micro batch lengths are kept, so that memory is rehearsed too; a micro batch that does not fit is halved until it
does, and the rehearsal fails with the size that fits. What carries no branch (corpus, number of steps, text scored) is
small on every machine. Without a GPU a model too wide for a CPU is narrowed, its blocks, repeats, heads and layout
kept, and sequences and samples are short. What is smaller than in the preset is printed first.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from golf.base.files import read_json, scratch_directory, write_json, write_text

__all__ = ["Branch", "add_arguments", "forced", "rehearse", "run", "smaller", "stage_commands", "synthetic_corpus"]

_STOP_AFTER = 3
_say = functools.partial(print, flush=True)
_VOCAB, _CPU_SEQUENCE, _CPU_PROVED, _CPU_CHOICES = 400, 64, 512, 32
_TRIGGERS = MappingProxyType(
    {"budget_seconds": 0.0, "warmdown": 0.6, "snapshot_every": 0.1, "snapshot_below": 0.9, "ema_decay": 0.9}
)
_CPU_WIDTH = 192  # the models made for CPUs have no more
_NARROW = MappingProxyType(  # at most, of any wider model
    {"width": 96, "rope_dims": 4, "delta_key_dim": 16, "delta_value_dim": 16, "hash_rows": 512, "hash_width": 16}
)


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
        with scratch_directory("golf-rehearsal") as folder:
            branches = rehearse(values, repository, folder, say=_say)
    failed = [branch.name for branch in branches if not branch.passed]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = f"{sum(branch.seconds for branch in branches):.0f} s, {used.ru_utime + used.ru_stime:.0f} CPU seconds"
    outcome = f"FAIL: {', '.join(failed)}" if failed else "PASS"
    _say(f"rehearsal of {args.preset}: {outcome}, {len(branches)} branches, {seconds}")
    return 1 if failed else 0


def _cuda_devices() -> int:
    import torch

    wanted = (os.environ.get("GOLF_DEVICE") or "cuda").startswith("cuda")
    return torch.cuda.device_count() if wanted and torch.cuda.is_available() else 0


def stage_commands(pipeline: Path) -> list[tuple[str, list[str]]]:
    """``(name, arguments of python)`` of every stage of dvc.yaml in its order, matrix stages expanded."""
    from ruamel.yaml import YAML

    commands = []
    for name, stage in YAML(typ="safe").load(pipeline.read_text(encoding="utf-8"))["stages"].items():
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
    synthetic_corpus(root / "corpus", documents=max(300, values["train"]["sequence_length"] // 60))  # a row or more
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


def _finished(name: str, command: list[str], repository: Path, root: Path) -> Branch:
    environment, begin = {**os.environ, "GOLF_CKPT_DIR": str(root / "ckpt")}, time.monotonic()
    result = subprocess.run(command, cwd=repository, env=environment, capture_output=True, encoding="utf-8")
    told = (result.stderr.strip() or result.stdout) if result.returncode else result.stdout  # `verify` fails on stdout
    said = told.strip().splitlines()
    passed, seen = result.returncode == 0, said[-1] if said else ""
    if name == "train, resumed" and passed:
        resumed = [line for line in said if line.startswith("resuming after step")]
        passed, seen = bool(resumed), resumed[0] if resumed else "started again from step 0"
    return Branch(name, passed, seen[:100], time.monotonic() - begin)


def _fitting(values: dict[str, Any], command: list[str], repository: Path, root: Path) -> tuple[Branch, Branch | None]:
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
    environment, begin = {**os.environ, "GOLF_CKPT_DIR": str(root / "ckpt")}, time.monotonic()
    process = subprocess.Popen(
        command, cwd=repository, env=environment, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
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
    passed = code != 0 and bool(said) and any((root / "ckpt").glob("*/state_*.safetensors"))
    told = said or [line for line in lines if "out of memory" in line] or lines[-1:] or [""]
    return Branch("train, stopped", passed, told[0][:100], time.monotonic() - begin)


def _training_branches(values: Mapping[str, Any], root: Path) -> list[Branch]:
    """What the ledger says of each system."""
    ledger = read_json(root / "artifacts/train/ledger.json", made_by="`python -m stages.train`")
    wanted = [depth for _, depth in values["train"]["depth_phases"]] or [ledger["depth_phases"][-1][1]]
    depths = [depth for _, depth in ledger["depth_phases"]]
    qat = ledger.get("qat", {"fake_quantizations": {}, "share_of_quantized_weights": 0.0})
    multiplier, share = ledger["lr_multiplier_last"], qat["share_of_quantized_weights"]
    updates = sum(qat["fake_quantizations"].values())
    branches = [
        Branch("depths", depths == wanted, f"{depths}, expected {wanted}", 0.0),
        Branch("warmdown", multiplier < 0.5, f"last multiplier {multiplier:.3f}", 0.0),
        Branch("snapshots", len(ledger["snapshot_steps"]) >= 2, f"after steps {ledger['snapshot_steps']}", 0.0),
        Branch("moving average", ledger["ema_updates"] == ledger["steps"], f"{ledger['ema_updates']} updates", 0.0),
    ]
    if values["train"]["qat"]["below"] > 0:
        branches.append(Branch("QAT", share == 1.0, f"{updates} fake quantizations, {share:.0%} of the weights", 0.0))
    return branches


def forced(values: Mapping[str, Any], *, cuda: bool, compiled: bool, devices: int = 1) -> dict[str, Any]:
    """The composed parameters with a tiny corpus and triggers that act within a few steps.

    On GPUs the model stays whole and each of ``devices`` processes gets two of the preset's micro batches.
    """
    out = {section: dict(content) for section, content in values.items()}
    train = out["train"]
    phases = max(1, len(train["depth_phases"]), len(train["context_phases"]))
    length = train["sequence_length"] if cuda else min(_CPU_SEQUENCE, train["sequence_length"])
    contexts = train["context_phases"]
    if not cuda:
        contexts = [[until, length >> i] for i, (until, _) in enumerate(reversed(contexts))][::-1]
    reach = max((tokens for _, tokens in contexts), default=length)  # of attention; rows may be longer
    held_bytes = max(4000, 12 * reach)  # three windows or more
    out["tokenize"].update(
        source="text", path="corpus", max_bytes=0, tokenizer="train", vocab_size=_VOCAB, train_bytes=1_000_000,
        val_fraction=0.1, holdout_fraction=0.1, val_max_bytes=held_bytes, holdout_max_bytes=held_bytes,
    )  # fmt: skip
    micro = train["micro_batch_tokens"] // length * length if cuda else length
    qat = dict(train["qat"])
    methods = {out["quantize"]["method"], *(own["method"] for own in out["quantize"]["roles"].values())}
    if methods <= {"sdclip", None}:  # QAT trains for no other grid
        qat.update(below=0.7, clip=out["quantize"]["clip"], levels=out["quantize"]["levels"])
    train.update(_TRIGGERS, context_phases=contexts, qat=qat, compile=train["compile"] and (cuda or compiled))
    train.update(
        iterations=max(12, 6 * phases), sequence_length=length, micro_batch_tokens=micro,
        tokens_per_step=2 * micro * devices, momentum_warmup_steps=2, log_seconds=1e-6, checkpoint_seconds=1e-6,
    )  # fmt: skip
    out["calibrate"].update(tokens=4 * reach, window=reach)
    most = {"window": reach, "stride": reach // 4, "chunk": reach // 4, "warmup": 2 * reach, "segment": 1024}
    out["evaluate"] = {mode: {**section, **_at_most(section, most)} for mode, section in values["evaluate"].items()}
    if cuda:
        out["verify"]["targets"] = max(out["verify"]["targets"], 2 * reach)
    else:
        _for_a_cpu(out, length)
    return out


def _at_most(section: Mapping[str, Any], most: Mapping[str, int]) -> dict[str, Any]:
    return {key: min(section[key], limit) for key, limit in most.items() if key in section}


def _for_a_cpu(out: dict[str, Any], length: int) -> None:
    """A narrow model, a short proof and a short sample to verify, in place."""
    model = out["model"]
    if model["width"] > _CPU_WIDTH:
        model.update(_at_most(model, _NARROW))
        per_head = 2 * model["heads"]  # rotary embedding turns pairs of channels
        model["width"] = max(per_head, model["width"] // per_head * per_head)
    out["verify"].update(targets=4 * length, **_at_most(out["verify"], {"choices": _CPU_CHOICES}))
    proved = out["prove"]["max_tokens"] or _CPU_PROVED  # 0 is all
    out["prove"].update(_at_most(out["prove"], {"window": length}), max_tokens=min(proved, _CPU_PROVED))
    out["fit"].update(_at_most(out["fit"], {"target_bytes": _weights(model)}))  # some 8 bits each: it can use those


def _weights(model: Mapping[str, Any]) -> int:
    """Numbers of a model of the rehearsal."""
    import torch

    from golf.models.registry import build_model, config_from_dict

    with torch.device("meta"):
        return build_model(config_from_dict(dict(model), where="model"), _VOCAB).num_parameters()


def smaller(original: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Lines that say what is rehearsed smaller than the preset has it, and what that leaves out."""
    kept_on_gpus = ("sequence_length", "micro_batch_tokens")
    model = [f"model.{text}" for text in _less(original["model"], values["model"])]
    train = [f"train.{text}" for text in _less(original["train"], values["train"])]
    machine = model + [text for text in train if text.split()[0].removeprefix("train.") in kept_on_gpus]
    machine += ["no train.compile"] if original["train"]["compile"] and not values["train"]["compile"] else []
    short = [text for text in train if text.split()[0] in ("train.iterations", "train.tokens_per_step")]
    for name in ("calibrate", "fit", "evaluate", "verify", "prove"):
        short += [f"{name}.{text}" for text in _less(original[name], values[name])]
    lines = [f"short, like the synthetic corpus: {', '.join(short)}"] if short else []
    if machine:
        lines.insert(0, f"without a GPU, so its memory and speed are not rehearsed: {', '.join(machine)}")
    return lines


def _less(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """``key value for value`` of every number that is less than it was, sections within included."""
    for key, old in before.items():
        new = after[key]
        if isinstance(old, Mapping):
            yield from (f"{key}.{text}" for text in _less(old, new))
        elif isinstance(old, int | float) and new < old:
            yield f"{key} {new} for {old}"


def synthetic_corpus(folder: Path, *, documents: int = 300, words: int = 100) -> None:
    """Text files of made-up words in a skewed, repeating order; short, so that few bytes hold several documents."""
    import numpy as np

    rng = np.random.default_rng(0)
    letters = list("etaoinshrdlucmfwypvbgkjqxz")
    lexicon = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(400)]
    for number in range(documents):
        chosen = np.minimum(rng.zipf(1.3, words) - 1, len(lexicon) - 1)
        write_text(folder / f"{number:03d}.txt", " ".join(lexicon[i] for i in chosen) + ".\n")
