"""The GPU presets on a pretended GPU, at their full shape: what fails here would fail on the node that is paid for.

Counts are exact. They change with the code, and then belong changed here: `make cuda` runs all checks (minutes), `make
slow` those that take a second or two each. All run in one process of their own, which loads the shim before torch.
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

pytestmark = [pytest.mark.timeout(3600), pytest.mark.slow]  # one process measures all, and machines are busy
LONG = bool(os.environ.get("GOLF_CUDA"))
DR10, DR240, GDN = "h100x8_10min", "h100x8_4h", "gdn_hybrid_h100x8_10min"
RECORD, RECORD12 = "record_h100x8_10min", "record12_h100x8_10min"
_GDN_ONE = "train.tokens_per_step=262144 train.micro_batch_tokens=32768"  # one of its three micro batches
_DR = {"micro": 64, "all_reduce": 2, "all_gather_single": 3, "up": 1}
_GDN = {"micro": 16, "all_reduce": 19, "all_gather_single": 4, "up": 1}
_RECORD = {"micro": 1, "all_reduce": 18, "all_gather_single": 3, "up": 2}  # up: the tokens, and where segments begin

# preset, progress, rank, overrides: depth, QAT updates, messages, copies up; MiB that the uncompiled pass keeps
STEPS = {
    f"step {DR10} 0 0": _DR | {"depth": 2, "qat": 0, "kept_mib": 32013},
    f"step {DR10} 0.99 7 train.qat.below=0.2": _DR | {"depth": 4, "qat": 1, "kept_mib": 62418},
    f"step {DR240} 0.99 7": _DR | {"depth": 5, "qat": 0, "kept_mib": 77621},
    f"step {GDN} 0 7 {_GDN_ONE}": _GDN | {"depth": 1, "qat": 0, "kept_mib": 18839},
    f"step {RECORD} 0 0": _RECORD | {"depth": 1, "qat": 0, "kept_mib": 41761},
    f"step {RECORD12} 0.99 7": _RECORD | {"all_reduce": 20, "depth": 3, "qat": 0, "kept_mib": 67749},
}
LONG_STEPS = {
    **{f"step {DR10} {at} {rank}": _DR | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 2, 32013), (0.5, 3, 47216), (0.99, 4, 62418)) for rank in (0, 7)},
    **{f"step {DR240} {at} {rank}": _DR | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 2, 32013), (0.4, 3, 47216), (0.6, 4, 62418), (0.99, 5, 77621)) for rank in (0, 7)},
    **{f"step {GDN} {at} {rank}": _GDN | {"depth": 1, "qat": 0, "kept_mib": 18839}
       for at in (0, 0.99) for rank in (0, 7)},
    f"step {GDN} 0.99 0 train.qat.below=0.5": _GDN | {"depth": 1, "qat": 1, "kept_mib": 18839},
    **{f"step {RECORD} {at} {rank}": _RECORD | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 1, 41761), (0.99, 3, 63744)) for rank in (0, 7)},
}  # fmt: skip
# waits for each million targets (tokens, of `moments` and `damages`) at most; what is not named must not happen at all
SCORES = {
    f"score {DR10} roundtrip 65536": {"down": 500},
    f"score {DR10} sliding 32768": {"down": 550},
    # one of four; else whole rows: those sampled, and those of the passages for the page, eight in a text of any length
    f"score {DR10} streaming 2048 evaluate.streaming.sampled_rows=8": {"down": 2000},
    f"heldout {DR10} 32768": {"read": 31},
    f"moments {DR10} train 4": {"down": 150000},  # once for each of the 19 matrices, however many tokens
    f"damages {DR10} 4": {"down": 21000},  # once for each of 21 matrices and tables
}
LONG_SCORES = {
    f"score {GDN} roundtrip 65536": {"down": 550},
    f"score {RECORD} roundtrip 98304": {"down": 550},  # of it 20: where a pass's segments begin
    f"score {GDN} sliding 65536": {"down": 550},
    f"score {GDN} streaming 16384": {"down": 2500},
    f"score {DR10} streaming 65536": {"down": 2500},
    f"score {DR10} ttt 2048 evaluate.ttt.enabled=true": {"down": 8000},
    f"moments {DR10} samples 4": {"down": 250000},  # one token at a time, drawn by the host
    f"moments {GDN} train 4": {"down": 1000000},
    f"damages {GDN} 2": {"down": 160000},
    f"damages {RECORD} 1": {"down": 280000},
}
_ONE_LAYER = ("train.depth_phases=[] model.blocks=1 model.repeats=1 model.xsa_last=1 model.cross_repeat_skip=false "
              "train.micro_batch_tokens=2048 train.tokens_per_step=16384")  # fmt: skip
GRAPHS = {f"graphs {DR10} {_ONE_LAYER}": {"graphs": 1}}
LONG_GRAPHS = {f"graphs {DR10}": {"graphs": 3}, f"graphs {DR240}": {"graphs": 4}, f"graphs {GDN}": {"graphs": 5},
               f"graphs {RECORD}": {"graphs": 5}}  # fmt: skip
_TINY = "model.width=64 model.heads=2 model.kv_heads=1 train.micro_batch_tokens=2048 train.tokens_per_step=16384"
REFUSED = {
    f"refused {DR10} graph {_TINY}": "several times slower: process 0 of 8: no ptxas; mend that, or set train.allow_sl",
    f"refused {GDN} kernel {_GDN_ONE}": "process 0 of 8: flash-linear-attention cannot be used (",
    f"refused {DR10} none {_TINY}": "",
}
SAVED = f"saved {DR10} {_TINY}"
FAULTS = ("fault none 0", "fault read 0", "fault host 0", "fault padding 7", "fault kept 0", "fault rows 0",
          "fault segments 0")  # fmt: skip


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all checks of this run, by name."""
    if pretend.compiler() is None:
        pytest.skip("no C++ compiler (c++, g++): the shim that pretends a GPU cannot be built")
    shim = pretend.build_shim(tmp_path_factory.mktemp("shim"))
    names = [*STEPS, *SCORES, *REFUSED, SAVED, *FAULTS, *GRAPHS]
    names += (*LONG_STEPS, *LONG_SCORES, *LONG_GRAPHS) if LONG else ()
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


