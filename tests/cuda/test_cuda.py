"""The GPU presets on a pretended GPU, at their full shape: what fails here would fail on the node that is paid for.

Counts are exact. They change with the code, and then belong changed here. `make test` runs small ones and the planted
faults, `make slow` those that take a second or two each, `make cuda` all (minutes). Those that are chosen run in one
process of their own, which loads the shim before torch; `python tests/cuda/probe.py CHECK...` prints what it counts.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import faults
import pretend

from golf.cli.params import compose
from golf.scoring.modes import MODES

pytestmark = pytest.mark.timeout(3600)  # one process measures all, and machines are busy
LONG = bool(os.environ.get("GOLF_CUDA"))
DR10, DR240, GDN = "h100x8_10min", "h100x8_4h", "gdn_hybrid_h100x8_10min"
RECORD, RECORD12 = "record_h100x8_10min", "record12_h100x8_10min"
_GDN_ONE = "train.tokens_per_step=262144 train.micro_batch_tokens=32768"  # one of its three micro batches
_TINY = "model.width=64 model.heads=2 model.kv_heads=1 train.micro_batch_tokens=2048 train.tokens_per_step=16384"
_ONE_BLOCK = "model.blocks=1 model.xsa_last=1 model.cross_repeat_skip=false"
_ONE_LAYER = f"{_ONE_BLOCK} model.repeats=1 train.depth_phases=[]"
_TWO_DEPTHS = f"{_ONE_BLOCK} model.repeats=2 train.depth_phases=[[0.5,1],[1.0,2]]"
_ROUND = "evaluate.roundtrip.window=64"
_TTT = "evaluate.ttt.enabled=true evaluate.ttt.update_tokens=64"
_ONE_SEGMENT = "model.bos_id=5"  # what is read is ones: no token begins a document, and fp32 attends by segments
_DR = {"micro": 64, "all_reduce": 2, "all_gather_single": 3, "up": 1}
_GDN = {"micro": 16, "all_reduce": 19, "all_gather_single": 4, "up": 1}
_RECORD = {"micro": 1, "all_reduce": 18, "all_gather_single": 3, "up": 2}  # up: the tokens, and where segments begin
_RECORD12 = _RECORD | {"all_reduce": 20}

# preset, progress, rank, overrides: depth, QAT updates, messages, copies up; MiB that the uncompiled pass keeps
STEPS = {
    f"step {DR10} 0 0": _DR | {"depth": 2, "qat": 0, "kept_mib": 33890},
    f"step {DR10} 0.99 7 train.qat.below=0.2": _DR | {"depth": 4, "qat": 1, "kept_mib": 66796},
    f"step {DR240} 0.99 7": _DR | {"depth": 5, "qat": 0, "kept_mib": 83249},
    f"step {GDN} 0 7 {_GDN_ONE}": _GDN | {"depth": 1, "qat": 0, "kept_mib": 20760},
    f"step {RECORD} 0 0": _RECORD | {"depth": 1, "qat": 0, "kept_mib": 45465},
    f"step {RECORD12} 0.99 7": _RECORD12 | {"depth": 3, "qat": 0, "kept_mib": 74048},
    **{f"step {DR10} 0 {rank} {_TINY}": _DR | {"micro": 2, "depth": 2, "qat": 0, "kept_mib": 150} for rank in (0, 7)},
}
LONG_STEPS = {
    **{f"step {DR10} {at} {rank}": _DR | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 2, 33890), (0.5, 3, 50343), (0.99, 4, 66796)) for rank in (0, 7)},
    **{f"step {DR240} {at} {rank}": _DR | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 2, 33890), (0.4, 3, 50343), (0.6, 4, 66796), (0.99, 5, 83249)) for rank in (0, 7)},
    **{f"step {GDN} {at} {rank}": _GDN | {"depth": 1, "qat": 0, "kept_mib": 20760}
       for at in (0, 0.99) for rank in (0, 7)},
    f"step {GDN} 0.99 0 train.qat.below=0.5": _GDN | {"depth": 1, "qat": 1, "kept_mib": 20760},
    **{f"step {RECORD} {at} {rank}": _RECORD | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 1, 45465), (0.99, 3, 69549)) for rank in (0, 7)},
    **{f"step {RECORD12} {at} {rank}": _RECORD12 | {"depth": depth, "qat": 0, "kept_mib": kept}
       for at, depth, kept in ((0, 1, 49964), (0.99, 3, 74048)) for rank in (0, 7)},
}  # fmt: skip
# of full shape and in `make test` nonetheless
QUICK = {f"step {DR10} 0 0", f"step {RECORD} 0 0", f"fault segments step {RECORD} 0 0"}
# for a million targets (tokens, of `moments` and `damages`) at most: waits, of which those not named must not happen at
# all, and what is launched; of the 692,000 of streaming 100,000 are the document bias
SCORES = {
    f"score {DR10} roundtrip 65536": {"down": 500, "launched": 18_000},
    f"score {DR10} sliding 32768": {"down": 550, "launched": 54_000},
    # one of four; else whole rows: those sampled, and those of the passages for the page, eight in a text of any length
    f"score {DR10} streaming 2048 evaluate.streaming.sampled_rows=8": {"down": 2000, "launched": 693_000},
    f"heldout {DR10} 131072": {"read": 8, "launched": 28_500},
    f"moments {DR10} train 16": {"down": 38_000, "launched": 4_400_000},  # down: once for each of the 19 matrices
    f"damages {DR10} 4": {"down": 21_000, "launched": 9_200_000},  # down: once for each of 21 matrices and tables
    f"score {DR10} roundtrip 64 {_TINY} {_ROUND}": {"down": 15_625, "launched": 12_400_000},
    f"score {DR10} streaming 2048 evaluate.streaming.sampled_rows=8 {_TINY}": {"down": 2000, "launched": 693_000},
    f"heldout {DR10} 65536 {_TINY}": {"read": 16, "launched": 28_500},
    f"moments {DR10} train 16 {_TINY}": {"down": 38_000, "launched": 4_400_000},
}
LONG_SCORES = {
    f"score {GDN} roundtrip 65536": {"down": 500, "launched": 22_500},
    f"score {RECORD} roundtrip 98304": {"down": 550, "launched": 33_500},  # of it 20: where a pass's segments begin
    f"score {GDN} sliding 65536": {"down": 550, "launched": 74_000},
    f"score {RECORD} sliding 98304": {"down": 600, "launched": 117_000},
    f"score {GDN} streaming 16384": {"down": 2500, "launched": 222_000},
    f"score {DR10} streaming 65536": {"down": 2000, "launched": 331_000},
    f"score {DR10} streaming 65536 evaluate.streaming.attention=band": {"down": 2000, "launched": 135_000},
    f"score {RECORD} streaming 4096 evaluate.streaming.sampled_rows=8": {"down": 3000, "launched": 757_000},
    f"score {DR10} ttt 512 {_TTT}": {"down": 16_000, "launched": 54_500_000},  # down: once for each of 8 pieces
    f"score {GDN} ttt 512 {_TTT}": {"down": 16_000, "launched": 79_500_000},
    f"score {RECORD} ttt 512 {_TTT}": {"down": 16_000, "launched": 87_000_000},
    f"heldout {GDN} 131072": {"read": 8, "launched": 51_000},
    f"heldout {RECORD} 131072 {_ONE_SEGMENT}": {"read": 8, "down": 16, "launched": 22_500},
    f"moments {DR10} samples 4": {"down": 250_000, "launched": 203_000_000},  # one token at a time, drawn by the host
    f"moments {GDN} train 16": {"down": 160_000, "launched": 6_200_000},
    f"moments {RECORD} train 16 {_ONE_SEGMENT}": {"down": 135_000, "launched": 6_900_000},
    f"damages {GDN} 2": {"down": 160_000, "launched": 18_600_000},
    f"damages {RECORD} 1 {_ONE_SEGMENT}": {"down": 270_000, "launched": 16_200_000},
}
GRAPHS = {f"graphs {DR10} {_TINY} {_ONE_LAYER}": {"graphs": 1}, f"graphs {DR10} {_TINY} {_TWO_DEPTHS}": {"graphs": 2}}
LONG_GRAPHS = {f"graphs {DR10}": {"graphs": 3}, f"graphs {DR240}": {"graphs": 4}, f"graphs {GDN}": {"graphs": 5},
               f"graphs {RECORD}": {"graphs": 7}, f"graphs {RECORD12}": {"graphs": 7}}  # fmt: skip
REFUSED = {
    f"refused {DR10} none {_TINY}": "",
    f"refused {DR10} graph {_TINY}": "several times slower: process 0 of 8: no ptxas; mend that, or set train.allow_sl",
    f"refused {GDN} kernel {_GDN_ONE}": "process 0 of 8: flash-linear-attention cannot be used (",
}
SAVED = {f"saved {DR10} {_TINY}": {"read": 1, "behind": 181}}
# a fault of `faults.py` in one of the checks above, which fails: what it then counts, or its error
FAULTS = {
    f"fault read step {DR10} 0 0 {_TINY}": {"error": "_local_scalar_dense"},
    f"fault host step {DR10} 0 0 {_TINY}": {"error": "two devices"},
    f"fault padding step {DR10} 0 7 {_TINY}": {"error": "two devices"},
    f"fault kept step {DR10} 0 0 {_TINY}": {"kept_mib": 156},
    f"fault messages step {DR10} 0 0 {_TINY}": {"all_reduce": 37},
    f"fault segments step {RECORD} 0 0": {"down": 1},
    f"fault break graphs {DR10} {_TINY} {_ONE_LAYER}": {"error": "not possible here (Call to `torch._dynamo.graph_bre"},
    f"fault depths graphs {DR10} {_TINY} {_TWO_DEPTHS}": {"graphs": 1, "recompiles": 1},
    f"fault snapshot saved {DR10} {_TINY}": {"down": 181},
    f"fault rows score {DR10} roundtrip 64 {_TINY} {_ROUND}": {"read": 1_000_000, "launched": 13_250_000},
    f"fault batches heldout {DR10} 65536 {_TINY}": {"read": 46},
    f"fault activations moments {DR10} train 16 {_TINY}": {"down": 283_204},
}


def chosen(*tables: Mapping[str, Any], long: Mapping[str, Any] | None = None) -> list[Any]:
    """The checks of ``tables`` as parameters, slow but for those of small models and ``QUICK``; the ``long`` too, where
    they are asked for."""
    names = [name for table in (*tables, (long or {}) if LONG else {}) for name in table]
    quick = {name for name in names if _TINY in name} | QUICK
    slow = pytest.mark.slow
    return [pytest.param(name, id=name, marks=() if name in quick else slow) for name in dict.fromkeys(names)]


@pytest.fixture(scope="session")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of the checks whose tests are to run, by name; of several workers the first measures them."""
    if pretend.compiler() is None:
        pytest.skip("no C++ compiler (c++, g++): the shim that pretends a GPU cannot be built")
    functions = [item for item in request.session.items if isinstance(item, pytest.Function)]
    here = [item for item in functions if item.path == Path(__file__) and "found" in item.fixturenames]
    names = list(dict.fromkeys(item.callspec.params["name"] for item in here))
    folder = tmp_path_factory.getbasetemp()
    results = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "pretended_gpu.json"
    with results.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not results.stat().st_size:
            command = [sys.executable, str(Path(__file__).with_name("probe.py")), *names]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
            file.write(done.stdout)
        file.seek(0)
        return json.load(file)


