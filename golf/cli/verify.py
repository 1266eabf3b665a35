"""`golf verify ARTIFACT`: prove on real tokens that the artifact's scores are code lengths of real text."""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.cli.outputs import tried
from golf.verify.run import verify_files

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf verify`."""
    parser.add_argument("artifact", type=Path, help="an artifact, artifacts/compress/model.golf")
    parser.add_argument("--decoder", type=Path, help="its shipped decoder (default: decoder.zip beside it)")
    parser.add_argument("--tokens", type=Path, default=Path("artifacts/tokens"), help="folder of the token splits")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters of scorers and checks")
    parser.add_argument("--run-decoder", action="store_true", help="run the decoder also when it is not the one that "
                        "this golf ships: it is Python code, sealed off but not in a jail")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the measured values to this file too")


def run(args: argparse.Namespace) -> int:
    """Print one line a check; exit 1 when one is FAIL."""
    tried(args.json)
    decoder = args.decoder or args.artifact.with_name("decoder.zip")
    return verify_files(
        args.params,
        artifact=args.artifact,
        decoder=decoder,
        tokens=args.tokens,
        metrics=args.json,
        run_decoder=args.run_decoder,
    )
