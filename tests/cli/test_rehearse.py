"""`golf rehearse`: what it forces, which stages it runs, and that a broken branch is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from golf.cli.params import compose
from golf.cli.rehearse import forced, rehearse, stage_commands, synthetic_corpus
from golf.models.registry import config_from_dict
from golf.params import from_dict
from golf.schedule.plan import plan
from golf.training.config import TrainConfig, qat_differences

PRESETS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "conf/preset").glob("*.yaml"))

TRAIN = """
import json, pathlib, signal, sys, time
root = pathlib.Path(sys.argv[sys.argv.index("--root") + 1])
saved = root / "ckpt" / "run" / "checkpoint.safetensors"
if {broken}:
    print("step 3/24  loss 1"); sys.exit(0)
if not saved.exists():
    def stop(signum, frame):
        saved.parent.mkdir(parents=True); saved.write_text(""); print("saved"); sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    for step in range(1, 200):
        print(f"step {{step}}/24  loss 1", flush=True); time.sleep(0.05)
    sys.exit(1)
print("resuming after step 4")
(root / "artifacts/train").mkdir(parents=True)
ledger = dict(steps=24, depth_phases=[[1, 2], [9, 3], [20, 4]], lr_multiplier_last=0.1, snapshot_steps=[20, 24],
              ema_updates=24, qat=dict(fake_quantisations=dict(a=3), share_of_quantised_weights={share}))
(root / "artifacts/train/ledger.json").write_text(json.dumps(ledger))
"""


def repository(folder: Path, *, share: float = 1.0, broken: bool = False) -> Path:
    (folder / "stages").mkdir()
    (folder / "stages/__init__.py").write_text("")
    (folder / "stages/train.py").write_text(TRAIN.format(share=share, broken=broken))
    (folder / "stages/evaluate.py").write_text("import sys\nprint('scored', sys.argv[1])\n")
    (folder / "stages/report.py").write_text("raise SystemExit('report: error: no such thing')\n")
    (folder / "dvc.yaml").write_text(
        "stages:\n  train:\n    cmd: python -m stages.train\n  evaluate:\n    matrix:\n      mode: [one, two]\n"
        "    cmd: python -m stages.evaluate ${item.mode}\n  report:\n    cmd: python -m stages.report\n"
    )
    return folder


@pytest.fixture
def values(root: Path) -> dict[str, Any]:
    return forced(compose(root / "conf"), cuda=False, compiled=False)


def seen(values: dict[str, Any], project: Path, work: Path) -> dict[str, bool]:
    return {branch.name: branch.passed for branch in rehearse(values, project, work, say=lambda line: None)}


def test_stop_resume_every_system_and_every_stage(values: dict[str, Any], tmp_path: Path) -> None:
    got = seen(values, repository(tmp_path), tmp_path / "work")
    systems = ["depths", "warmdown", "snapshots", "moving average", "QAT"]
    assert list(got) == ["train, stopped", "train, resumed", *systems, "evaluate one", "evaluate two", "report"]
    assert [name for name, passed in got.items() if not passed] == ["report"]


def test_a_system_that_never_acted_fails(values: dict[str, Any], tmp_path: Path) -> None:
    got = seen(values, repository(tmp_path, share=0.9), tmp_path / "work")
    assert not got["QAT"] and got["snapshots"] and "evaluate one" not in got


def test_training_that_does_not_save_fails(values: dict[str, Any], tmp_path: Path) -> None:
    assert seen(values, repository(tmp_path, broken=True), tmp_path / "work") == {"train, stopped": False}


def test_the_stages_are_those_of_the_pipeline(root: Path) -> None:
    commands = dict(stage_commands(root / "dvc.yaml"))
    assert commands["train"] == ["-m", "stages.train"]
    assert commands["evaluate sliding"] == ["-m", "stages.evaluate", "sliding"]
    assert {"tokenize", "average", "quantize", "compress", "evaluate roundtrip", "report"} <= set(commands)


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_forced_triggers_of_every_preset_pass_their_plan(root: Path, preset: str, cuda: bool) -> None:
    original = compose(root / "conf", preset=preset)
    changed = forced(original, cuda=cuda, compiled=False)
    config = from_dict(TrainConfig, changed["train"])
    depth = getattr(config_from_dict(changed["model"]), "repeats", 1)
    (case,) = plan(config.schedule(depth)).cases
    assert case.qat_steps >= 2 and len(case.snapshot_steps) >= 2 and case.steps <= 60
    assert qat_differences(config.qat, changed["quantize"]) == []
    assert changed["model"] == original["model"]
    if cuda:
        assert config.sequence_length == original["train"]["sequence_length"]
        assert config.micro_batch_tokens == original["train"]["micro_batch_tokens"]
    else:
        assert config.tokens_per_step <= 256


def test_the_corpus_is_the_same_at_every_call(tmp_path: Path) -> None:
    for name in ("one", "two"):
        synthetic_corpus(tmp_path / name, documents=3)
    texts = [[path.read_text() for path in sorted((tmp_path / name).iterdir())] for name in ("one", "two")]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3
