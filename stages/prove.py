"""Stage `prove`: a sample of the validation documents becomes a file and comes back, byte for byte.

In: artifacts/compress/model.golf, artifacts/tokens/val. Out: artifacts/prove/sample.golfz, metrics/prove.json.
GOLF_THREADS is the number of threads (default: all cores); with portable arithmetic it changes the speed only.
"""

from __future__ import annotations

import os
from pathlib import Path

from golf.base.distributed import usable_cores
from golf.base.files import write_json
from golf.base.main import environment_number, run_stage
from golf.base.params import load_section
from golf.data.shards import load_split
from golf.data.tokenizer import Tokenizer
from golf.report.baselines import text_sizes
from golf.textcodec.prove import ProveConfig, prove, sample_tokens


def run(params: Path, root: Path) -> int:
    """Code, decode, compare, write."""
    config = load_section(params, "prove", ProveConfig)

    from golf.textcodec.model import open_model

    decoded = open_model(root / "artifacts/compress/model.golf")
    split = load_split(root / "artifacts/tokens/val")
    threads = environment_number(os.environ, "GOLF_THREADS", usable_cores())
    metrics = prove(split, root / "artifacts/prove/sample.golfz", decoded, config, threads=threads)
    text = Tokenizer(decoded.tokenizer_model).decode(sample_tokens(split, config.max_tokens))
    metrics |= {f"prove_{name}_bytes": size for name, size in text_sizes(text).items()}
    write_json(root / "metrics/prove.json", metrics)
    print(
        f"proved: {metrics['prove_text_bytes']:,} bytes -> {metrics['prove_coded_bytes']:,} bytes, decoded identical; "
        f"code {metrics['prove_overhead_percent']:+.4f} % of the stated length; "
        f"{metrics['prove_zip_tokens_per_second']:,.0f} and {metrics['prove_unzip_tokens_per_second']:,.0f} tokens/s",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    run_stage(run, description=__doc__)
