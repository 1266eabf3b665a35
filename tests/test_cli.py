"""The `golf` command: help that lists everything, parameters that compose, errors in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from golf.base.params import ParamsError
from golf.cli import COMMANDS
from golf.cli.params import compose, render


def golf(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "golf.cli", *args], cwd=cwd, capture_output=True, text=True)


def test_help_lists_every_command(root: Path) -> None:
    shown = golf("--help", cwd=root).stdout
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(root: Path, name: str) -> None:
    done = golf(name, "--help", cwd=root)
    assert done.returncode == 0 and "usage: golf" in done.stdout
    assert COMMANDS[name][1:] in " ".join(done.stdout.split())


def test_params_keep_their_comments(root: Path) -> None:
    text = render(root / "conf", overrides=["train.seed=7"])
    line = next(line for line in text.splitlines() if line.strip().startswith("seed:"))
    assert line.split()[:2] == ["seed:", "7"] and "# of initial weights" in line


def test_unknown_preset_lists_the_known_ones(root: Path) -> None:
    done = golf("params", "--preset", "h200", cwd=root)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("golf: error: unknown preset `h200`: conf/preset has cpu_small, ")


def test_unknown_key_is_named(root: Path) -> None:
    with pytest.raises(ParamsError, match=r"Could not override 'train.sed'.*Key 'sed' is not in struct"):
        compose(root / "conf", overrides=["train.sed=1"])


def test_params_outside_the_repository_say_so(tmp_path: Path) -> None:
    done = golf("params", cwd=tmp_path)
    assert done.returncode == 1 and "conf/config.yaml: not found; run in the repository's root" in done.stderr


def test_params_write_a_file_whole(root: Path, tmp_path: Path) -> None:
    done = golf("params", "--write", str(tmp_path / "p.yaml"), cwd=root)
    assert done.returncode == 0 and (tmp_path / "p.yaml").read_text() == render(root / "conf")
