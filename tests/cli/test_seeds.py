"""`golf seeds` and `golf compare` on real DVC experiments of a stage that takes no time, and on a queue that fails."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from golf.cli import compare, seeds
from golf.cli.experiments import ExperimentError, dvc_repository, read_experiment, told
from toy import git, toy_repository


def parsed(module: Any, *words: str) -> Namespace:
    parser = ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def identify(patch: pytest.MonkeyPatch) -> None:
    """An identity for git, as DVC commits experiments."""
    for who in ("AUTHOR", "COMMITTER"):
        patch.setenv(f"GIT_{who}_NAME", "t")
        patch.setenv(f"GIT_{who}_EMAIL", "t@localhost")


pytestmark = pytest.mark.slow  # a real queue of experiments


def test_bug_git_without_an_identity_was_a_traceback() -> None:
    from scmrepo.exceptions import SCMError

    with pytest.raises(ExperimentError, match="^DVC: Git user name and email must be configured$"), told():
        raise SCMError("Git user name and email must be configured")


@pytest.fixture(scope="module")
def toy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two settings, run by DVC's own workers; the page is in page.md.

    In a folder with a space, without HOME and in the C locale: what a service or a container may have.
    """
    folder = toy_repository(tmp_path_factory.mktemp("seeds") / "with a space")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(root))
        patch.setenv("LC_ALL", "C")
        patch.delenv("HOME", raising=False)
        identify(patch)
        assert seeds.run(parsed(seeds, "2", "-S", "toy.clip=5", "-j", "2", "--write", "page.md")) == 0
    return folder


def test_seeds_run_without_a_home_in_a_folder_with_a_space(toy: Path) -> None:
    page = (toy / "page.md").read_text()
    assert page.startswith("# toy.clip=5 against params.yaml, 2 seeds\n\n`golf seeds 2 -S toy.clip=5` at commit ")
    assert f"train.seed {7} to {8}" in page and "| metric | setting | seed 7 | seed 8 |" in page
    bits = 4 * 3 / math.log(2) / 900  # three nats less in each of four documents
    assert f"| hedge_bits_per_byte | -{bits:.3g} |" in page and "| hedge_bits_per_byte | params.yaml |" in page


def test_what_ran_is_not_run_again(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy)
    before = git(toy, "for-each-ref", "refs/exps")
    assert seeds.run(parsed(seeds, "2", "-S", "toy.clip=5")) == 0
    shown = capsys.readouterr()
    assert shown.out == (toy / "page.md").read_text() and shown.err == ""
    assert git(toy, "for-each-ref", "refs/exps") == before and before.count("refs/exps/") == 4


