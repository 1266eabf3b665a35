"""The README is true: its table is the committed summary, its commands, files and links exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from golf.cli import COMMANDS


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text()


@pytest.fixture(scope="module")
def summary(root: Path) -> dict[str, Any]:
    """As added to git: a run of one's own, which changes the file, does not make the README untrue."""
    shown = subprocess.run(["git", "show", ":reports/summary.json"], cwd=root, capture_output=True, check=True).stdout
    loaded: dict[str, Any] = json.loads(shown)
    return loaded


def block(text: str, name: str) -> str:
    return text.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]


def test_results_are_those_of_the_committed_summary(summary: dict[str, Any], readme: str) -> None:
    shown = block(readme, "results")
    for key in ("xz_bits_per_byte", "roundtrip_bits_per_byte", "sliding_bits_per_byte", "hedge_bits_per_byte"):
        assert f"{summary[key]:.4f}" in shown, f"README: {key} is {summary[key]:.4f} in reports/summary.json"
    for key in ("artifact_bytes", "total_bytes", "val_bytes"):
        assert f"{summary[key]:,}" in shown, f"README: {key} is {summary[key]:,} in reports/summary.json"


def test_the_default_run_beats_xz_and_fits(summary: dict[str, Any]) -> None:
    assert summary["roundtrip_bits_per_byte"] < summary["xz_bits_per_byte"]
    assert summary["hedge_bits_per_byte"] < summary["sliding_bits_per_byte"] <= summary["roundtrip_bits_per_byte"]
    assert summary["total_bytes"] <= summary["limit_bytes"]


def test_every_golf_command_is_shown_and_exists(readme: str) -> None:
    shown = set(re.findall(r"\bgolf ([a-z]+)", "\n".join(re.findall(r"`([^`]+)`|```[\s\S]*?```", readme))))
    fenced = "\n".join(re.findall(r"```[\s\S]*?```", readme))
    shown |= set(re.findall(r"^(?:\$ )?golf ([a-z]+)", fenced, re.M))
    assert shown <= set(COMMANDS)
    assert set(COMMANDS) - {"deps"} <= shown


def test_make_targets_exist(root: Path, readme: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z]+)\b", readme)) <= targets


def test_linked_files_exist(root: Path, readme: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", readme):
        if not link.startswith("http"):
            assert (root / link).exists(), f"README links to {link}"


def test_presets_are_all_listed(root: Path, readme: str) -> None:
    for path in (root / "conf" / "preset").glob("*.yaml"):
        assert f"`{path.stem}`" in readme, f"README does not list preset {path.stem}"
