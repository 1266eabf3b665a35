"""A preset's model at its full size on a CPU, few steps trained: processor seconds and peak memory of every stage.

    python -m benchmarks.full_size --work /tmp/golf-full                         # record_h100x8_10min, every stage
    python -m benchmarks.full_size --work /tmp/golf-full --most 1                # the next missing stage alone
    python -m benchmarks.full_size --work /tmp/golf-two model.layers=2 'model.loop=[0,1]' model.lanes_from=1  # a trial

The stages of dvc.yaml up to `compress` and `verify` run as they are, each in a process of its own; between them the
artifact is decoded by one thread. Width, layers, vocabulary, quantizer, size target and coder are the preset's; what
only costs a CPU time and changes no size is small: the corpus, steps and their tokens, the text calibrated on. Every
finished stage is a row of WORK/results.jsonl and is not run again. Scores of so short a training mean nothing, and its
weights are nearly random: trained ones may code faster or slower.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from golf.base.files import write_json
from golf.cli.params import compose
from golf.cli.rehearse import stage_commands

STAGES = ("tokenize", "train", "average", "calibrate", "quantize", "fit", "compress", "decode", "verify")
TOKENS = 512  # of a training step and of a window
SMALL = (
    *("tokenize.source=enwik8", "tokenize.text_key=text", "tokenize.max_bytes=8000000", "tokenize.train_bytes=8000000"),
    *("tokenize.val_fraction=0.01", "tokenize.holdout_fraction=0.01", "tokenize.tokenizer=train"),
    *("train.compile=false", "train.iterations=3", "train.budget_seconds=0", f"train.tokens_per_step={TOKENS}"),
    *(f"train.micro_batch_tokens={TOKENS}", f"train.sequence_length={TOKENS}", "train.depth_phases=[[0.5,1],[1.0,3]]"),
    *("train.context_phases=[]", "train.momentum_warmup_steps=2", "train.snapshot_below=0", "train.ema_decay=0"),
    "train.warmdown=0.5",
    *("calibrate.tokens=4096", f"calibrate.window={TOKENS}"),
)
DECODE = "import sys; from golf.artifact.decode import load_artifact; load_artifact(sys.argv[1])"


def commands(repository: Path, place: list[str], root: Path) -> dict[str, list[str]]:
    """Arguments of Python for each of ``STAGES``."""
    found = {name: [*arguments, *place] for name, arguments in stage_commands(repository / "dvc.yaml")}
    found["decode"] = ["-c", DECODE, str(root / "artifacts/compress/model.golf")]
    return {name: found[name] for name in STAGES}


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Run ``command`` with its output in ``log``; seconds and bytes of that process; ``SystemExit`` when it fails."""
    began = time.monotonic()
    with log.open("wb") as file:
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, file.fileno(), 2)]
        child = os.posix_spawn(sys.executable, [sys.executable, *command], os.environ, file_actions=actions)
        _, status, used = os.wait4(child, 0)
    if code := os.waitstatus_to_exitcode(status):
        said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(command[:3])}: exit code {code}\n{said}")
    wall = time.monotonic() - began
    return {"cpu_seconds": used.ru_utime + used.ru_stime, "seconds": wall, "peak_bytes": used.ru_maxrss * 1024}


def run_missing(commands: Mapping[str, list[str]], root: Path, *, most: int | None = None) -> None:
    """Run the ``commands``, by stage, that ``root``/results.jsonl has no row of, ``most`` of them; print the table."""
    results = root / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []
    done = {row["stage"] for row in rows}
    for name in [name for name in commands if name not in done][:most]:
        row = {"stage": name, "threads": len(os.sched_getaffinity(0)), **measured(commands[name], root / f"{name}.log")}
        rows.append(row)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print("| stage | processor s | wall s | peak GB | cores |\n|---|---|---|---|---|")
    for row in rows:
        seconds = f"{row['cpu_seconds']:.1f} | {row['seconds']:.1f}"
        print(f"| {row['stage']} | {seconds} | {row['peak_bytes'] / 1e9:.2f} | {row['threads']} |")


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="record_h100x8_10min")
    parser.add_argument("--work", type=Path, required=True, help="folder of outputs and results.jsonl")
    parser.add_argument("--most", type=int, default=len(STAGES), help="stages run by this call, at most")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="single values")
    args = parser.parse_args()
    repository, root = Path.cwd(), args.work.resolve()
    root.mkdir(parents=True, exist_ok=True)
    corpus = f"tokenize.path={repository / 'data/enwik8.gz'}"
    values = compose(repository / "conf", preset=args.preset, overrides=[*SMALL, corpus, *args.overrides])
    write_json(root / "params.json", values)
    place = ["--params", str(root / "params.json"), "--root", str(root)]
    run_missing(commands(repository, place, root), root, most=args.most)


if __name__ == "__main__":
    main()
