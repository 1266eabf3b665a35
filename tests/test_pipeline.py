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

from golf.cli.deps import closures, has_code
from golf.cli.params import compose, render
from golf.params import load_section, read_params

SCORES = {"evaluate@roundtrip", "evaluate@sliding", "evaluate@streaming", "hedge", "ttt", "prove", "verify"}
STAGES = {"tokenize", "train", "average", "calibrate", "quantize", "compress", *SCORES, "report"}

TINY = [
    *("tokenize.source=text", "tokenize.path=corpus", "tokenize.vocab_size=400", "tokenize.train_bytes=200000"),
    *("tokenize.max_bytes=300000", "tokenize.val_fraction=0.1", "tokenize.val_max_bytes=12000"),
    *("tokenize.holdout_fraction=0.1", "tokenize.holdout_max_bytes=8000"),
    *("model.width=32", "model.heads=2", "model.kv_heads=1"),
    *("train.iterations=20", "train.tokens_per_step=256", "train.micro_batch_tokens=128", "train.sequence_length=32"),
    *("train.snapshot_every=0.05", "train.momentum_warmup_steps=2", "train.snapshot_below=0.4", "train.compile=false"),
    *("calibrate.tokens=512", "calibrate.window=32"),
    "evaluate.roundtrip.window=32",
    *("evaluate.sliding.window=32", "evaluate.sliding.stride=16"),
    *("evaluate.streaming.window=32", "evaluate.streaming.warmup=128", "evaluate.streaming.segment=4096"),
    *("prove.max_tokens=300", "prove.window=32", "verify.modes=[roundtrip]", "verify.targets=64"),
    *("compress.coder=rans", "prove.mixture=false"),  # the other choices compile for half a minute
    *("verify.flips=1", "verify.choices=8"),
]
TINY_RECURRENT = ["model.blocks=2", "model.repeats=2", "model.xsa_last=1", "train.depth_phases=[[0.5,1],[1.0,2]]"]
TINY_GDN = [
    *("model.layout=gdn_swa_gdn_swa_shared", "model.delta_heads=2", "model.delta_key_dim=8", "model.delta_value_dim=8"),
    *("model.delta_chunk=16", "model.window=16", "model.hash_rows=64", "model.hash_width=8"),
    "tokenize.vocab_size=410",
]


def test_code_deps_are_the_import_closures(root: Path) -> None:
    for stage, (listed, wanted) in closures(root).items():
        assert listed == wanted, f"{stage}: run `golf deps --write`"


def test_readers_of_the_artifact_take_the_decoder_from_its_zip(root: Path) -> None:
    for stage in ("evaluate", "ttt", "prove", "verify"):
        deps = closures(root)[stage][0]
        assert not {"golf/decode.py", "golf/models/registry.py"} & set(deps) and f"stages/{stage}.py" in deps
    assert "golf/decode.py" in closures(root)["compress"][0]


def test_only_files_with_code_are_deps(tmp_path: Path) -> None:
    for text, wanted in (("", False), ('"""Words."""\n', False), ('"""Words."""\nx = 1\n', True), ("import a\n", True)):
        (tmp_path / "file.py").write_text(text)
        assert has_code(tmp_path / "file.py") == wanted, text


