"""`benchmarks/gpu_first_hour.sh` runs once, on a GPU that is paid for: here whole, with stand-ins for what it calls."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch

import golf.cli
from benchmarks import gpu_steps
from golf.cli.params import compose

KILLED = 5  # seconds after its limit a part is killed
STAND_INS = {
    "python": 'case "$*" in *"--sdpa flash") exit "$FLASH" ;; *benchmarks.gdn*) exit "$GDN" ;; esac\n',
    "golf": "",
    "nvidia-smi": "",
    "timeout": 'echo "$1 $2" >> "$CALLS.limits"\nshift 2\nexec "$@"\n',
}


class Parsed(Exception):
    """The arguments of a command, which then does not run."""


class Ran(NamedTuple):
    """What a run of the script left behind; ``calls`` are the commands of its parts, word by word."""

    done: subprocess.CompletedProcess[str]
    page: str
    calls: list[list[str]]
    seconds: int


@pytest.fixture
def first_hour(root: Path, tmp_path: Path) -> Callable[..., Ran]:
    """Run the script with ``words``; the stand-ins of flash attention and of the delta rule end as they are told."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "peer.py").touch()
    script = shutil.copy(root / "benchmarks/gpu_first_hour.sh", tmp_path / "benchmarks")
    for name, then in STAND_INS.items():
        stand_in = tmp_path / "bin" / name
        stand_in.parent.mkdir(exist_ok=True)
        said = "" if name == "timeout" else f'printf "%s\\t" {name} "$@" >> "$CALLS"\necho >> "$CALLS"\n'
        stand_in.write_text(f"#!/bin/sh\n{said}{then}")
        stand_in.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def run(*words: str, flash: int = 0, gdn: int = 0) -> Ran:
        told = {"PATH": path, "CALLS": str(tmp_path / "calls"), "FLASH": str(flash), "GDN": str(gdn)}
        environment = os.environ | told
        done = subprocess.run(["bash", script, *words], env=environment, capture_output=True, text=True, check=False)
        assert "not found" not in done.stderr + done.stdout, done.stderr
        lines = [line.rstrip("\t").split("\t") for line in (tmp_path / "calls").read_text().splitlines()]
        calls = [words for words in lines if words[:3] != ["python", "-m", "pip"] and words[1] in ("-m", "rehearse")]
        limits = [line.split() for line in (tmp_path / "calls.limits").read_text().splitlines()]
        assert {kill for kill, _ in limits} == {f"--kill-after={KILLED}"}
        page = (tmp_path / "docs/results/gpu_first_hour.md").read_text()
        return Ran(done, page, calls, sum(int(limit) + KILLED for _, limit in limits))

    return run


