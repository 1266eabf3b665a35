"""`golf plan`: every shipped preset passes it, what it stores, and what it refuses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from golf.base.files import read_json
from golf.cli import plan as command
from golf.training.plan import PlanError, plan
from shipped import PRESETS, shipped


def call(root: Path, out: Path, *options: str) -> tuple[int, Any]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--conf", str(root / "conf"), "--out", str(out), *options])
    return command.run(args), args


@pytest.mark.parametrize("preset", PRESETS)
def test_every_shipped_preset_fires_on_slow_and_fast_machines(preset: str) -> None:
    values = shipped(preset)
    schedule, warnings = command.schedule_of(values)
    machines = command.machines_of(values)
    assert len(machines) == (2 if schedule.budget_seconds > 0 else 0)
    assert warnings == []
    for case in plan(schedule, machines).cases:
        assert case.warmdown_start and len(case.snapshot_steps) >= 4
        assert case.final_multiplier < max(0.01, 1.001 * schedule.warmdown_floor)


QAT = ("train.qat.below=0.2", "quantize.method=sdclip")


def test_qat_for_another_grid_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train.qat.below is 0.2 and quantize.method is gptq_trellis"):
        call(root, tmp_path, "--preset", "h100x8_10min", "train.qat.below=0.2")


def test_the_stored_plan(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = call(root, tmp_path, "--preset", "h100x8_10min", "--steps-per-second", "4", *QAT)
    out = capsys.readouterr().out
    assert code == 0 and "plan for 2360 steps (4 steps/s, 590 s):" in out and "QAT from step" in out
    assert "warning: train.qat.clip is 12.85, quantize.clip 2.0; make them equal" in out
    stored = read_json(tmp_path / "h100x8_10min.json", made_by="test")
    assert stored["accepted"] and stored["cases"][0]["steps"] == 2360
    assert stored["step_seconds"]["4 steps/s"]["4"] == 0.25
    assert (tmp_path / "h100x8_10min.png").read_bytes().startswith(b"\x89PNG")


def test_a_refused_plan_is_stored_too(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="iterations: 100 steps end the run with 9.% of the budget unused"):
        call(root, tmp_path, "--preset", "h100x8_10min", "train.iterations=100")
    stored = read_json(tmp_path / "h100x8_10min.json", made_by="test")
    assert not stored["accepted"] and "momentum_warmup_steps" in stored["refusal"] and len(stored["cases"]) == 2


def test_a_world_that_does_not_divide_the_batch_names_those_that_do(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found 6, 512 sequences a step divide over \[1, 2, 4, 8, 16,"):
        call(root, tmp_path, "--preset", "h100x8_10min", "--world-size", "6")


def test_schedules_of_other_scripts_are_checked_in_steps(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = call(root, tmp_path, "--step-based", "2200", "400", "2200")
    printed = capsys.readouterr().out
    assert code == 0 and "warmdown from step 1802" in printed and "QAT from step 2100, 101 steps" in printed
    with pytest.raises(PlanError, match="still has multiplier 0.952"):
        call(root, tmp_path, "--step-based", "2200", "400", "1857")
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_speed_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--steps-per-second: found 0.0, expected more than 0"):
        call(root, tmp_path, "--preset", "h100x8_10min", "--steps-per-second", "0")
