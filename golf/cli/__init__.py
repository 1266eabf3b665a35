"""The `golf` command: one file per subcommand, imported only when it is asked for.

A subcommand module has ``add_arguments(parser)`` and ``run(args) -> int``; its line of help and an example that runs
are in ``COMMANDS``.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Iterable
from types import ModuleType

from golf.base.main import main_guard
from golf.base.threads import bound_spin

__all__ = ["COMMANDS", "__version__", "build_parser", "main"]

__version__ = "0.2.0"  # here and not in golf/__init__.py, which every stage depends on

_MODEL = "artifacts/compress/model.golf"
COMMANDS = {  # name: what it does, an example
    "audit": (
        "audit other runs from their logs: implied bytes, size, seeds, phases that never fired",
        "golf audit train.log --tokenizer sp8192",
    ),
    "compare": (
        "say what two experiments did differently, which figures moved, and which of that is no gain",
        "golf compare main workspace",
    ),
    "completion": ("print the completion script of a shell", 'eval "$(golf completion bash)"'),
    "deps": ("print the files whose code a stage depends on, each with its digest", "golf deps compress"),
    "doctor": ("say what this machine has and lacks, and what each lack costs", "golf doctor"),
    "fetch": ("get a corpus or the default model of `make import`, hash-checked", "golf fetch fineweb --shards 2"),
    "generate": (
        "write text with an artifact, token by token",
        f'golf generate {_MODEL} --prompt "The city of" --temperature 0.7 --seed 1',
    ),
    "inspect": ("show what the bytes of an artifact are spent on", f"golf inspect {_MODEL} --plot bytes.svg"),
    "params": (
        "print or write the parameters of a preset",
        "golf params --preset gdn_hybrid_cpu_small train.seed=7 --write params.yaml",
    ),
    "plan": (
        "say when depth phases, warmdown, snapshots, averages and QAT will act; refuse what never would",
        "golf plan --preset h100x8_10min --steps-per-second 4",
    ),
    "recode": (
        "make a GGUF of 4 or 8 bits smaller without loss; golf unpack brings it back",
        "golf recode import/data/smollm2.gguf -o smollm2.golf",
    ),
    "rehearse": (
        "run every branch of a preset in minutes, with forced triggers, before the paid run",
        "golf rehearse --preset h100x8_10min",
    ),
    "score": (
        "measure bits per byte of any text under an artifact, by each scorer",
        f"golf score {_MODEL} book.txt messages.jsonl --json scores.json",
    ),
    "seeds": (
        "run the parameters, and a change of them, from several seeds as DVC experiments; test the difference",
        "golf seeds 3 -S quantize.clip=9 --write seeds.md",
    ),
    "unpack": (
        "write an imported model back in its origin's format: safetensors for transformers, GGUF for llama.cpp",
        "golf unpack import/artifacts/compress/model.golf --as safetensors -o smollm2-golf",
    ),
    "unzip": ("restore a text that `golf zip` coded", f"golf unzip book.txt.golfz --artifact {_MODEL}"),
    "verify": (
        "check that an artifact's scores are code lengths: PASS or FAIL with the measured value",
        f"golf verify {_MODEL} --json checks.json",
    ),
    "zip": ("compress a UTF-8 text with an artifact, losslessly", f"golf zip book.txt --artifact {_MODEL}"),
}


def build_parser(names: Iterable[str]) -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """The parser of all commands, with the options of those in ``names``, and the modules of these."""
    parser = argparse.ArgumentParser(prog="golf", description="Language models that fit in 16,000,000 bytes.")
    parser.add_argument("--version", action="version", version=f"golf {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {}
    for name, (help_line, example) in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=help_line,
            description=f"{help_line[0].upper()}{help_line[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in names:
            modules[name] = importlib.import_module(f"golf.cli.{name}")
            modules[name].add_arguments(sub)
    return parser, modules


def _main() -> int:
    bound_spin(os.environ)  # before a command imports torch
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    parser, modules = build_parser([first])
    if first not in COMMANDS and not first.startswith("-"):
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        known = f"did you mean `{near[0]}`?" if near else f"the commands are {', '.join(COMMANDS)}"
        parser.error(f"unknown command {ascii(first[:80])}; {known}")
    args = parser.parse_args(sys.argv[1:] or ["--help"])
    result = modules[args.command].run(args)
    assert isinstance(result, int)
    return result


def main() -> None:
    """Entry point of the console script."""
    main_guard(_main, name="golf")
