"""dvc.yaml and params.yaml are what they claim, and every stage boundary is a cache boundary.

The boundary tests run the real stages on a tiny real corpus (Python's own reference topics) in a folder of their own.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from golf.base.params import load_section, read_params
from golf.cli.explain import CONFIGS
from golf.cli.params import compose, render
from stages.code import NETWORK_MODES
from warm import Warm

SCORES = {"evaluate@roundtrip", "evaluate@sliding", "evaluate@streaming", "hedge", "ttt", "prove", "verify"}
STAGES = {"tokenize", "train", "average", "calibrate", "quantize", "fit", "compress", "baselines", *SCORES, "report"}

TINY = [
    *("tokenize.source=text", "tokenize.path=corpus", "tokenize.vocab_size=400", "tokenize.train_bytes=200000"),
    *("tokenize.max_bytes=300000", "tokenize.val_fraction=0.1", "tokenize.val_max_bytes=6000"),
    *("tokenize.holdout_fraction=0.1", "tokenize.holdout_max_bytes=4000"),
    *("model.width=32", "model.heads=2", "model.kv_heads=1"),
    *("train.iterations=20", "train.tokens_per_step=256", "train.micro_batch_tokens=128", "train.sequence_length=32"),
    *("train.snapshot_every=0.05", "train.momentum_warmup_steps=2", "train.snapshot_below=0.4", "train.compile=false"),
    *("calibrate.tokens=512", "calibrate.window=32"),
    "evaluate.roundtrip.window=32",
    *("evaluate.sliding.window=32", "evaluate.sliding.stride=16"),
    *("evaluate.streaming.window=32", "evaluate.streaming.warmup=128", "evaluate.streaming.segment=4096"),
    *("prove.max_tokens=150", "prove.window=32", "verify.modes=[roundtrip]", "verify.targets=64"),
    *("compress.coder=rans", "prove.mixture=false"),  # the other choices compile for half a minute
    *("verify.flips=1", "verify.choices=8"),
]
TINY_RECURRENT = ["model.blocks=2", "model.repeats=2", "model.xsa_last=1", "train.depth_phases=[[0.5,1],[1.0,2]]"]
TINY_GDN = [
    *("model.layout=gdn_swa_gdn_swa_shared", "model.delta_heads=2", "model.delta_key_dim=8", "model.delta_value_dim=8"),
    *("model.delta_chunk=16", "model.window=16", "model.hash_rows=64", "model.hash_width=8"),
    *("tokenize.vocab_size=410", "compress.coder=smallest"),
]
TINY_RECORD = [
    *("model.layers=3", "model.loop=[1,1]", "model.repeats=2", "model.lanes_from=2", "model.rope_dims=8"),
    *("model.gate_width=4", "model.smear_width=4", "model.hash_rows=64", "model.hash_width=8"),
    *("train.depth_phases=[[0.35,1],[1.0,2]]", "train.context_phases=[[0.5,16],[1.0,32]]"),
    *("tokenize.case=caseops_merged", "evaluate.ttt.enabled=true", "evaluate.ttt.window=32"),
]
CODE = "stages/dvc.yaml:code"


def test_every_stage_depends_on_the_fingerprint_of_its_code(root: Path) -> None:
    for name, stage in read_params(root / "dvc.yaml")["stages"].items():
        module = re.match(r"python -m stages\.(\w+)", stage["cmd"])
        assert module is not None and (root / "stages" / f"{module[1]}.py").is_file()
        code = "evaluate_${item.mode}" if name == "evaluate" else "evaluate_ttt" if name == "ttt" else module[1]
        assert f"artifacts/code/{code}.txt" in stage["deps"], name


def test_bug_a_replaced_tokenizer_model_re_ran_nothing(tmp_path: Path) -> None:
    """`tokenize.tokenizer` may name a file, and DVC knew its name alone."""
    from stages import code

    (tmp_path / "p.json").write_text('{"model": {"family": "transformer"}, "tokenize": {"tokenizer": "my.model"}}')
    seen = []
    for content in (None, "one", "two"):
        if content is not None:
            (tmp_path / "my.model").write_text(content)
        code.run(tmp_path / "p.json", tmp_path)
        seen.append({path.stem: path.read_text() for path in (tmp_path / "artifacts" / "code").iterdir()})
    assert len({texts.pop("tokenize") for texts in seen}) == 3
    assert seen[0] == seen[1] == seen[2]


def test_changed_validation_files_re_run_tokenize_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import code

    (tmp_path / "p.json").write_text('{"tokenize": {"tokenizer": "train", "val_path": "scored"}}')
    (tmp_path / "scored" / "more").mkdir(parents=True)
    seen = []
    for name, content in (("a.txt", "one"), ("a.txt", "two"), ("more/b.txt", "two")):
        (tmp_path / "scored" / name).write_text(content)
        code.run(tmp_path / "p.json", tmp_path)
        seen.append({path.stem: path.read_text() for path in (tmp_path / "artifacts" / "code").iterdir()})
    assert len({texts.pop("tokenize") for texts in seen}) == 3
    assert seen[0] == seen[1] == seen[2]


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


def parameter_keys(root: Path) -> list[str]:
    """Dotted names of the lines of params.yaml that hold a value; a mapping on one line is one."""
    path: list[str] = []
    keys = []
    for indent, name, value in re.findall(r"^( *)(\w+):(.*)", (root / "params.yaml").read_text(), re.MULTILINE):
        path[len(indent) // 2 :] = [name]
        if value.partition("#")[0].strip():
            keys.append(".".join(path))
    return keys


def test_the_list_of_parameters_is_frozen(root: Path) -> None:
    """Every key is an option that someone must read, document and test: a new one is a decision, not an accident."""
    keys = parameter_keys(root)
    assert keys == (root / "tests/golden/parameters.txt").read_text().split()
    assert len(keys) <= 143


def section_configs() -> dict[str, type]:
    return {section: getattr(importlib.import_module(module), name) for section, (module, name) in CONFIGS.items()}


def test_every_section_has_its_dataclass_and_no_default_contradicts_conf(root: Path) -> None:
    values = compose(root / "conf")
    evaluate = {f"evaluate.{mode}" for mode in values["evaluate"]}
    assert set(section_configs()) == {*values, *evaluate} - {"evaluate", "model", "report"}
    for section, config in section_configs().items():
        of_section: Any = values
        for part in section.split("."):
            of_section = of_section[part]
        for field in dataclasses.fields(config):
            if field.default is not dataclasses.MISSING:
                plain = list(field.default) if isinstance(field.default, tuple) else field.default
                assert of_section[field.name] == plain, f"{section}.{field.name}"


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


def write_corpus(folder: Path) -> None:
    from pydoc_data.topics import topics

    folder.mkdir()
    for name, text in sorted(topics.items()):
        (folder / f"{name.replace('/', '_')}.txt").write_text(text, encoding="utf-8")


def tiny_project(root: Path, folder: Path) -> None:
    """A repository of its own in ``folder``: the real code, a tiny corpus, tiny parameters."""
    for name in ("golf", "stages", "conf"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(root / name, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(root / ".dvc" / "config", folder / ".dvc" / "config")
    (folder / ".dvc" / "config.local").write_text(f"[core]\n    site_cache_dir = {folder / 'site-cache'}\n")
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    write_corpus(folder / "corpus")
    (folder / "params.yaml").write_text(render(folder / "conf", overrides=[*TINY, *TINY_RECURRENT]))
    run(["git", "init", "-q"], folder)


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "PATH": f"{cwd.parent / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(cwd),
        "OMP_NUM_THREADS": "1",
        **{f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def repro(project: Path, target: str = "") -> set[str]:
    """Run the pipeline (up to ``target``) and return the stages that really ran besides `code`, which always does."""
    ran = set(re.findall(r"Running stage '([^']+)'", run(["dvc", "repro", *target.split()], project).stdout))
    return ran - {CODE}


@contextmanager
def edited(project: Path, pattern: str, change: Callable[[str], str]) -> Iterator[int]:
    """The sources that match, changed; afterwards as they were, with their times: compiled code stays valid."""
    before = {path: (path.read_text(), path.stat()) for path in project.glob(pattern)}
    for path, (text, _) in before.items():
        path.write_text(change(text))
        assert path.read_text() != text
    yield len(before)
    for path, (text, stat) in before.items():
        path.write_text(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def fingerprints(project: Path) -> dict[str, str]:
    """Fingerprint of its code that each stage of dvc.yaml depends on: what DVC compares, without the seconds of DVC."""
    found = {}
    for name, stage in read_params(project / "dvc.yaml")["stages"].items():
        (path,) = (path for path in stage["deps"] if path.startswith("artifacts/code/"))
        for mode in NETWORK_MODES[:3] if name == "evaluate" else [""]:
            text = (project / path.replace("${item.mode}", mode)).read_text()
            found[f"evaluate@{mode}" if mode else name] = text
    return found


def check_code_edits(project: Path) -> None:
    """What runs again when the sources change."""

    def reword(text: str) -> str:
        return '"""Other words."""\n' + text.partition('"""\n')[2] + "# and more\n"

    with edited(project, "[gs]*/**/*.py", reword) as files:
        assert files > 100 and repro(project) == set()
    with edited(project, "golf/report/assets/page.js", lambda text: text + "// and more\n"):
        assert repro(project, "--dry") == {"report"}
    with edited(project, "golf/artifact/rans.py", lambda text: text + "PLANTED = 1\n"):
        assert repro(project, CODE) == set()
    assert repro(project, "--dry") == {"fit", "compress", *SCORES} - {"hedge"}
    run(["python", "-m", "stages.code"], project)
    before = fingerprints(project)
    for file, expected in [
        ("golf/models/gdn_hybrid.py", set()),
        ("golf/scoring/ttt.py", {"ttt", "verify"}),
        ("golf/report/plots.py", {"report"}),
    ]:
        with edited(project, file, lambda text: text + "PLANTED = 1\n"):
            run(["python", "-m", "stages.code"], project)
        assert {name for name, text in fingerprints(project).items() if text != before[name]} == expected, file
    assert repro(project, CODE) == set()  # the code as it is