def check_step(seen: dict[str, Any], name: str) -> None:
    """Exact counts, no wait, one read of losses afterwards."""
    expected = {**LONG_STEPS, **STEPS}[name]
    assert {key: seen.get(key) for key in expected} == expected, seen
    assert not seen.get("read") and not seen.get("down") and not seen.get("size"), "the step waits for the GPU"
    assert seen["reads_of_losses"] == 1


def check_score(seen: dict[str, Any], name: str) -> None:
    """No more waits and launches than stated."""
    assert "error" not in seen, seen
    most = {"read": 0, "down": 0, "size": 0} | {**SCORES, **LONG_SCORES}[name]
    assert {kind: seen[kind] for kind in seen if seen[kind] > most.get(kind, seen[kind])} == {}, "per million"


def check_saved(seen: dict[str, Any], name: str) -> None:
    """Everything is copied behind the work of the GPU."""
    assert seen.get("wrote") == ["save_snapshot", "save"], seen
    assert {key: seen.get(key) for key in SAVED[name]} == SAVED[name] and not seen.get("down"), seen
    assert seen["behind"] == seen["tensors"]


def check_graphs(seen: dict[str, Any], name: str) -> None:
    """So many graphs before the clock and none later."""
    assert "error" not in seen, seen
    counts = {key: value for key, value in seen.items() if key != "seconds"}
    assert counts == {**GRAPHS, **LONG_GRAPHS}[name] | {"recompiles": 0, "breaks": 0}


