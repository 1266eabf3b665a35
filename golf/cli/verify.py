"""`golf verify ARTIFACT`: prove on real tokens that the artifact's scores are code lengths of real text."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from golf.files import write_json
from golf.params import load_section
from golf.shipping import CompressConfig
from golf.verify.run import Inputs, VerifyConfig, format_result, metrics_of, verify
from golf.verify.scorers import load_modes

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf verify`."""
    parser.add_argument("artifact", type=Path, help="an artifact, artifacts/compress/model.golf")
    parser.add_argument("--decoder", type=Path, help="its shipped decoder (default: decoder.zip beside it)")
    parser.add_argument("--tokens", type=Path, default=Path("artifacts/tokens"), help="folder of the token splits")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters of scorers and checks")
    parser.add_argument("--json", type=Path, help="write the measured values to this file too")


def run(args: argparse.Namespace) -> int:
    """Print one line a check; exit 1 when one is FAIL."""
    config = load_section(args.params, "verify", VerifyConfig)
    compress = load_section(args.params, "compress", CompressConfig)
    inputs = Inputs(
        artifact=args.artifact,
        decoder=args.decoder or args.artifact.with_name("decoder.zip"),
        tokens=args.tokens,
        limit_bytes=compress.limit_bytes,
        modes=load_modes(args.params, config.modes),
    )
    begin = time.perf_counter()
    results = verify(inputs, config, each=lambda result: print(format_result(result), flush=True))
    seconds = time.perf_counter() - begin
    if args.json:
        write_json(args.json, metrics_of(results, seconds))
    failed = sum(result.verdict == "FAIL" for result in results)
    print(f"{len(results)} checks, {failed} failed, {seconds:.1f} s")
    return int(failed > 0)
