"""`golf fetch`: get the default corpus or the default model of `make import`, hash-checked."""

from __future__ import annotations

import argparse

from golf.data.fetch import ENWIK8_SHA256, SMOLLM2, SMOLLM2_SHA256, SOURCES, fetch

__all__ = ["add_arguments", "run"]

_WHAT = {  # name: where to put it, sources, hash
    "enwik8": ("data/enwik8.gz", SOURCES, ENWIK8_SHA256),
    "smollm2": ("import/data/smollm2.gguf", SMOLLM2, SMOLLM2_SHA256),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "what", choices=list(_WHAT),
        help="enwik8: articles of Wikipedia 2006 (36 MB, CC BY-SA 3.0); smollm2: a model of 135 M weights (98 MB, "
        "Apache-2.0)",
    )  # fmt: skip
    parser.add_argument("--to", help="where to put it (default: data/enwik8.gz or import/data/smollm2.gguf)")


def run(args: argparse.Namespace) -> int:
    """Fetch unless the right file is there."""
    default, sources, sha256 = _WHAT[args.what]
    path = args.to or default
    fetched = fetch(path, sources=sources, sha256=sha256, what=args.what)
    print(f"{path}: {'fetched' if fetched else 'already here'}, SHA-256 as expected")
    return 0