CHECKS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "step": check_step, "graphs": check_graphs, "saved": check_saved,
    **dict.fromkeys(("score", "heldout", "moments", "damages"), check_score),
}  # fmt: skip


@pytest.mark.parametrize("name", chosen(STEPS, long=LONG_STEPS))
def test_a_step_stays_on_the_gpu_reads_nothing_and_sends_what_it_should(found: dict[str, Any], name: str) -> None:
    check_step(found[name], name)


@pytest.mark.parametrize("name", chosen(SCORES, long=LONG_SCORES))
def test_a_score_waits_and_launches_at_most_so_often_for_a_million_targets(found: dict[str, Any], name: str) -> None:
    check_score(found[name], name)


@pytest.mark.parametrize("name", chosen(REFUSED))
def test_a_slow_substitute_is_refused_before_the_clock_which_starts_warm(found: dict[str, Any], name: str) -> None:
    seen = found[name]
    assert "error" not in seen and REFUSED[name] in seen["told"], seen
    if not REFUSED[name]:  # one whole step: the gradients and the loss, the parts of Muon; and nothing of it is left
        assert seen == {"told": "", "all_reduce": 2, "all_gather_single": 3, "step": 0, "seconds": seen["seconds"]}


@pytest.mark.parametrize("name", chosen(SAVED))
def test_snapshots_and_checkpoints_are_copied_behind_the_work_of_the_gpu(found: dict[str, Any], name: str) -> None:
    check_saved(found[name], name)


