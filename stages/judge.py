"""Stage `judge`: how far the artifact of an imported model is from its origin, on held-out text of two domains.

In: artifacts/{average,compress}, artifacts/tokens/{judged,tokenizer.model}.
Out: artifacts/judge/points.json (also by window, for paired differences), metrics/judge.json.
"""

from __future__ import annotations

from pathlib import Path

from golf.artifact.decode import load_artifact
from golf.base.distributed import usable_cores
from golf.base.files import write_json
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.imports.judge import JudgeConfig, compared, judged_texts, origin_model, point


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for wrong parameters, weights or tokens."""
    config = load_section(params, "judge", JudgeConfig)
    origin = origin_model(root)
    texts = judged_texts(root, config, origin)
    found = load_artifact(root / "artifacts/compress/model.golf", threads=usable_cores())
    rows = {domain: compared(text, origin, found.model) for domain, text in texts.items()}
    result = point("golf", found.num_bytes, rows)
    write_json(root / "artifacts/judge/points.json", {"points": [result]})
    write_json(root / "metrics/judge.json", {"judge_bytes": found.num_bytes, **result["summary"]})
    for key, value in result["summary"].items():
        print(f"{key.replace('_', ' ')}: {value:.6g}", flush=True)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
