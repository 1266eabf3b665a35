"""`golf rehearse`: what it forces, which stages it runs, and that a broken branch is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from golf.base.params import from_dict
from golf.cli.rehearse import forced, rehearse, smaller, stage_commands, synthetic_corpus
from golf.models.registry import config_from_dict
from golf.training.config import TrainConfig, check_qat, qat_differences
from golf.training.plan import plan
from shipped import PRESETS, shipped

TRAIN = """
import json, pathlib, signal, sys, time
root = pathlib.Path(sys.argv[sys.argv.index("--root") + 1])
saved = root / "ckpt" / "run" / "state_00000004.safetensors"
train = json.loads((root / "params.json").read_text())["train"]
if train["micro_batch_tokens"] > {fits}:
    print("train: error: out of memory on cuda"); sys.exit(1)
if {broken}:
    print("step 3/24  loss 1"); sys.exit(0)
if not saved.exists():
    def stop(signum, frame):
        saved.parent.mkdir(parents=True); saved.write_text("")
        print("train: SIGTERM after step 4: checkpoint saved"); sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    for step in range(1, 200):
        print(f"step {{step}}/24  loss 1", flush=True); time.sleep(0.05)
    sys.exit(1)
print("resuming after step 4")
(root / "artifacts/train").mkdir(parents=True)
ledger = dict(steps=24, depth_phases=[[1, 2], [9, 3], [20, 4]], lr_multiplier_last=0.1, snapshot_steps=[20, 24],
              ema_updates=24, qat=dict(fake_quantizations=dict(a=3), share_of_quantized_weights={share}))
