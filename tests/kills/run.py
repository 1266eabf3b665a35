"""Kill every stage at each of its changes of a file; what is left is the old or the new, and the next run ends alike.

    python tests/kills/run.py [STAGE ...] [--every N]        (`make kills`: all stages, some 350 kills, minutes)

A warm process imports everything once and forks a child for each run, on a tiny corpus and tiny parameters. In the
child an audit hook counts the changes (opened for writing, renamed, removed, made, ...) below the run's folder and ends
the process by SIGKILL before the n-th. Then every output of the stage must be wholly the old one or wholly the new, and
another run must end with the files of an undisturbed one and no others; the system's temporary folder is among them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from golf.base.params import read_params
from golf.cli.params import compose

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = (
    *("code", "tokenize", "train", "average", "calibrate", "quantize", "fit", "compress", "baselines"),
    *("evaluate roundtrip", "evaluate sliding", "evaluate streaming", "hedge", "evaluate ttt", "prove", "verify"),
    "report",
)
TINY = [
    *("tokenize.source=text", "tokenize.path=corpus", "tokenize.vocab_size=300", "tokenize.val_fraction=0.2"),
    *("tokenize.holdout_fraction=0.2", "tokenize.train_bytes=200000"),
    *("model.width=32", "model.heads=2", "model.kv_heads=1", "model.blocks=1", "model.repeats=2", "model.xsa_last=1"),
    *("model.value_tables=1", "train.depth_phases=[[0.5,1],[1.0,2]]", "train.compile=false", "train.precision=fp32"),
    *("train.iterations=6", "train.tokens_per_step=64", "train.micro_batch_tokens=64", "train.sequence_length=32"),
    *("train.snapshot_every=0.1", "train.snapshot_below=0.8", "train.momentum_warmup_steps=2", "train.ema_decay=0.5"),
    *("train.checkpoint_seconds=1e-9", "calibrate.tokens=256", "calibrate.window=32", "compress.coder=rans"),
    *("evaluate.roundtrip.window=32", "evaluate.sliding.window=32", "evaluate.sliding.stride=16"),
    *("evaluate.streaming.window=32", "evaluate.streaming.warmup=128", "evaluate.streaming.segment=4096"),
    *("prove.max_tokens=60", "prove.window=32", "prove.mixture=false"),
    *("verify.modes=[roundtrip]", "verify.targets=64", "verify.flips=1", "verify.choices=8"),
]
SLOW = {"verify": 4, "report": 4}  # seconds each: every fourth change
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}


def outputs() -> dict[str, list[str]]:
    """Outputs and metrics of each stage, as paths below the run's folder."""
    found: dict[str, list[str]] = {}
    files = [read_params(REPOSITORY / name)["stages"] for name in ("stages/dvc.yaml", "dvc.yaml")]
    for stage in [stage for stages in files for stage in stages.values()]:
        for mode in stage.get("matrix", {}).get("mode", [""]):
            named = [*stage.get("outs", []), *stage.get("metrics", [])]
            plain = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in named]
            command = stage["cmd"].removeprefix("python -m stages.")
            found[command.replace("${item.mode}", mode)] = [path.replace("${item.mode}", mode) for path in plain]
    return found