def test_an_edit_makes_other_experiments_and_a_result_does_not(toy: Path) -> None:
    def names() -> list[str]:
        return [name for s in seeds.settings(toy, 2, against=[], changed=["toy.clip=5"]) for name in s.names.values()]

    first = names()
    (toy / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert names() == first and len(set(first)) == 4
    (toy / "dvc.lock").unlink()
    source = (toy / "score.py").read_text()
    (toy / "score.py").write_text(source + "# edited\n")
    assert not set(names()) & set(first)
    (toy / "score.py").write_text(source)
    assert names() == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1"], "N is 1: a spread needs 2 seeds or more"),
        (["2", "-S", "toy.clp=5"], "-S toy.clp=5: unknown key, expected KEY=VALUE; did you mean `toy.clip`?"),
        (["2", "-S", "toy.clip"], "-S toy.clip: unknown key"),
        (["2", "-S", "train.seed=5"], "edit that"),
        (["2", "-S", "toy.clip=5", "--against", "toy.clip=5"], "-S and --against say the same"),
    ],
)
def test_a_wrong_change_is_refused_before_anything_is_queued(
    toy: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(toy)
    with pytest.raises(ExperimentError) as caught:
        seeds.run(parsed(seeds, *words))
    assert said in str(caught.value)


def test_a_value_that_a_stage_would_refuse_is_refused_before_it_trains(root: Path) -> None:
    from golf.base.params import ParamsError

    with pytest.raises(ParamsError, match=r"quantize.levels.mlp: found 500"):
        seeds.settings(root, 2, against=[], changed=["quantize.levels.mlp=500"])


class Queue:
    """A queue of DVC of one task that fails."""

    def __init__(self, log: Path, status: str) -> None:
        self.proc = {"id": SimpleNamespace(stdout=str(log))}
        self.task = {"name": "a-s1", "rev": "id", "status": status, "timestamp": 0}

    def status(self) -> list[dict[str, Any]]:
        return [self.task]

    def start_workers(self, count: int) -> int:
        return count


def waiting(queue: Queue) -> None:
    repo = SimpleNamespace(experiments=SimpleNamespace(celery_queue=queue, ls=lambda: {"head": [("b-s1", "1234")]}))
    seeds._wait(repo, ["b-s1", "a-s1"], jobs=1)


def test_a_failed_experiment_is_named_with_the_words_of_its_stage(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("step 1\ntrain: error: loss is nan\nERROR: failed to reproduce 'train': exited with 1\n\n")
    with pytest.raises(
        ExperimentError, match="^a-s1 failed: train: error: loss is nan; `dvc queue logs a-s1` shows all$"
    ):
        waiting(Queue(log, "Failed"))
    with pytest.raises(ExperimentError, match="a-s1 failed: no log;"):
        waiting(Queue(tmp_path / "none", "Failed"))


def test_an_experiment_is_nowhere_while_a_worker_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "_POLL_SECONDS", 0.0)
    queue = Queue(tmp_path / "none", "Running")
    tasks, left = [[queue.task], [], [queue.task], []], []

    def status() -> list[dict[str, Any]]:
        left.append(len(tasks))
        return tasks.pop(0) if tasks else [{**queue.task, "status": "Failed"}]

    queue.status = status  # type: ignore[method-assign]
    with pytest.raises(ExperimentError, match="a-s1 failed: no log"):
        waiting(queue)
    assert left == [4, 3, 2, 1, 0, 0]
    queue.status = list  # type: ignore[method-assign]  # removed by hand: no endless wait either
    with pytest.raises(ExperimentError, match="a-s1 failed: no log"):
        waiting(queue)


def test_a_queue_that_nobody_works_on_is_no_endless_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(seeds, "_WORKER_SECONDS", 0.0)
    with pytest.raises(ExperimentError, match="nobody works on a-s1"):
        waiting(Queue(tmp_path / "none", "Running"))


def names_of(toy: Path) -> dict[str, str]:
    refs = git(toy, "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps").split()
    return {name[:4] + name[-2:]: name for name in refs}


def test_compare_says_what_differs_and_what_is_a_gain(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy)
    name = names_of(toy)
    assert compare.run(parsed(compare, name["bases7"], name["clips7"])) == 0
    shown = capsys.readouterr().out
    assert "settings\n  toy.clip  8 -> 5\ncode\n  the same\ndata\n  the same\n" in shown
    assert "gain, " in shown and "(1 times left out: --all)" not in shown  # the seconds are those of the seed
    compare.run(parsed(compare, name["bases7"], name["bases8"]))
    shown = capsys.readouterr().out
    assert "  train.seed  7 -> 8\n" in shown and "(1 times left out: --all)" in shown and "gain, " not in shown
    with pytest.raises(ExperimentError, match="nosuch: no experiment, branch or commit"):
        compare.run(parsed(compare, "nosuch", "workspace"))
    with pytest.raises(ExperimentError, match="workspace: nothing was run there, it has no dvc.lock"):
        compare.run(parsed(compare, "workspace", "HEAD"))


def test_compare_calls_nothing_a_gain_without_a_standard_error(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)
    name = names_of(toy)
    with dvc_repository() as repo:
        first, second = (read_experiment(repo, name[n]) for n in ("bases7", "clips7"))
        assert set(first.metrics) == {"hedge_bits_per_byte", "hedge_seconds", "documents"}  # the summary repeats two
        assert set(first.data) == {"corpus.txt"} and set(first.code) == {"hedge"}
        assert first.settings == {"train.seed": 7, "toy.clip": 8}
        monkeypatch.setattr(first.files, "get_file", no_file)
        line = next(line for line in compare.report(first, second, times=False) if "hedge_bits" in line)
    assert "no verdict" in line and "is not in the cache (`dvc pull`)" in line and "gain" not in line


def no_file(path: str, target: str) -> None:
    raise FileNotFoundError(path)


def test_the_standard_error_is_that_of_the_difference_over_documents() -> None:
    """Against drawing the documents again and again (the bootstrap)."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(500, 4000, 300)
    first = sizes * rng.normal(1.3, 0.1, 300)
    second = first + sizes * rng.normal(-0.01, 0.05, 300)
    drawn = rng.integers(0, 300, (4000, 300))
    ratios = (second - first)[drawn].sum(1) / sizes[drawn].sum(1) / math.log(2)
    assert compare.document_difference((first, sizes), (second, sizes)) == pytest.approx(ratios.std(), rel=0.05)
    with pytest.raises(compare.GolfError, match="other documents"):
        compare.document_difference((first, sizes), (second, sizes + 1))
    with pytest.raises(compare.GolfError, match="one document"):
        compare.document_difference((first[:1], sizes[:1]), (second[:1], sizes[:1]))


@pytest.mark.filterwarnings("ignore:_NoneStep.value")  # of DVC
def test_a_second_clone_has_every_result_without_computing_any(
    root: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines of docs/remote.md as they stand, with folders of this test in place of its addresses, under a home that
    cannot be written."""
    from dvc.cli import main

    origin = tmp_path / "origin.git"
    git(tmp_path, "init", "-q", "--bare", str(origin))
    git(toy, "remote", "add", "origin", str(origin))
    places = {
        "/mnt/share/golf": str(tmp_path / "a store"),
        "URL": str(origin),
        "EXPERIMENT": "clip-5",
        "golf": "second",
    }
    sections = re.findall(r"^```\n(.*?)^```$", (root / "docs/remote.md").read_text(encoding="utf-8"), re.M | re.S)
    identify(monkeypatch)
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("PYTHONPATH", str(root))

    def lines(block: str, folder: Path) -> None:
        for line in block.splitlines():
            words = [places.get(word, word) for word in shlex.split(line, comments=True)]
            monkeypatch.chdir(folder)
            if words[:1] == ["dvc"]:
                assert main(words[1:]) == 0, (line, capsys.readouterr())
            elif words[:1] == ["git"]:
                subprocess.run(words, cwd=folder, check=True, capture_output=True)

    lines("dvc repro\ngit add .\ngit commit -m run", toy)  # out of the cache of the experiments
    share, elsewhere, publish, take = sections[:4]
    lines(share, toy)
    lines(elsewhere.splitlines()[0], tmp_path)
    second = tmp_path / "second"
    assert not (second / "metrics").exists()
    (second / ".dvc/config.local").write_text(f"[core]\n    site_cache_dir = {tmp_path / 'site'}\n")
    lines(elsewhere, second)
    figures = "metrics/evaluate_hedge.json"
    before = (second / figures).read_bytes()
    assert before == (toy / figures).read_bytes() and (second / "artifacts/evaluate/hedge.safetensors").is_file()
    lines("dvc exp run -n clip-5 -S toy.clip=5\n" + publish, toy)  # as an experiment before: out of the cache
    lines(take, second)
    assert (second / figures).read_bytes() == (toy / figures).read_bytes() != before
    assert not (tmp_path / "log").exists()