def test_bug_experiments_outside_the_workspace_find_the_corpus(root: Path) -> None:
    """DVC must see the corpus as tracked data; when .gitignore covered data/, `dvc exp run --queue` ran without it."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        tracked = {str(Path(out.fs_path).relative_to(root)) for out in repo.index.outs if out.stage.is_data_source}
    assert read_params(root / "params.yaml")["tokenize"]["path"] in tracked


def test_params_yaml_is_the_composition_of_conf(root: Path) -> None:
    assert read_params(root / "params.yaml") == compose(root / "conf")
    assert (root / "params.yaml").read_text() == render(root / "conf")


def test_every_parameter_says_its_meaning(root: Path) -> None:
    for line in (root / "params.yaml").read_text().splitlines():
        if re.match(r"\s+\w+: \S", line) and not line.strip().startswith("#"):
            assert re.search(r" # \S+ \S+", line), f"params.yaml: no comment on `{line.strip()}`"


def section_configs() -> dict[str, type]:
    from golf.quantize.calibrate import CalibrateConfig
    from golf.quantize.pipeline import QuantizeConfig
    from golf.scoring.mixture import HedgeConfig
    from golf.scoring.record import StreamingConfig
    from golf.scoring.ttt import TttConfig
    from golf.scoring.windowed import RoundtripConfig, SlidingConfig
    from golf.shipping import CompressConfig
    from golf.textcodec.prove import ProveConfig
    from golf.tokenize import TokenizeConfig
    from golf.training.average import AverageConfig
    from golf.training.config import TrainConfig
    from golf.verify.run import VerifyConfig

    return {
        "tokenize": TokenizeConfig,
        "train": TrainConfig,
        "average": AverageConfig,
        "calibrate": CalibrateConfig,
        "quantize": QuantizeConfig,
        "compress": CompressConfig,
        "evaluate.roundtrip": RoundtripConfig,
        "evaluate.sliding": SlidingConfig,
        "evaluate.streaming": StreamingConfig,
        "evaluate.hedge": HedgeConfig,
        "evaluate.ttt": TttConfig,
        "verify": VerifyConfig,
        "prove": ProveConfig,
    }


def presets() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent.parent / "conf" / "preset").glob("*.yaml"))


@pytest.mark.parametrize("preset", presets())
def test_every_section_of_every_preset_loads(root: Path, tmp_path: Path, preset: str) -> None:
    from golf.models.registry import config_from_dict

    (tmp_path / "params.yaml").write_text(render(root / "conf", preset=preset))
    for section, config in section_configs().items():
        load_section(tmp_path / "params.yaml", section, config)
    config_from_dict(read_params(tmp_path / "params.yaml")["model"])


def test_the_published_presets_are_here() -> None:
    assert {"cpu_small", "h100x8_10min", "h100x8_4h"} <= set(presets())


def tiny_project(root: Path, folder: Path) -> Path:
    """A repository of its own in ``folder``: the real code, a tiny corpus, tiny parameters."""
    for name in ("golf", "stages", "conf"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for package in {path.parent for name in ("golf", "stages") for path in (root / name).rglob("*.py")}:
        (package / "__pycache__").mkdir(exist_ok=True)  # what Python and numba compiled once serves here too
        (folder / package.relative_to(root) / "__pycache__").symlink_to(package / "__pycache__")
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
    (folder / "params.yaml").write_text(render(folder / "conf", overrides=[*TINY, *TINY_RECURRENT]))
    run(["git", "init", "-q"], folder)
    return folder


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(cwd),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def repro(project: Path, target: str = "") -> set[str]:
    """Run the pipeline (up to ``target``) and return the stages that really ran."""
    return set(re.findall(r"Running stage '([^']+)'", run(["dvc", "repro", *target.split()], project).stdout))


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
    assert repro(folder) == STAGES
    return folder


def check_order_of_scores(project: Path) -> None:
    scores = {}
    for mode in ("roundtrip", "sliding", "streaming", "hedge"):
        scores[mode] = json.loads((project / "metrics" / f"evaluate_{mode}.json").read_text())[f"{mode}_bits_per_byte"]
    for mode in ("sliding", "streaming"):  # 20 steps teach nothing of long contexts: more of it changes next to nothing
        assert scores[mode] == pytest.approx(scores["roundtrip"], rel=0.01)
    assert scores["hedge"] < min(scores["sliding"], scores["streaming"])


@pytest.mark.timeout(1800)  # a dozen runs of the pipeline
def test_every_stage_boundary_is_a_cache_boundary(project: Path) -> None:
    """From the bottom up: a change re-runs its stage and, at full runs, what lies below it; never anything above.

    The change of the model is another family: GDN-Hybrid goes through every stage too.
    """
    check_order_of_scores(project)
    assert repro(project) == set()
    changes: list[tuple[str, Any, str, set[str]]] = [
        ("report.compressors", ["xz"], "", {"report"}),
        ("evaluate.sliding.stride", 8, "evaluate", {"evaluate@sliding"}),
        ("evaluate.hedge.cascade_rate", 0.02, "evaluate hedge prove", {"hedge"}),
        ("prove.max_tokens", 250, "evaluate hedge prove", {"prove"}),
        ("evaluate.streaming.bias_document_rate", 0.05, "hedge", {"evaluate@streaming", "hedge"}),
        ("quantize.levels.mlp", 15, "compress", {"quantize", "compress"}),
        ("calibrate.tokens", 256, "calibrate", {"calibrate"}),
        ("average.kind", "raw", "quantize", {"average", "calibrate", "quantize"}),
        ("train.matrix_lr", 0.013, "average", {"train", "average"}),
        ("tokenize.vocab_size", 410, "tokenize", {"tokenize"}),
    ]
    for key, value, target, wanted in changes:
        set_param(project, key, value)
        assert repro(project, target) == wanted, key
    preset = render(project / "conf", preset="gdn_hybrid_cpu_small", overrides=[*TINY, *TINY_GDN])
    (project / "params.yaml").write_text(preset)
    assert repro(project, "compress") == {"train", "average", "calibrate", "quantize", "compress"}
    set_param(project, "compress.zstd_level", 3)
    assert repro(project) == {"compress", *SCORES, "report"}
    check_order_of_scores(project)
    assert repro(project) == set()
