"""`golf audit`: check other people's logs and JSON for the known families of invalid results."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from golf.audit.checks import STREAMS, Finding, audit_run, audit_seeds
from golf.audit.read import AuditError, read_run
from golf.base.main import printable

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf audit`."""
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="training logs or submission.json files")
    parser.add_argument(
        "--tokenizer",
        choices=[stream.name for stream in STREAMS],
        help="default: what the file says, else the nearest known",
    )
    parser.add_argument("--claimed-std", type=float, help="standard deviation the author states over these files")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    """Print findings; exit 1 when one is FAIL or a file holds nothing to audit."""
    stream = next((s for s in STREAMS if s.name == args.tokenizer), None)
    runs, report = [], {}
    for path in args.files:
        try:
            runs.append(read_run(path))
            report[str(path)] = audit_run(runs[-1], stream=stream)
        except AuditError as error:
            if len(args.files) == 1:
                raise
            report[str(path)] = [Finding("read", "ERROR", str(error))]
    if len(runs) > 1:
        report["all files"] = audit_seeds(runs, claimed_std=args.claimed_std)
    if args.json:
        print(json.dumps({path: [vars(f) for f in found] for path, found in report.items()}, indent=2))
    else:
        for path, found in report.items():
            print(printable(path))
            for finding in found:
                print(f"  {finding.verdict:<8}{finding.check:<8}{printable(finding.text)}")
    return int(any(finding.verdict in ("FAIL", "ERROR") for found in report.values() for finding in found))
