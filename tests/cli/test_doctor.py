"""`golf doctor`: this machine passes, each lack is told with its cost, and nothing loads torch."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from golf.cli import doctor, machine
from golf.cli.doctor import Finding

NOWHERE = "/proc/nowhere"  # no folder can be made there, not even by root


def test_this_machine_can_run_the_pipeline(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert doctor.run(argparse.Namespace()) == 0
    lines = capsys.readouterr().out.splitlines()
    seen = {line[6:16].strip(): line for line in lines if not line.startswith(" ")}
    assert {"python", "packages", "pipeline", "git", "cores", "memory", "vectors", "compiler"} <= set(seen)
    assert {"gpu", "kernels", "disk", "dvc cache", "corpus"} <= set(seen)
    version = torch.__version__.split("+")[0]  # the package's version does not name CUDA's
    assert f"torch {version}" in seen["packages"] and lines[-1].startswith("ready; ")
    costs = [line for line in lines if line.startswith(" ")]
    assert len(costs) == sum(line.startswith("lack") for line in lines)


def test_outside_a_checkout_it_says_what_needs_one(tmp_path: Path) -> None:
    last = list(doctor.examine(os.environ, tmp_path))[-1]
    assert last.verdict == "lack" and last.name == "checkout" and str(tmp_path) in last.seen


def test_nothing_loads_torch(root: Path) -> None:
    program = (
        "import sys, golf.cli.doctor, golf.cli.seeds, golf.cli.compare, golf.cli.fetch; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and machine.torch_cuda() == torch.version.cuda


def without_identity(command: list[str]) -> str:
    return "git version 2.39\n" if command == ["git", "--version"] else ""


def test_git_without_an_identity_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC commits experiments: without one `golf seeds` was once a traceback."""
    monkeypatch.setattr(doctor, "told", without_identity)
    assert "config --global user.name" in doctor._git({}).cost
    assert "config --global user.email" in doctor._git({"GIT_COMMITTER_NAME": "t"}).cost
    assert doctor._git({"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}) == Finding("ok", "git", "2.39")


CASES = {
    "old python": (lambda: doctor._python((3, 10)), "FAIL", "golf needs 3.11 to 3.13"),
    "new python": (lambda: doctor._python((3, 14)), "FAIL", "golf needs 3.11 to 3.13"),
    "threads": (lambda: doctor._cores({"OMP_NUM_THREADS": "5000"}), "lack", "unset OMP_NUM_THREADS or lower it"),
    "old cpu": (lambda: doctor._instructions("x86_64", {"sse2", "fma"}), "lack", "short vectors"),
    "no bf16": (lambda: doctor._instructions("x86_64", {"avx2", "fma"}), "lack", "computes in fp32"),
    "new cpu": (lambda: doctor._instructions("x86_64", {"avx2", "fma", "avx512f", "avx512_bf16"}), "ok", ""),
    "arm": (lambda: doctor._instructions("aarch64", {"asimd", "bf16"}), "ok", ""),
    "no compiler": (lambda: doctor._compiler(lambda name: None), "lack", "`train.compile` trains eagerly"),
    "idle gpu": (lambda: doctor._gpu(["NVIDIA H100"], None), "lack", "the GPU stays idle"),
    "gpu": (lambda: doctor._gpu(["NVIDIA H100"] * 8, "12.8"), "ok", ""),
    "no kernels": (lambda: doctor._kernels({"NUMBA_CACHE_DIR": NOWHERE}), "lack", "compiles its kernels anew"),
    "reflink": (lambda: doctor._cache("Cache types: reflink, hardlink, symlink\n"), "ok", ""),
    "copies": (lambda: doctor._cache("Cache types: hardlink, symlink\n"), "lack", "cache.type hardlink,symlink,copy"),
    "no cache": (lambda: doctor._cache("Cache types: https://error.dvc.org/no-dvc-cache\n"), "ok", ""),
    "no answer": (lambda: doctor._cache(""), "lack", "DVC does not"),
    "read-only home": (lambda: next(doctor._places({"HOME": NOWHERE})), "lack", "set MPLCONFIGDIR"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_lack_has_its_cost(name: str) -> None:
    examine, verdict, cost = CASES[name]
    found: Finding = examine()
    assert found.verdict == verdict and cost in found.cost and bool(found.cost) == (verdict != "ok")


def test_missing_and_wrong_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda line: None if "dvc" in line else "1.0" if "numpy" in line else "9")
    monkeypatch.setattr(doctor, "requirements", lambda extra: ["dvc>=3,<4"] if extra else ["numpy>=2,<3", "numba"])
    core, pipeline, parquet = doctor._packages()
    assert core.verdict == pipeline.verdict == "FAIL" and parquet.verdict == "lack"
    assert core.seen == "numpy>=2,<3 (found 1.0)" and pipeline.seen == "dvc>=3,<4 (found none)"


def test_a_missing_corpus_and_a_damaged_params_yaml_are_told(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("tokenize: {path: data/enwik8.gz}\n")
    assert "`golf fetch enwik8` (36 MB)" in doctor._corpus(tmp_path).cost
    (tmp_path / "params.yaml").write_text("tokenize: [\n")
    assert doctor._corpus(tmp_path).verdict == "FAIL"


def test_requirements_come_from_the_checkout_or_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (machine.SOURCES, tmp_path):
        monkeypatch.setattr(machine, "SOURCES", place)
        names, more = ({machine.package_name(line) for line in machine.requirements(e)} for e in ("", "pipeline"))
        assert {"torch", "numpy", "numba"} <= names and "dvc" not in names and {"dvc", "matplotlib"} <= more