def check_hand_edit(project: Path) -> None:
    """Bug: `dvc exp run -S` about something else composed conf/ again and undid an edit of params.yaml by hand."""
    run(["git", "add", "dvc.yaml", "dvc.lock", "stages", "params.yaml"], project)
    run(["git", "commit", "-q", "-m", "run"], project)
    set_param(project, "evaluate.hedge.cascade_rate", 0.02)
    done = run(["dvc", "exp", "run", "-S", "evaluate.sliding.stride=8", "evaluate", "hedge"], project)
    assert set(re.findall(r"Running stage '([^']+)'", done.stdout)) == {CODE, "evaluate@sliding", "hedge"}
    after = read_params(project / "params.yaml")["evaluate"]
    assert after["hedge"]["cascade_rate"] == 0.02 and after["sliding"]["stride"] == 8
    assert "# tokens of the head of the validation text" in (project / "params.yaml").read_text()


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
def project(root: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the `python` and `dvc` of a warm process, which save the imports of some eighty processes."""
    folder = tmp_path_factory.mktemp("project") / "run"
    (folder.parent / "bin").symlink_to(warm.path)
    tiny_project(root, folder)
    assert repro(folder) == STAGES
    return folder


def check_order_of_scores(project: Path) -> None:
    scores = {}
    for mode in ("roundtrip", "sliding", "streaming", "hedge"):
        scores[mode] = json.loads((project / "metrics" / f"evaluate_{mode}.json").read_text())[f"{mode}_bits_per_byte"]
    for mode in ("sliding", "streaming"):  # 20 steps teach nothing of long contexts: more of it changes next to nothing
        assert scores[mode] == pytest.approx(scores["roundtrip"], rel=0.01)
    assert scores["hedge"] < min(scores["sliding"], scores["streaming"])


@pytest.mark.timeout(1800)  # several runs of the pipeline
def test_every_stage_boundary_is_a_cache_boundary(project: Path) -> None:
    """A change of a parameter touches the stages that read it and, at a run, what lies below them; never one above."""
    check_order_of_scores(project)
    check_code_edits(project)  # first of all: where only words change, nothing runs
    text = (project / "params.yaml").read_text()
    changes: list[tuple[str, Any, set[str]]] = [
        ("report.compressors", ["lzma"], {"report"}),
        ("verify.targets", 65, {"verify"}),
        ("prove.max_tokens", 250, {"prove"}),
        ("evaluate.streaming.bias_document_rate", 0.05, {"evaluate@streaming", "verify"}),
        ("compress.coder", "smallest", {"fit", "compress"}),  # the fit counts bytes with that coder
        ("quantize.levels.mlp", 15, {"quantize", "fit"}),
        ("calibrate.tokens", 256, {"calibrate"}),
        ("average.kind", "ema", {"average"}),
        ("tokenize.vocab_size", 410, {"tokenize"}),
        ("train.matrix_lr", 0.013, {"train"}),
    ]
    for key, value, readers in changes:
        (project / "params.yaml").write_text(text)
        set_param(project, key, value)
        assert repro(project, "--dry") == readers, key
    (project / "params.yaml").write_text(text)
    check_hand_edit(project)
    set_param(project, "average.kind", "ema")
    set_param(project, "compress.coder", "smallest")
    above = {"average", "calibrate", "quantize", "fit", "compress"}
    assert repro(project, "evaluate@sliding") == above | {"evaluate@sliding"}
    (project / "params.yaml").write_text(render(project / "conf", preset="gdn_hybrid_cpu_small", overrides=TINY))
    changed = repro(project, "--dry")
    assert "train" in changed and "tokenize" not in changed


@pytest.mark.parametrize(
    ("preset", "changes"),
    [("gdn_hybrid_cpu_small", TINY_GDN), pytest.param("record_cpu_small", TINY_RECORD, marks=pytest.mark.slow)],
)
def test_other_families_go_through_every_stage(root: Path, tmp_path: Path, preset: str, changes: list[str]) -> None:
    """In one process: what DVC adds does not depend on the family. The record stack reads case operators."""
    write_corpus(tmp_path / "corpus")
    params = tmp_path / "params.yaml"
    overrides = [*TINY, *changes, f"tokenize.path={tmp_path / 'corpus'}"]
    params.write_text(render(root / "conf", preset=preset, overrides=overrides))
    for command in re.findall(r"^    cmd: python -m stages\.(.+)$", (root / "dvc.yaml").read_text(), re.MULTILINE):
        stage, *mode = command.split()
        for arguments in [[m] for m in NETWORK_MODES[:3]] if mode == ["${item.mode}"] else [mode]:
            module = importlib.import_module(f"stages.{stage}")
            assert not module.run(*arguments, params=params, root=tmp_path), command
    check_order_of_scores(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_parts_of_a_run_on_three_machines_run_every_stage_once(root: Path, tmp_path: Path) -> None:
    """By the commands of docs/training.md, with a folder as the remote; the corpus stays on the first machine."""
    commands = re.findall(r"^\|.*\| `(dvc [^`]+)` \|$", (root / "docs/training.md").read_text(), re.MULTILINE)
    machines, hub = [tmp_path / str(number) for number in range(len(commands))], str(tmp_path / "hub.git")
    run(["git", "init", "-q", "--bare", "-b", "main", hub], tmp_path)
    tiny_project(root, machines[0])
    run(["dvc", "remote", "add", "-d", "store", str(tmp_path / "store")], machines[0])
    run(["git", "remote", "add", "origin", hub], machines[0])
    run(["git", "add", ".", ":!site-cache"], machines[0])
    ran = []
    for machine, command in zip(machines, commands, strict=True):
        if machine != machines[0]:
            run(["git", "clone", "-q", hub, str(machine)], tmp_path)
            (machine / ".dvc/config.local").write_text(f"[core]\n    site_cache_dir = {machine / 'site-cache'}\n")
            shutil.rmtree(machine / "corpus")
        done = run(["bash", "-c", command], machine)
        ran.append(set(re.findall(r"Running stage '([^']+)'", done.stdout)) - {CODE})
        run(["git", "add", ".dvc/config", "dvc.lock", "stages/dvc.lock", "params.yaml"], machine)
        run(["git", "commit", "-q", "-m", "part"], machine)
        run(["git", "push", "-q", "origin", "HEAD:main"], machine)
    before, after = {"tokenize"}, {"baselines", "hedge", "ttt", "prove", "verify", "report"}
    assert ran == [before, STAGES - before - after, after]
    assert (machines[-1] / "reports/index.html").is_file()
