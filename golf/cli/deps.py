"""`golf deps`: the files whose code a stage depends on, as the stage `code` writes them for DVC."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from golf.base.code import Code
from golf.base.params import read_params

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf deps`."""
    parser.add_argument("stage", metavar="STAGE", help="file in stages/, as in `golf deps compress`")
    parser.add_argument("--root", default=".", help="the repository's root (default: .)")


def run(args: argparse.Namespace) -> int:
    """Print the fingerprint of the stage, for the model family of params.yaml."""
    root = Path(args.root)
    model = read_params(root / "params.yaml").get("model")
    family = model.get("family") if isinstance(model, dict) else None
    sys.stdout.write(Code(root, [str(family)] if family else None).fingerprint(f"stages.{args.stage}"))
    return 0
