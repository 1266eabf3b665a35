"""`golf completion SHELL`: the script that completes commands, options and file names in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.base.errors import GolfError
from golf.cli import COMMANDS, build_parser

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the argument of the command."""
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="whose script to print")


def run(args: argparse.Namespace) -> int:
    """Print the script; ``GolfError`` where shtab, which makes it, is missing."""
    try:
        import shtab
    except ModuleNotFoundError:
        raise GolfError("completion: shtab, which writes the script, is not installed: pip install shtab") from None
    parser, _ = build_parser(COMMANDS)
    for sub in parser._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        for action in sub._actions:
            if action.type is Path:
                action.complete = shtab.FILE
    print(shtab.complete(parser, shell=args.shell))
    return 0
