"""The bounded part of the kills: some of the changes of the stages that take well under a second."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).with_name("run.py")


def test_bug_k18_k19_kills_leave_the_old_or_the_new_and_the_next_run_ends_alike(root: Path) -> None:
    """Old outputs were gone after a kill, temporary files stayed, and a half-removed checkpoint stopped every run."""
    command = [sys.executable, str(RUN), "tokenize", "train", "average", "--every", "17"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(root)}, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count(" 0 faults") == 3


def test_every_stage_of_the_pipeline_is_killed(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("kills", RUN)
    assert spec is not None and spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    assert tuple(run.outputs()) == run.STAGES
