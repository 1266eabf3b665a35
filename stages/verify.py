"""Stage `verify`: the scores of this artifact are code lengths of real text, checked on the real scorers.

In: artifacts/compress (artifact and decoder), artifacts/tokens (manifest and the three splits).
Out: metrics/verify.json, written before the stage fails where a check does. Environment: OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from golf.files import write_json
from golf.guard import main_guard
from golf.params import load_section
from golf.shipping import CompressConfig
from golf.verify.run import Inputs, VerifyConfig, format_result, metrics_of, verify
from golf.verify.scorers import load_modes


def main() -> int:
    """Check with the section `verify` and those of the modes it names."""
    parser = argparse.ArgumentParser(prog="python -m stages.verify", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--root", type=Path, default=Path("."))
    args = parser.parse_args()
    return run(args.params, args.root)


def run(params: Path, root: Path) -> int:
    """Run every check, write the measured values, return 1 when one failed."""
    config = load_section(params, "verify", VerifyConfig)
    inputs = Inputs(
        artifact=root / "artifacts/compress/model.golf",
        decoder=root / "artifacts/compress/decoder.zip",
        tokens=root / "artifacts/tokens",
        limit_bytes=load_section(params, "compress", CompressConfig).limit_bytes,
        modes=load_modes(params, config.modes),
    )
    begin = time.perf_counter()
    results = verify(inputs, config, each=lambda result: print(format_result(result), flush=True))
    write_json(root / "metrics/verify.json", metrics_of(results, time.perf_counter() - begin))
    failed = [f"{result.scorer} {result.name}" for result in results if result.passed is False]
    print(f"verify: {len(results)} checks, failed: {', '.join(failed) or 'none'}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    main_guard(main, name="verify")
