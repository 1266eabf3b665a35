"""`golf unpack FILE.golf`: an imported model back in the format of its origin, or the GGUF that was recoded."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from golf.base.distributed import usable_cores
from golf.base.files import FileError, require, write_bytes
from golf.cli.outputs import tried

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf unpack`."""
    parser.add_argument("file", type=Path, help="the artifact")
    parser.add_argument("--as", dest="kind", choices=["safetensors", "gguf"], default="safetensors",
                        help="a folder for transformers, or a file for llama.cpp (default: %(default)s)")  # fmt: skip
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16",
                        help="numbers written (default: %(default)s)")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, help="the folder or file (default: FILE without .golf)")
    parser.add_argument("--force", action="store_true", help="replace an existing folder or file")


def run(args: argparse.Namespace) -> int:
    """Decode and write; ``GolfError`` for damage, a model trained here, or an output that is there."""
    data = require(args.file, made_by="`compress` or `golf recode`").read_bytes()
    from golf.imports.recode import MAGIC, restore

    recoded = data.startswith(MAGIC)
    target = args.output or args.file.with_suffix(".gguf" if recoded or args.kind == "gguf" else "")
    if target == args.file:
        raise FileError(f"{args.file}: does not end in .golf, so the output has no obvious name; give -o")
    if target.exists() and not args.force:
        raise FileError(f"{target}: exists; give --force to replace it, or another -o")
    tried(target, folder=not recoded and args.kind == "safetensors")
    if recoded:
        write_bytes(target, restore(data, where=str(args.file), threads=usable_cores()))
        print(f"{target}: {target.stat().st_size:,} bytes, the GGUF as it was, of {len(data):,} bytes")
        return 0
    from golf.artifact.read import unpack

    threads = usable_cores()
    with ThreadPoolExecutor(1) as decoding:
        future = decoding.submit(unpack, data, where=str(args.file), threads=threads)
        from golf.imports.export import write_origin  # torch, while others decode

        unpacked = future.result()
    write_origin(unpacked, target, kind=args.kind, dtype=args.dtype, where=str(args.file), threads=threads)
    print(f"{target}: {unpacked.model.num_weights():,} weights as {args.dtype}, of {len(data):,} bytes")
    return 0