(root / "artifacts/train/ledger.json").write_text(json.dumps(ledger))
"""


def repository(folder: Path, *, share: float = 1.0, broken: bool = False, fits: int = 10**6) -> Path:
    (folder / "stages").mkdir()
    (folder / "stages/__init__.py").write_text("")
    (folder / "stages/train.py").write_text(TRAIN.format(share=share, broken=broken, fits=fits))
    (folder / "stages/evaluate.py").write_text("import sys\nprint('scored', sys.argv[1])\n")
    (folder / "stages/report.py").write_text("raise SystemExit('report: error: no such thing')\n")
    (folder / "dvc.yaml").write_text(
        "stages:\n  train:\n    cmd: python -m stages.train\n  evaluate:\n    matrix:\n      mode: [one, two]\n"
        "    cmd: python -m stages.evaluate ${item.mode}\n  report:\n    cmd: python -m stages.report\n"
    )
    return folder


def repository_again(folder: Path, **options: Any) -> Path:
    (folder / "again").mkdir()
    return repository(folder / "again", **options)


@pytest.fixture
def values() -> dict[str, Any]:
    values = shipped()
    values["quantize"]["method"] = "sdclip"
    return forced(values, cuda=False, compiled=False)


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


def test_a_micro_batch_that_does_not_fit_is_halved_and_the_one_that_does_is_told(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["train"].update(micro_batch_tokens=512)  # of sequences of 64
    lines: list[str] = []
    branches = rehearse(values, repository(tmp_path, fits=200), tmp_path / "work", say=lines.append)
    assert [branch.name for branch in branches if not branch.passed] == ["memory", "report"]
    assert any("train.micro_batch_tokens 512 does not fit here, 128 does" in line for line in lines)
    hopeless = repository_again(tmp_path, fits=10)
    assert seen(values, hopeless, tmp_path / "work") == {"memory": False, "train, stopped": False}


def test_the_stages_are_those_of_the_pipeline(root: Path) -> None:
    commands = dict(stage_commands(root / "dvc.yaml"))
    assert commands["train"] == ["-m", "stages.train"]
    assert commands["evaluate sliding"] == ["-m", "stages.evaluate", "sliding"]
    assert {"tokenize", "average", "quantize", "compress", "evaluate roundtrip", "report"} <= set(commands)


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_forced_triggers_of_every_preset_pass_their_plan(preset: str, cuda: bool) -> None:
    original = shipped(preset)
    changed = forced(original, cuda=cuda, compiled=False)
    config = from_dict(TrainConfig, changed["train"])
    depth = getattr(config_from_dict(changed["model"]), "repeats", 1)
    (case,) = plan(config.schedule(depth)).cases
    assert case.qat_steps == 0 and len(case.snapshot_steps) >= 2 and case.steps <= 60
    assert changed["quantize"] == original["quantize"]
    changed["quantize"]["method"] = "sdclip"  # the grid that QAT trains for: it is rehearsed
    again = from_dict(TrainConfig, forced(changed, cuda=cuda, compiled=False)["train"])
    check_qat(again.qat, changed["quantize"])
    assert qat_differences(again.qat, changed["quantize"]) == []
    assert plan(again.schedule(depth)).cases[0].qat_steps >= 2
    if cuda:
        assert config.sequence_length == original["train"]["sequence_length"]
        assert config.micro_batch_tokens == original["train"]["micro_batch_tokens"]
        assert changed["model"] == original["model"]
        assert not any("without a GPU" in line for line in smaller(original, changed))
        eight = forced(original, cuda=True, compiled=False, devices=8)["train"]
        assert eight["tokens_per_step"] == 8 * 2 * eight["micro_batch_tokens"]
    else:
        machine, short = smaller(original, changed)
        assert "train.sequence_length 64 for" in machine
        assert "train.iterations" in short and changed["prove"]["max_tokens"] == 512
        assert config.tokens_per_step <= 256


@pytest.mark.parametrize("preset", PRESETS)
def test_without_a_gpu_a_wide_model_is_narrowed_and_said_so(preset: str) -> None:
    """The H100 presets were once rehearsed at full width on CPUs, which took longer than anyone waited."""
    original = shipped(preset)
    before, after = original["model"], forced(original, cuda=False, compiled=False)["model"]
    narrowed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    told = " ".join(smaller(original, forced(original, cuda=False, compiled=False)))
    assert set(narrowed) <= {"width", "rope_dims", "delta_key_dim", "delta_value_dim", "hash_rows", "hash_width"}
    assert bool(narrowed) == ("h100" in preset)
    assert all(f"model.{key} {new} for {old}" in told for key, (old, new) in narrowed.items())
    config_from_dict(after)  # a width that heads divide
    assert after["width"] <= 192 and after["heads"] == before["heads"]


@pytest.mark.parametrize("preset", PRESETS)
def test_bug_a_size_target_is_one_that_the_narrow_model_can_use(preset: str) -> None:
    """The record stacks fit to 15,990,000 bytes, which their rehearsal's model could not use: `fit` ended it."""
    original = shipped(preset)
    changed = forced(original, cuda=False, compiled=False)
    assert bool(changed["fit"]["target_bytes"]) == bool(original["fit"]["target_bytes"])
    if original["fit"]["target_bytes"]:
        assert 100_000 < changed["fit"]["target_bytes"] < 2_000_000
        assert f"fit.target_bytes {changed['fit']['target_bytes']} for" in " ".join(smaller(original, changed))


@pytest.mark.parametrize("forced_for", ["", "cpu", "cuda"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_sample_of_verify_is_longer_than_every_window(preset: str, forced_for: str) -> None:
    """The H100 presets once scored windows of 1,024 and verified samples of 768: the last stage refused them."""
    values = shipped(preset)
    if forced_for:
        values = forced(values, cuda=forced_for == "cuda", compiled=False)
    windows = [section["window"] for section in values["evaluate"].values() if "window" in section]
    assert values["verify"]["targets"] >= max(windows) + 2
    assert values["tokenize"]["val_max_bytes"] == 0 or values["tokenize"]["val_max_bytes"] > 4 * max(windows)


def test_the_corpus_is_the_same_at_every_call(tmp_path: Path) -> None:
    for name in ("one", "two"):
        synthetic_corpus(tmp_path / name, documents=3)
    texts = [[path.read_text() for path in sorted((tmp_path / name).iterdir())] for name in ("one", "two")]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3
