"""Stage `verify`: the scores of this artifact are code lengths of real text, checked on the real scorers.

In: artifacts/compress (artifact and decoder), artifacts/tokens (manifest and the three splits).
Out: metrics/verify.json, written before the stage fails where a check does. Environment: OMP_NUM_THREADS.
"""

from __future__ import annotations

from pathlib import Path

from golf.base.main import run_stage


def run(params: Path, root: Path) -> int:
    """Run every check on the files below ``root``; 1 when one failed."""
    from golf.verify.run import verify_files

    folder, metrics = root / "artifacts/compress", root / "metrics/verify.json"
    return verify_files(
        params,
        artifact=folder / "model.golf",
        decoder=folder / "decoder.zip",
        tokens=root / "artifacts/tokens",
        metrics=metrics,
        run_decoder=True,  # made by the stage before
    )


if __name__ == "__main__":
    run_stage(run, description=__doc__)
