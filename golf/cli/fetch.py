"""`golf fetch enwik8`: get the default corpus, hash-checked."""

from __future__ import annotations

import argparse

from golf.data.fetch import fetch_enwik8

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("corpus", choices=["enwik8"], help="articles of Wikipedia 2006 (36 MB, CC BY-SA 3.0)")
    parser.add_argument("--to", default="data/enwik8.gz", help="where to put it (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Fetch unless the right file is there."""
    fetched = fetch_enwik8(args.to)
    print(f"{args.to}: {'fetched' if fetched else 'already here'}, SHA-256 as expected")
    return 0
