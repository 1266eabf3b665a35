"""Shared test set-up: one thread per worker, reproducible hypothesis runs, and the optional shared data folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from golf.base.threads import bound_spin
from warm import Warm, warm_process

bound_spin(os.environ)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "2")
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # the OpenMP layer gives torch its two threads: they spin
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

settings.register_profile(
    "golf", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("golf")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def warm(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Runs `python ...` in children of a process that has imported everything."""
    with warm_process(root, tmp_path_factory.mktemp("warm")) as process:
        yield process


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The optional folder of real text beside the checkout; tests that need it are skipped without it."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("../shared/data is not here")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that none of them runs alone at the end."""
    longest = ("test_every_stage_boundary", "test_gdn_hybrid_goes", "test_bug_k18_k19", "test_killed_and_stopped")
    items.sort(key=lambda item: not any(name in item.nodeid for name in longest))
