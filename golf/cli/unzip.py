"""`golf unzip FILE.golfz`: restore the text that `golf zip` coded, proved by its SHA-256."""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.base.files import FileError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf unzip`."""
    parser.add_argument("file", type=Path, help="the coded file")
    parser.add_argument("--artifact", type=Path, required=True, help="the artifact it was coded with")
    parser.add_argument("-o", "--output", type=Path, help="the text (default: FILE without .golfz)")
    parser.add_argument("--threads", type=int, help="threads of the model (default: as recorded, or 1)")
    parser.add_argument("--force", action="store_true", help="replace an existing output file")


def run(args: argparse.Namespace) -> int:
    """Decode the file; ``GolfError`` for damage, or when artifact, threads or machine do not fit."""
    if args.output is None and args.file.suffix != ".golfz":
        raise FileError(f"{args.file}: does not end in .golfz, so the text has no obvious name; give -o")
    target = args.output or args.file.with_suffix("")
    if target.exists() and not args.force:
        raise FileError(f"{target}: exists; give --force to replace it, or another -o")
    from golf.textcodec.files import unzip_file
    from golf.textcodec.model import open_model

    report = unzip_file(args.file, target, open_model(args.artifact), threads=args.threads)
    print(f"{target}: {report.text_bytes:,} bytes, {report.tokens:,} tokens in {report.seconds:.1f} s, SHA-256 "
          f"{report.text_sha256} as coded")  # fmt: skip
    return 0