def test_every_command_of_the_first_minutes_parses(
    root: Path, first_hour: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    done, page, calls, _ = first_hour("peer.py")
    assert done.returncode == 0, done.stderr
    assert page.count("exit code 0 after") == page.count("\n## ") == len(calls) >= 12, page
    parse, seen = argparse.ArgumentParser.parse_args, []

    def stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        raise Parsed(parse(parser, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(golf.cli, "bound_spin", lambda environment: None)
    for program, *words in calls:
        name, arguments = (words[1], words[2:]) if program == "python" else ("golf", words)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(Parsed) as caught:
            golf.cli._main() if name == "golf" else importlib.import_module(name).main()
        args = caught.value.args[0]
        presets = getattr(args, "preset", None) or []
        for preset in [presets] if isinstance(presets, str) else presets:
            values = compose(root / "conf", preset=preset, overrides=getattr(args, "overrides", []))
            depths = [0, *(depth for _, depth in values["train"]["depth_phases"])]
            assert getattr(args, "depth", 0) in depths and values["model"]["width"] % values["model"]["heads"] == 0
        seen.append(name)
    assert seen.count("golf") >= 3 and {"benchmarks.scale", "benchmarks.gpu_steps", "benchmarks.gdn"} <= set(seen)


@pytest.mark.parametrize("short", [True, False])
def test_the_limits_take_as_long_as_the_pages_say(root: Path, first_hour: Callable[..., Ran], short: bool) -> None:
    ran = first_hour(*["--short"] * short)
    assert len(ran.calls) == (5 if short else ran.page.count("\n## ")) and ran.calls[-1][:2] == ["golf", "rehearse"]
    said = f"{math.ceil(ran.seconds / 60)} minutes"
    assert (said == "10 minutes") is short
    for name in ("benchmarks/gpu_first_hour.sh", "benchmarks/README.md", "docs/training.md"):
        text = " ".join((root / name).read_text(encoding="utf-8").replace("\n# ", " ").split())
        assert said in text and "--short" in text, f"{name} does not say {said}"


def test_a_part_that_fails_or_is_cut_off_is_told_and_the_next_one_runs(first_hour: Callable[..., Ran]) -> None:
    done, page, calls, _ = first_hour(flash=3, gdn=124)
    assert done.returncode == 1 and done.stderr.endswith("failed or cut off: attention_flash delta_rule\n")
    assert re.search(r"--sdpa flash`: exit code 3 after \d+ s\n", page)
    assert re.search(r"benchmarks.gdn .*`: exit code 124 after \d+ s, cut off at 60 s\n", page)
    assert page.count("exit code 0 after") == len(calls) - 2 and calls[-1][1] == "rehearse"


def test_a_peer_that_is_not_there_is_refused_before_anything_runs(root: Path) -> None:
    words = ["bash", root / "benchmarks/gpu_first_hour.sh", "--shrot"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no file --shrot" in done.stderr and not done.stdout


class TestSdpa:
    """`gpu_steps --sdpa`, without its steps."""

    @pytest.fixture
    def seen(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[str], bool]]:
        """The backends that are on where a trainer is made and where it steps, and whether graphs are made anew."""
        found: list[tuple[set[str], bool]] = []

        def look(*_: Any) -> Any:
            on = torch.backends.cuda
            states = {
                "cudnn": on.cudnn_sdp_enabled(), "flash": on.flash_sdp_enabled(),
                "efficient": on.mem_efficient_sdp_enabled(), "math": on.math_sdp_enabled(),
            }  # fmt: skip
            found.append(({name for name, on in states.items() if on}, torch.compiler.config.force_disable_caches))
            return mock.MagicMock()

        monkeypatch.chdir(root)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
        for name in ("trainer_at", "seconds_of"):
            monkeypatch.setattr(gpu_steps, name, look)
        monkeypatch.setattr(gpu_steps, "told", lambda name, trainer, times, predicted: f"{name}: {predicted} ms")
        return found

    def run(self, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["gpu_steps", "--preset", "h100x8_10min", "--depth", "4", *words])
        gpu_steps.main()

    @pytest.mark.parametrize("name", list(gpu_steps.BACKENDS))
    def test_graphs_and_steps_have_that_backend_alone(
        self, seen: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        self.run(monkeypatch, "--sdpa", name)
        assert seen == [({name}, True)] * 2
        assert re.match(rf"h100x8_10min depth 4, {name} attention: [\d.]+ ms, ready", capsys.readouterr().out)

    def test_left_out_torch_chooses(
        self, seen: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run(monkeypatch, "model.heads=13", "model.kv_heads=13")
        assert seen == [({"cudnn", "flash", "efficient", "math"}, False)] * 2
        expected = "h100x8_10min depth 4, model.heads=13, model.kv_heads=13: - ms, ready"
        assert capsys.readouterr().out.startswith(expected), "the prediction is of another model"

    def test_an_unknown_backend_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            self.run(monkeypatch, "--sdpa", "math")
        assert "invalid choice: 'math'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_graph_of_another_backend_does_not_come_back_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of torch's cache holds no backend: a second backend was timed by the first one's kernels."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(gpu_steps.BACKENDS, "math", torch.nn.attention.SDPBackend.MATH)
    q = torch.randn(1, 1, 16, 8)
    ran = []
    for name in ("flash", "math"):
        torch.compiler.reset()
        with gpu_steps.attention_by(name), torch.profiler.profile() as profiler:
            attend = torch.compile(torch.nn.functional.scaled_dot_product_attention, dynamic=False)
            attend(q, q, q, is_causal=True)
        ran.append(any("flash" in row.key for row in profiler.key_averages()))
    assert ran == [True, False]
