"""`benchmarks/gpu_first_hour.sh` runs once, on a GPU that is paid for: here whole, with stand-ins for what it calls."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import golf.cli


class Parsed(Exception):
    """The arguments of a command, which then does not run."""


@pytest.fixture
def called(root: Path, tmp_path: Path) -> list[list[str]]:
    """The commands that the script runs with a checkout of the peer, word by word."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs/results").mkdir(parents=True)
    shutil.copy(root / "docs/results/cuda_predicted.md", tmp_path / "docs/results")
    script = shutil.copy(root / "benchmarks/gpu_first_hour.sh", tmp_path / "benchmarks")
    for name in ("python", "golf", "nvidia-smi"):
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(f'#!/bin/sh\nprintf "%s\\t" {name} "$@" >> "$CALLS"\necho >> "$CALLS"\n')
        stand_in.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    done = subprocess.run(["bash", script, "peer.py"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "not found" not in done.stderr + done.stdout, done.stderr
    page = (tmp_path / "docs/results/gpu_first_hour.md").read_text()
    assert page.count("exit code 0 after") == page.count("\n## ") >= 7, page
    lines = [line.rstrip("\t").split("\t") for line in (tmp_path / "calls").read_text().splitlines()]
    return [words for words in lines if words[:3] != ["python", "-m", "pip"] and words[1] in ("-m", "rehearse")]


def test_every_command_of_the_first_minutes_parses(
    root: Path, called: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, seen = argparse.ArgumentParser.parse_args, []

    def stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        raise Parsed(parse(parser, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(golf.cli, "bound_spin", lambda environment: None)
    for program, *words in called:
        name, arguments = (words[1], words[2:]) if program == "python" else ("golf", words)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(Parsed) as caught:
            golf.cli._main() if name == "golf" else importlib.import_module(name).main()
        args = caught.value.args[0]
        presets = getattr(args, "preset", None) or []
        for preset in [presets] if isinstance(presets, str) else presets:
            assert (root / f"conf/preset/{preset}.yaml").is_file(), words
        seen.append(name)
    assert seen.count("golf") >= 2 and {"benchmarks.scale", "benchmarks.gpu_steps", "benchmarks.gdn"} <= set(seen)
