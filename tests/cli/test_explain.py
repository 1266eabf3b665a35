"""`golf params --explain`: every key has a meaning, a range and the stages that a change runs again."""

from __future__ import annotations

from pathlib import Path

import pytest

from golf.base.params import ParamsError
from golf.cli import explain as module
from golf.cli.explain import explain, flat_keys
from shipped import shipped, shipped_text
from warm import Warm


@pytest.mark.parametrize("preset", ["cpu_small", "gdn_hybrid_cpu_small"])
def test_every_key_is_explained(root: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = list(module._stages(root / "dvc.yaml"))
    monkeypatch.setattr(module, "_stages", lambda pipeline: stages)  # parsed once for all keys
    values, text = shipped(preset), shipped_text(preset)
    for key, value in flat_keys(values).items():
        said = explain(key, values, text, root)
        assert "\n  re-runs   " in said and "re-runs   \n" not in said, said
        if not isinstance(value, dict):
            assert "\n  meaning   " in said, said
            assert "\n  range     " in said or key == "report.compressors", said  # its dataclass is the stage's own


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("train.warmdown", ["train.warmdown: 0.5", "fraction of progress, at the end",
                            "number, 0 or more and less than 1", "re-runs   train, then average, calibrate,"]),
        ("quantize.levels.mlp", ["largest integer per tensor role", "whole number, 7 or more and at most 127",
                                 "re-runs   quantize, fit, then compress,"]),
        ("evaluate.hedge.share", ["plain Hedge: weight mass", "re-runs   hedge, verify, then report"]),
        ("evaluate.sliding.window", ["re-runs   evaluate@sliding, verify, then report"]),
        ("quantize.roles.mlp.clip", ["clip: null", "as quantize.method and quantize.clip", " or null"]),
        ("train.depth_phases", ["depth_phases: [[0.4, 2], [0.65, 3], [1.0, 4]]"]),
        ("quantize.gptq", ["keys      damping, column_exponent, act_order, row_exponent"]),
    ],
)  # fmt: skip
def test_what_is_said_of_a_key(root: Path, key: str, lines: list[str]) -> None:
    said = explain(key, shipped(), shipped_text(), root)
    assert all(line in said for line in lines), said


def test_pages_that_measured_a_key_are_named(tmp_path: Path) -> None:
    (tmp_path / "docs/results").mkdir(parents=True)
    texts = {"a": "with `train.seed` 1 to 3", "b": "train.seeds and train.seed_of", "c": "x.train.seed"}
    for name, text in texts.items():
        (tmp_path / f"docs/results/{name}.md").write_text(text, encoding="utf-8")
    said = explain("train.seed", {"train": {"seed": 7}}, "train:\n  seed: 7 # of all\n", tmp_path)
    assert said.splitlines()[-1] == "  measured  docs/results/a.md"


def test_an_unknown_key_suggests_the_right_one(warm: Warm, root: Path) -> None:
    done = warm.python("-m", "golf.cli", "params", "--explain", "train.warmdwn", cwd=root)
    assert done.returncode == 1
    assert done.stderr == "golf: error: unknown key 'train.warmdwn'; did you mean `train.warmdown`?\n"
    with pytest.raises(ParamsError, match=r"did you mean `evaluate.ttt.rank`"):
        explain("rank", shipped(), "", root)
