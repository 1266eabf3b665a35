"""tokenize: corpus to tokenizer, token shards and manifest (``golf.data.tokenize``)."""

from __future__ import annotations

import os
from pathlib import Path

from golf.base.main import environment_number, run_stage
from golf.base.params import load_section
from golf.data.tokenize import TokenizeConfig, tokenize_corpus


def run(params: Path, root: Path) -> None:
    """Read section ``tokenize`` of the parameters and write the outputs below ``--root``."""
    config = load_section(params, "tokenize", TokenizeConfig)
    processes = environment_number(os.environ, "GOLF_PROCESSES", len(os.sched_getaffinity(0)))
    manifest = tokenize_corpus(config, root, processes=processes)
    for split, counts in manifest["splits"].items():
        print(
            f"{split}: {counts['documents']:,} documents, {counts['tokens']:,} tokens, {counts['bytes']:,} bytes, "
            f"{counts['bytes_per_token']:.3f} bytes per token"
        )


if __name__ == "__main__":
    run_stage(run, description=__doc__)
