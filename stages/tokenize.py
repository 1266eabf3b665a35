"""tokenize: corpus to tokenizer, token shards and manifest (``golf.data.tokenize``)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from golf.base.distributed import usable_cores
from golf.base.main import main_guard
from golf.base.params import load_section
from golf.data.tokenize import TokenizeConfig, summary, tokenize_corpus


def main() -> None:
    """Read section ``tokenize`` of the parameters and write the outputs below ``--root``."""
    parser = argparse.ArgumentParser(prog="python -m stages.tokenize", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="parameter file")
    parser.add_argument("--root", default=".", type=Path, help="folder that holds data/, artifacts/ and metrics/")
    args = parser.parse_args()
    config = load_section(args.params, "tokenize", TokenizeConfig)
    processes = int(os.environ.get("GOLF_PROCESSES") or usable_cores())
    manifest = tokenize_corpus(config, args.root, processes=processes)
    print("\n".join(summary(manifest)))


if __name__ == "__main__":
    main_guard(main, name="tokenize")