@pytest.mark.parametrize("name", chosen(GRAPHS, long=LONG_GRAPHS))
def test_graphs_are_whole_and_made_before_the_clock(found: dict[str, Any], name: str) -> None:
    check_graphs(found[name], name)


@pytest.mark.parametrize("name", chosen(FAULTS))
def test_a_planted_fault_fails_its_check(found: dict[str, Any], name: str) -> None:
    seen, expected, check = found[name], FAULTS[name], name.split(maxsplit=2)[2]
    with pytest.raises(AssertionError):
        CHECKS[check.split()[0]](seen, check)
    assert expected.get("error", "") in seen.get("error", ""), seen
    assert {key: seen.get(key) for key in expected if key != "error"} == {
        key: value for key, value in expected.items() if key != "error"
    }, seen


def test_every_fault_is_planted_in_a_check_that_passes_without_it() -> None:
    sound = {*STEPS, *SCORES, *SAVED, *GRAPHS}
    assert {name.split(maxsplit=2)[2] for name in FAULTS} <= sound
    assert {name.split()[1] for name in FAULTS} == set(faults.FAULTS)


def family_of(root: Path, preset: str) -> str:
    """The family of a preset's model."""
    return str(compose(root / "conf", preset=preset)["model"]["family"])


def presets(root: Path) -> set[str]:
    """Those of GPUs."""
    return {path.stem for path in (root / "conf/preset").glob("*h100*.yaml")}


def test_every_preset_of_gpus_is_checked(root: Path) -> None:
    for kind, names in (("step", STEPS), ("graphs", {**GRAPHS, **LONG_GRAPHS})):
        checked = {name.split()[1] for name in names if _TINY not in name}
        assert presets(root) == checked, f"add its {kind} here: `make cuda` prints what it counts"


def test_every_family_is_scored_in_every_mode(root: Path) -> None:
    modes = {f"score {mode}" for mode in MODES if mode != "hedge"}  # over what streaming left: not on a GPU
    families = {preset: family_of(root, preset) for preset in presets(root)}
    full = [name.split() for name in (*SCORES, *LONG_SCORES) if _TINY not in name]
    rows = {(families[words[1]], "score " + words[2] if words[0] == "score" else words[0]) for words in full}
    expected = {(family, mode) for family in families.values() for mode in modes | {"heldout", "moments", "damages"}}
    assert rows == expected, "add its score here: `make cuda` prints what it counts"
