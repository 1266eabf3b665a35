"""`golf zip FILE`: compress any UTF-8 text, losslessly, with an artifact as the model."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from golf.base.files import FileError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf zip`."""
    parser.add_argument("file", type=Path, help="the text, UTF-8")
    parser.add_argument("--artifact", type=Path, required=True, help="artifacts/compress/model.golf")
    parser.add_argument("-o", "--output", type=Path, help="the coded file (default: FILE.golfz)")
    parser.add_argument("--streams", type=int, default=64, help="parts coded side by side: more is faster, fewer "
                        "codes shorter (default: %(default)s)")  # fmt: skip
    parser.add_argument("--window", type=int, default=256, help="keys of attention, the training length or less "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--mixture", choices=["on", "off"], default="on", help="n-gram mixture (default: on)")
    parser.add_argument("--arithmetic", choices=["integer", "portable", "fast"], help="integer is a network of exact "
                        "sums, decodable on any machine; portable decodes on this machine and build with any thread "
                        "count, fast only with the one it was coded with (default: integer where the model's family "
                        "has it, else portable)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="threads of the model (default: 1)")
    parser.add_argument("--block-bytes", type=int, default=2 << 20, help="text coded at a time: what an interruption "
                        "loses, and one more cold start each (default: %(default)s)")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="decode the coded file before it gets its name: twice the "
                        "time, and proof that it comes back")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an existing output file, and files that have the "
                        "names of an interrupted run's (.part, .progress) and are none")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Code the file and print what it took; ``GolfError`` for anything that does not fit."""
    target = args.output or args.file.with_name(args.file.name + ".golfz")
    if target.exists() and not args.force:
        raise FileError(f"{target}: exists; give --force to replace it, or another -o")
    from golf.base.score import bits_per_byte
    from golf.textcodec.files import CodecConfig, default_arithmetic, zip_file
    from golf.textcodec.model import open_model

    model = open_model(args.artifact)
    arithmetic = args.arithmetic or default_arithmetic(model)
    config = CodecConfig(args.streams, args.window, args.threads, arithmetic, args.mixture == "on", args.block_bytes)
    report = zip_file(args.file, target, model, config, force=args.force, check=args.check)
    print(f"{target}: {report.text_bytes:,} bytes -> {report.file_bytes:,} bytes, {report.tokens:,} tokens in "
          f"{report.seconds:.1f} s{', decoded and compared' if args.check else ''}")  # fmt: skip
    if report.resumed_bytes:
        print(f"went on behind {report.resumed_bytes:,} bytes that an interrupted run had coded")
    if report.text_bytes:
        coded = 8 * report.file_bytes / report.text_bytes
        stated = bits_per_byte(report.stated_bits * math.log(2.0), report.text_bytes)
        print(f"{coded:.4f} bits per byte; the probabilities state {stated:.4f}")
        rest = report.file_bytes - report.code_bytes
        print(f"stated {report.stated_bits / 8:,.1f} bytes, code {report.code_bytes:,} bytes "
              f"({report.overhead_percent:+.4f} %), header and lengths {rest:,} bytes")  # fmt: skip
    return 0
