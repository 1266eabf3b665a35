"""dvc.yaml and params.yaml are what they claim, and every stage boundary is a cache boundary.

The boundary tests run the real stages on a tiny real corpus (Python's own reference topics) in a folder of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from golf.cli.deps import closures
from golf.cli.params import compose, render
from golf.params import read_params

EVALUATE = {"evaluate@roundtrip", "evaluate@sliding", "evaluate@hedge", "prove"}
BELOW = {
    "report": {"report"},
    "compress": {"compress", *EVALUATE, "report"},
    "quantize": {"quantize", "compress", *EVALUATE, "report"},
    "average": {"average", "quantize", "compress", *EVALUATE, "report"},
    "train": {"train", "average", "quantize", "compress", *EVALUATE, "report"},
    "tokenize": {"tokenize", "train", "average", "quantize", "compress", *EVALUATE, "report"},
}

TINY = [
    *("tokenize.source=text", "tokenize.path=corpus", "tokenize.vocab_size=400", "tokenize.train_bytes=200000"),
    *("tokenize.max_bytes=300000", "tokenize.val_fraction=0.1", "tokenize.val_max_bytes=12000"),
    *("tokenize.holdout_fraction=0.1", "tokenize.holdout_max_bytes=8000"),
    *("model.width=32", "model.blocks=2", "model.repeats=2", "model.heads=2", "model.kv_heads=1", "model.xsa_last=1"),
    *("train.iterations=8", "train.tokens_per_step=256", "train.micro_batch_tokens=128", "train.sequence_length=32"),
    *("train.depth_phases=[[0.5,1],[1.0,2]]", "train.snapshot_every=0.125", "train.momentum_warmup_steps=2"),
    *("train.compile=false", "evaluate.roundtrip.window=32"),
    *("evaluate.sliding.window=32", "evaluate.sliding.stride=16"),
    *("evaluate.streaming.window=32", "evaluate.streaming.warmup=128", "evaluate.streaming.segment=4096"),
    *("prove.max_tokens=1000", "prove.window=32"),
]


def test_code_deps_are_the_import_closures(root: Path) -> None:
    for stage, (listed, wanted) in closures(root).items():
        assert listed == wanted, f"{stage}: run `golf deps --write`"


def test_params_yaml_is_the_composition_of_conf(root: Path) -> None:
    assert read_params(root / "params.yaml") == compose(root / "conf")
    assert (root / "params.yaml").read_text() == render(root / "conf")


def test_every_parameter_says_its_meaning(root: Path) -> None:
    for line in (root / "params.yaml").read_text().splitlines():
        if re.match(r"\s+\w+: \S", line) and not line.strip().startswith("#"):
            assert re.search(r" # \S+ \S+", line), f"params.yaml: no comment on `{line.strip()}`"


def test_every_preset_composes_and_loads(root: Path) -> None:
    presets = sorted(path.stem for path in (root / "conf" / "preset").glob("*.yaml"))
    assert {"cpu_small", "h100x8_10min", "h100x8_4h"} <= set(presets)
    from golf.models.registry import config_from_dict
    from golf.training.config import TrainConfig

    from golf.params import from_dict

    for preset in presets:
        values = compose(root / "conf", preset=preset)
        assert set(values) == set(compose(root / "conf"))
        from_dict(TrainConfig, values["train"], where=f"{preset}: train")
        config_from_dict(values["model"])


def tiny_project(root: Path, folder: Path) -> Path:
    """A repository of its own in ``folder``: the real code, a tiny corpus, tiny parameters."""
    for name in ("golf", "stages", "conf"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(root / name, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(root / ".dvc" / "config", folder / ".dvc" / "config")
    (folder / ".dvc" / "config.local").write_text(f"[core]\n    site_cache_dir = {folder / 'site-cache'}\n")
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / "corpus").mkdir()
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        (folder / "corpus" / f"{name.replace('/', '_')}.txt").write_text(text, encoding="utf-8")
    (folder / "params.yaml").write_text(render(folder / "conf", overrides=TINY))
    run(["git", "init", "-q"], folder)
    return folder


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(cwd),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def repro(project: Path) -> set[str]:
    """Run the pipeline and return the stages that really ran."""
    return set(re.findall(r"Running stage '([^']+)'", run(["dvc", "repro"], project).stdout))


def set_param(project: Path, key: str, value: Any) -> None:
    yaml = YAML()
    data = yaml.load((project / "params.yaml").read_text())
    *path, last = key.split(".")
    section = data
    for part in path:
        section = section[part]
    assert section[last] != value
    section[last] = value
    with open(project / "params.yaml", "w") as file:
        yaml.dump(data, file)


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_project(root, tmp_path_factory.mktemp("project"))
    assert repro(folder) == BELOW["tokenize"]
    return folder


@pytest.mark.timeout(900)
def test_every_stage_boundary_is_a_cache_boundary(project: Path) -> None:
    assert repro(project) == set()
    changes: list[tuple[str, Any, set[str]]] = [
        ("report.compressors", ["xz"], BELOW["report"]),
        ("evaluate.sliding.stride", 8, {"evaluate@sliding", "report"}),
        ("evaluate.hedge.cascade_rate", 0.02, {"hedge", "report"}),
        ("evaluate.streaming.bias_document_rate", 0.05, {"evaluate@streaming", "hedge", "report"}),
        ("compress.zstd_level", 3, BELOW["compress"]),
        ("quantize.levels.mlp", 15, BELOW["quantize"]),
        ("average.kind", "raw", BELOW["average"]),
        ("train.matrix_lr", 0.013, BELOW["train"]),
        ("model.softcap", 20.0, BELOW["train"]),
        ("tokenize.vocab_size", 410, BELOW["tokenize"]),
    ]
    for key, value, wanted in changes:
        set_param(project, key, value)
        assert repro(project) == wanted, key
    assert repro(project) == set()


def test_scores_stand_in_the_right_order(project: Path) -> None:
    scores = {}
    for mode in ("roundtrip", "sliding", "streaming", "hedge"):
        scores[mode] = json.loads((project / "metrics" / f"evaluate_{mode}.json").read_text())[f"{mode}_bits_per_byte"]
    assert scores["sliding"] <= scores["roundtrip"]
    assert scores["streaming"] <= scores["roundtrip"]
    assert scores["hedge"] < min(scores["sliding"], scores["streaming"])
