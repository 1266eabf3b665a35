"""The GPU presets on a pretended GPU, at their full shape: what fails here would fail on the node that is paid for.

Counts are exact. They change with the code, and then belong changed here: `make cuda` runs all checks (minutes), `make
test` those that take a second or two. All run in one process of their own, which loads the shim before torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import pretend

LONG = bool(os.environ.get("GOLF_CUDA"))
DR10, DR240, GDN = "h100x8_10min", "h100x8_4h", "gdn_hybrid_h100x8_10min"
_GDN_ONE = "train.tokens_per_step=262144 train.micro_batch_tokens=32768"  # one of its three micro batches
_DR = {"micro": 64, "all_reduce": 12, "all_gather_single": 3, "up": 1}
_GDN = {"micro": 16, "all_reduce": 19, "all_gather_single": 4, "up": 1}

# preset, progress, rank, overrides: depth, QAT updates, messages, copies up; MiB that the uncompiled pass keeps
STEPS = {
    f"step {DR10} 0 0": _DR | {"depth": 2, "qat": 0, "kept_mib": 32013},
    f"step {DR10} 0.99 7 train.qat.below=0.2": _DR | {"depth": 4, "qat": 1, "kept_mib": 62418},
    f"step {DR240} 0.99 7": _DR | {"depth": 5, "qat": 0, "kept_mib": 77621},
    f"step {GDN} 0 7 {_GDN_ONE}": _GDN | {"depth": 1, "qat": 0, "kept_mib": 18839},
}
LONG_STEPS = {
    **{f"step {DR10} {at} {rank}": _DR | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 2, 32013), (0.5, 3, 47216), (0.99, 4, 62418)) for rank in (0, 7)},
    **{f"step {DR240} {at} {rank}": _DR | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 2, 32013), (0.4, 3, 47216), (0.6, 4, 62418), (0.99, 5, 77621)) for rank in (0, 7)},
    **{f"step {GDN} {at} {rank}": _GDN | {"depth": 1, "qat": 0, "kept_mib": 18839}
       for at in (0, 0.99) for rank in (0, 7)},
    f"step {GDN} 0.99 0 train.qat.below=0.5": _GDN | {"depth": 1, "qat": 1, "kept_mib": 18839},
}  # fmt: skip
# waits for each million targets, at most: a copy of the nats and a question whether all are finite for every pass
SCORES = {
    f"score {DR10} roundtrip 65536": {"read": 500, "down": 500},
    f"score {DR10} sliding 32768": {"read": 550, "down": 550},
    f"score {DR10} streaming 2048": {"read": 2000, "down": 7000, "size": 17000},
    f"heldout {DR10} 32768": {"read": 40, "down": 0},
    f"moments {DR10} train 8": {"read": 0, "down": 600000},
}
FAULTS = ("fault none 7", "fault read 0", "fault host 0", "fault padding 0", "fault padding 7", "fault kept 0",
          "fault rows 0")  # fmt: skip


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all checks of this run, by name."""
    if pretend.compiler() is None:
        pytest.skip("no C++ compiler (c++, g++): the shim that pretends a GPU cannot be built")
    shim = pretend.build_shim(tmp_path_factory.mktemp("shim"))
    names = [*STEPS, *SCORES, *FAULTS, *(LONG_STEPS if LONG else ())]
    probe = Path(__file__).with_name("probe.py")
    done = subprocess.run([sys.executable, str(probe), str(shim), *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [*STEPS, *(LONG_STEPS if LONG else ())])
def test_a_step_at_full_shape_stays_on_the_gpu_reads_nothing_and_sends_what_it_should(
    found: dict[str, Any], name: str
) -> None:
    seen, expected = found[name], {**LONG_STEPS, **STEPS}[name]
    assert {key: seen.get(key) for key in expected} == expected, seen
    assert not seen.get("read") and not seen.get("down") and not seen.get("size"), "the step waits for the GPU"
    assert seen["reads_of_losses"] == 1


@pytest.mark.parametrize("name", SCORES)
def test_a_score_waits_for_the_gpu_at_most_so_often_for_a_million_targets(found: dict[str, Any], name: str) -> None:
    seen = found[name]
    assert "error" not in seen, seen
    assert {kind: seen.get(kind, 0) for kind in SCORES[name] if seen.get(kind, 0) > SCORES[name][kind]} == {}


def test_the_checks_find_what_is_planted(found: dict[str, Any]) -> None:
    assert "error" not in found["fault none 7"], found["fault none 7"]
    assert "_local_scalar_dense" in found["fault read 0"]["error"]
    assert "two devices" in found["fault host 0"]["error"] and "two devices" in found["fault padding 7"]["error"]
    assert "error" not in found["fault padding 0"], "the last ranks alone have padding"
    assert found["fault kept 0"]["kept_mib"] > found["fault none 7"]["kept_mib"]
    assert found["fault rows 0"]["read"] > 500_000


def test_every_preset_of_gpus_is_checked(root: Path) -> None:
    presets = {path.stem for path in (root / "conf/preset").glob("*h100*.yaml")}
    assert presets == {name.split()[1] for name in STEPS}, "add its steps here: `make cuda` prints what it counts"