def state(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` and its hash; what a clock says in JSON files is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = "folder" if path.is_dir() else hashlib.sha256(_content(path)).hexdigest()
    return found


def _content(path: Path) -> bytes:
    if path.suffix != ".json":
        return path.read_bytes()
    return json.dumps(_timeless(json.loads(path.read_text())), sort_keys=True).encode()


def _timeless(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _timeless(v) for k, v in value.items() if "second" not in k}


class Runner:
    """Runs stages in forked children on the tiny parameters, below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.modules = folder / "run", folder / "log", folder / "modules"

    def prepare(self) -> None:
        """A corpus, parameters, and the modules of the repository."""
        corpus, generator = self.folder / "corpus", random.Random(0)
        corpus.mkdir(parents=True)
        lexicon = ["".join(generator.choices("abcdefghij", k=generator.randint(2, 6))) for _ in range(60)]
        for index in range(24):
            (corpus / f"{index:02d}.txt").write_text(" ".join(generator.choices(lexicon, k=150)))
        (self.folder / "params.json").write_text(json.dumps(compose(REPOSITORY / "conf", overrides=TINY)))
        (self.folder / "tmp").mkdir()
        for path in (REPOSITORY / "golf").rglob("[a-z]*.py"):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            if not name.endswith("sandbox_child"):
                importlib.import_module(name)

    def run(self, stage: str, kill_before: int = 0) -> tuple[int, int]:
        """Run ``stage``, killed before change ``kill_before`` (0: never); (exit code or minus the signal, changes)."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._child(stage, kill_before, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            changes = len(pipe.read())
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), changes

    def warm(self, stage: str) -> None:
        """Run ``stage`` once and import here what it imported. Raises ``RuntimeError`` when it fails."""
        code, _ = self.run(stage)
        if code:
            raise RuntimeError(f"{stage} ends with {code}:\n{self.log.read_text()}")
        for name in self.modules.read_text().split():
            with suppress(Exception):  # what its children do without is no loss
                importlib.import_module(name)

    def _child(self, stage: str, kill_before: int, writer: int) -> None:
        code, known = 1, set(sys.modules)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.folder / "tmp")
        os.environ.update(GOLF_PROCESSES="1", GOLF_DEVICE="cpu", GOLF_THREADS="1")
        os.fsync = lambda handle: None  # a kill loses nothing that the system has taken
        name, *rest = stage.split()
        sys.argv = [f"{name}.py", *rest, "--params", str(self.folder / "params.json"), "--root", str(self.folder)]
        try:
            sys.addaudithook(self._hook(kill_before, writer))
            runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)
        except SystemExit as left:
            code = int(left.code or 0)
        except BaseException:
            traceback.print_exc()
        with suppress(Exception):
            self.modules.write_text("\n".join(set(sys.modules) - known))
            sys.stdout.flush()
        os._exit(code)

    def _hook(self, kill_before: int, writer: int) -> Callable[[str, tuple[Any, ...]], None]:
        below, seen = str(self.folder), 0

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal seen
            if event == "open":
                change = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else:
                change = event in CHANGES
            if change and isinstance(args[0], str | bytes | os.PathLike) and os.fsdecode(args[0]).startswith(below):
                seen += 1
                os.write(writer, b".")
                if seen == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)

        return hook


def copy(source: Path, target: Path) -> None:
    """Make the folder ``target`` what ``source`` is."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


def part(files: dict[str, str], path: str) -> dict[str, str]:
    """Those of ``files`` that are the output ``path`` or lie below it."""
    return {name: value for name, value in files.items() if name == path or name.startswith(f"{path}/")}


def plant_old(folder: Path, path: str) -> None:
    """Put something of an earlier run in the place of the output ``path``."""
    output = folder / path
    if output.is_dir():
        shutil.rmtree(output)
        output.mkdir()
        output = output / "of an earlier run"
    output.write_text("{}" if output.suffix == ".json" else "old")


def check_stage(runner: Runner, stage: str, named: list[str], every: int) -> list[str]:
    """What goes wrong when ``stage`` is killed at every ``every``-th change; its undisturbed outputs stay there."""
    before, wrong = runner.folder.parent / "before", list[str]()
    runner.warm(stage)
    for path in named:
        plant_old(runner.folder, path)
    copy(runner.folder, before)
    old = state(runner.folder)
    _, changes = runner.run(stage)
    new = state(runner.folder)
    for number in range(1, changes + 1, every):
        copy(before, runner.folder)
        code, _ = runner.run(stage, number)
        left = state(runner.folder)
        mixed = [path for path in named if part(left, path) not in (part(old, path), part(new, path))]
        again, _ = runner.run(stage)
        ends = state(runner.folder)
        differs = sorted(name for name in ends.keys() | new.keys() if ends.get(name) != new.get(name))
        if code != -signal.SIGKILL or mixed or again or differs:
            last = runner.log.read_text().strip().splitlines()[-1:] if again else []
            wrong.append(
                f"{stage}, killed before change {number} of {changes}: exit {code}, neither old nor new: {mixed}; next "
                f"run: exit {again} {last}, other than undisturbed: {differs[:4]}"
            )
    print(f"{stage}: {len(range(1, changes + 1, every))} kills, {len(wrong)} faults", flush=True)
    return wrong


def main() -> int:
    """Check the stages named, in the order of the pipeline; the others before them run undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", help="stages to kill (default: all)")
    parser.add_argument("--every", type=int, default=1, help="kill at every N-th change only (default: 1)")
    args = parser.parse_args()
    chosen, named, wrong = args.stages or list(STAGES), outputs(), list[str]()
    unknown = [stage for stage in chosen if stage not in STAGES]
    if unknown:
        parser.error(f"unknown stage {unknown[0]}; known: {', '.join(STAGES)}")
    with tempfile.TemporaryDirectory(prefix="golf-kills-") as folder:
        runner = Runner(Path(folder))
        runner.prepare()
        for stage in STAGES[: 1 + max(STAGES.index(stage) for stage in chosen)]:
            if stage in chosen:
                wrong += check_stage(runner, stage, named[stage], max(args.every, SLOW.get(stage, 1)))
            elif stage != "code":
                runner.warm(stage)
    print("\n".join(wrong) or "every kill left the old or the new, and every next run ended alike")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
