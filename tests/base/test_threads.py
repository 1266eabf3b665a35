"""Waiting OpenMP threads: a bounded spin by default, the user's word otherwise, set before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from golf.base.threads import SPIN_COUNT, bound_spin


def test_the_spin_is_bounded_where_nobody_says_otherwise() -> None:
    environment: dict[str, str] = {}
    bound_spin(environment)
    assert environment == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_the_users_environment_wins(given: dict[str, str]) -> None:
    environment = dict(given)
    bound_spin(environment)
    assert environment == given


@pytest.mark.parametrize("entry", ["stages.train", "golf.cli", "benchmarks.train_speed"])
def test_every_entry_sets_it_before_torch_is_loaded(root: Path, entry: str) -> None:
    """An import hook writes down what the environment says at the moment torch is asked for."""
    code = f"""
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("spin", os.environ.get("GOMP_SPINCOUNT"), flush=True)
            raise SystemExit(0)
sys.meta_path.insert(0, Watch())
sys.argv = [{entry!r}, "verify", "no.golf"] if {entry!r} == "golf.cli" else [{entry!r}]
runpy.run_module({entry!r}, run_name="__main__")
"""
    clean = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    clean |= {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=clean, capture_output=True, text=True)
    assert f"spin {SPIN_COUNT}" in done.stdout, done.stderr
