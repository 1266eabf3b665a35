"""The `golf` command: one file per subcommand, imported only when it is asked for.

A subcommand module has ``add_arguments(parser)`` and ``run(args) -> int``; its line of help is in ``COMMANDS``.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from golf.base.main import main_guard

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "audit": "audit other runs from their logs: implied bytes, size, seeds, phases that never fired",
    "deps": "print the files whose code a stage depends on, each with its digest",
    "fetch": "get the default corpus, hash-checked",
    "inspect": "show what the bytes of an artifact are spent on",
    "params": "print or write the parameters of a preset",
    "plan": "say when depth phases, warmdown, snapshots, averages and QAT will act; refuse what never would",
    "rehearse": "run every branch of a preset in minutes, with forced triggers, before the paid run",
    "unzip": "restore a text that `golf zip` coded",
    "verify": "check that an artifact's scores are code lengths: PASS or FAIL with the measured value",
    "zip": "compress a UTF-8 text with an artifact, losslessly",
}


def _main() -> int:
    parser = argparse.ArgumentParser(prog="golf", description="Language models that fit in 16,000,000 bytes.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = sys.argv[1] if len(sys.argv) > 1 else None
    modules = {}
    for name, help_line in COMMANDS.items():
        sub = commands.add_parser(name, help=help_line, description=help_line[0].upper() + help_line[1:] + ".")
        if name == wanted:
            modules[name] = importlib.import_module(f"golf.cli.{name}")
            modules[name].add_arguments(sub)
    args = parser.parse_args()
    result = modules[args.command].run(args)
    assert isinstance(result, int)
    return result


def main() -> None:
    """Entry point of the console script."""
    main_guard(_main, name="golf")
