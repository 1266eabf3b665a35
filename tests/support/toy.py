"""A DVC repository with a pipeline that takes no time: what experiments, queues and remotes are tried on.

As in golf, a stage that always runs writes fingerprints that are not in the cache. Every score that is computed adds a
line to the file that the environment's TOY_LOG names.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["git", "toy_repository"]

SCORE = """
import json, os, pathlib, random
import numpy as np
from golf.base.files import save_numpy
from golf.base.params import read_params
from golf.base.score import bits_per_byte

if "TOY_LOG" in os.environ:
    print("ran", file=open(os.environ["TOY_LOG"], "a"))
values = read_params("params.yaml")
rng = random.Random(values["train"]["seed"])
sizes = np.array([100, 250, 400, 150])
nats = sizes * np.array([1.1, 1.2, 1.3, 1.15]) + [rng.random() for _ in sizes] + values["toy"]["clip"]
counts = {"doc_nats": nats, "doc_bytes": sizes, "doc_tokens": sizes // 3}
save_numpy("artifacts/evaluate/hedge.safetensors", counts, {"artifact_sha256": "00"})
pathlib.Path("metrics").mkdir(exist_ok=True)
figures = {"hedge_bits_per_byte": bits_per_byte(float(nats.sum()), int(sizes.sum())), "hedge_seconds": rng.random()}
pathlib.Path("metrics/evaluate_hedge.json").write_text(json.dumps(figures))
pathlib.Path("reports").mkdir(exist_ok=True)
pathlib.Path("reports/summary.json").write_text(json.dumps({**figures, "documents": 4}))
"""
PIPELINE = """
stages:
  code:
    cmd: mkdir -p artifacts/code && cksum score.py > artifacts/code/hedge.txt
    always_changed: true
    outs:
      - artifacts/code:
          cache: false
  hedge:
    cmd: python score.py
    deps: [artifacts/code/hedge.txt, corpus.txt]
    params: [train, toy]
    outs: [artifacts/evaluate/hedge.safetensors]
    metrics:
      - metrics/evaluate_hedge.json
      - reports/summary.json:
          cache: false
"""


def git(folder: Path, *args: str) -> str:
    """Output of git in ``folder``, with an identity of its own."""
    identity = {f"GIT_{who}_{what}": "t@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", *args], cwd=folder, env=os.environ | identity, check=True, capture_output=True)
    return done.stdout.decode()


def toy_repository(folder: Path) -> Path:
    """Make the repository in ``folder`` and commit it; nothing has run yet."""
    folder.mkdir(parents=True)
    (folder / ".dvc").mkdir()
    files = {
        ".dvc/config": "[core]\n    analytics = false\n    check_update = false\n",
        ".dvc/config.local": f"[core]\n    site_cache_dir = {folder / '.dvc/tmp/site'}\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": "/artifacts/\n/metrics/\n",
        "score.py": SCORE,
        "corpus.txt": "a text\n",
        "dvc.yaml": PIPELINE,
        "params.yaml": "train:\n  seed: 7  # the first\ntoy:\n  clip: 8\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "toy")
    return folder
