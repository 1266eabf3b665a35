"""`golf recode FILE.gguf`: a GGUF of 4 or 8 bits made smaller without loss; `golf unpack` brings it back."""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.base.distributed import usable_cores
from golf.base.files import FileError, require, write_bytes
from golf.cli.outputs import tried

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf recode`."""
    parser.add_argument("file", type=Path, help="the GGUF")
    parser.add_argument("-o", "--output", type=Path, help="the coded file (default: FILE with .golf for .gguf)")
    parser.add_argument("--force", action="store_true", help="replace an existing output file")


def run(args: argparse.Namespace) -> int:
    """Code and write; ``GolfError`` for a file that is no GGUF or has no blocks that are recoded."""
    target = args.output or args.file.with_suffix(".golf")
    if target.exists() and not args.force:
        raise FileError(f"{target}: exists; give --force to replace it, or another -o")
    require(args.file, made_by="`golf fetch smollm2` or llama.cpp")
    tried(target)
    from golf.imports.recode import recode, restore

    threads = usable_cores()
    data = recode(args.file, threads=threads)
    size = len(restore(data, where=str(target), threads=threads))  # proved before it is written
    write_bytes(target, data)
    print(f"{target}: {len(data):,} bytes of {size:,}, {100 * len(data) / size:.1f} %; decoded again to the same file")
    return 0
