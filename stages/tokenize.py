"""tokenize: corpus to tokenizer, token shards and manifest (``golf.data.tokenize``)."""

from __future__ import annotations

import os
from pathlib import Path

from golf.base.distributed import usable_cores
from golf.base.main import environment_number, run_stage
from golf.base.params import load_section
from golf.data.tokenize import TokenizeConfig, summary, tokenize_corpus


def run(params: Path, root: Path) -> None:
    """Read section ``tokenize`` of the parameters and write the outputs below ``--root``."""
    config = load_section(params, "tokenize", TokenizeConfig)
    processes = environment_number(os.environ, "GOLF_PROCESSES", usable_cores())
    manifest = tokenize_corpus(config, root, processes=processes)
    print("\n".join(summary(manifest)))


if __name__ == "__main__":
    run_stage(run, description=__doc__)