@pytest.mark.parametrize("name", [*SCORES, *(LONG_SCORES if LONG else ())])
def test_a_score_waits_for_the_gpu_at_most_so_often_for_a_million_targets(found: dict[str, Any], name: str) -> None:
    seen = found[name]
    assert "error" not in seen, seen
    most = {"read": 0, "down": 0, "size": 0} | {**SCORES, **LONG_SCORES}[name]
    assert {kind: seen[kind] for kind in seen if seen[kind] > most.get(kind, seen[kind])} == {}, "waits per million"


@pytest.mark.parametrize("name", REFUSED)
def test_a_slow_substitute_is_refused_before_the_clock_which_starts_warm(found: dict[str, Any], name: str) -> None:
    seen = found[name]
    assert "error" not in seen and REFUSED[name] in seen["told"], seen
    if not REFUSED[name]:  # one whole step: the gradients and the loss, the parts of Muon; and nothing of it is left
        assert seen == {"told": "", "all_reduce": 2, "all_gather_single": 3, "step": 0, "seconds": seen["seconds"]}


def test_snapshots_and_checkpoints_are_copied_behind_the_work_of_the_gpu(found: dict[str, Any]) -> None:
    seen = found[SAVED]
    assert seen.get("wrote") == ["save_snapshot", "save"], seen
    assert seen["read"] == 1 and seen["behind"] == seen["tensors"] and not seen.get("down"), seen


@pytest.mark.parametrize("name", [*GRAPHS, *(LONG_GRAPHS if LONG else ())])
def test_graphs_are_whole_and_made_before_the_clock(found: dict[str, Any], name: str) -> None:
    seen = {key: value for key, value in found[name].items() if key != "seconds"}
    assert seen == {**GRAPHS, **LONG_GRAPHS}[name] | {"recompiles": 0, "breaks": 0}


def test_the_checks_find_what_is_planted(found: dict[str, Any]) -> None:
    assert "error" not in found["fault none 0"], found["fault none 0"]
    assert "_local_scalar_dense" in found["fault read 0"]["error"]
    assert "two devices" in found["fault host 0"]["error"] and "two devices" in found["fault padding 7"]["error"]
    assert found["fault kept 0"]["kept_mib"] > found["fault none 0"]["kept_mib"]
    assert found["fault rows 0"]["read"] > 500_000
    assert found["fault segments 0"]["down"] == 1, found["fault segments 0"]


def test_every_preset_of_gpus_is_checked(root: Path) -> None:
    presets = {path.stem for path in (root / "conf/preset").glob("*h100*.yaml")}
    checked = {name.split()[1] for name in STEPS}
    assert presets == checked, "add its steps here: `make cuda` prints what it counts"
