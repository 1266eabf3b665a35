"""The repository as others get it: line ends, the public workflow, version and license in one place."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from golf.cli import __version__


def git(folder: Path, *args: str) -> str:
    identity = (
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "-c",
        "core.autocrlf=true",
        "-c",
        "core.safecrlf=false",
    )
    return subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True, text=True).stdout


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("attributes", [True, False])
def test_a_checkout_with_autocrlf_has_the_bytes_that_dvc_hashed(root: Path, tmp_path: Path, attributes: bool) -> None:
    """Git for Windows once changed the line ends of 434 files, so that every stage ran again."""
    git(tmp_path, "init", "-q")
    source = b"def one() -> int:\n    return 1\n"
    (tmp_path / "one.py").write_bytes(source)
    if attributes:
        shutil.copy(root / ".gitattributes", tmp_path)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "files")
    (tmp_path / "one.py").unlink()
    git(tmp_path, "checkout", "--", "one.py")
    assert ((tmp_path / "one.py").read_bytes() == source) == attributes


def test_the_public_workflow_runs_the_commands_of_the_readme_on_every_python(root: Path) -> None:
    jobs = yaml(root / ".github/workflows/ci.yml")["jobs"]
    commands = {step.get("run") for job in jobs.values() for step in job["steps"]}
    assert {"make test", "make repro"} <= commands
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in ("test", "repro"))
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.11,<3.14"' in (root / "pyproject.toml").read_text(encoding="utf-8")


def test_version_and_license_are_the_same_everywhere(root: Path) -> None:
    citation = yaml(root / "CITATION.cff")
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert 'license = "Apache-2.0"' in project and 'dynamic = ["version"]' in project
    assert "Apache License" in (root / "LICENSE").read_text(encoding="utf-8")
    assert (root / "golf/py.typed").is_file()


def test_the_kernels_of_the_hybrid_are_pinned_to_a_pair_that_works(root: Path) -> None:
    """Triton from 3.4 to 3.7.0 miscompiles a gradient, so a pin outside what `golf[gdn]` asks for must not stand."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    wanted = [Requirement(text) for text in project["project"]["optional-dependencies"]["gdn"]]
    assert {"flash-linear-attention", "triton"} == {each.name for each in wanted}
    assert [each.name for each in wanted if pinned[each.name] not in each.specifier] == []
    assert pinned["fla-core"] == pinned["flash-linear-attention"]
