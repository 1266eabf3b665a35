"""Expected errors are one line and an exit code; a fault of the program shows its traceback."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from golf.base.errors import GolfError
from golf.base.main import environment_number
from warm import Warm

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, os, sys
import numpy as np
from golf.base.errors import GolfError
from golf.base.files import save_numpy, write_text
from golf.base.main import main_guard
from golf.base.params import ParamsError

def main():
    {body}

main_guard(main, name="stage")
"""


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The program with a body, in a folder of its own."""
    folder = tmp_path_factory.mktemp("run")
    return lambda body, **variables: warm.python("-c", PROGRAM.format(body=body), cwd=folder, **variables)


def run_anew(
    body: str, root: Path, stdout: int | None = subprocess.PIPE, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The same in a new interpreter: libraries read the number of threads when they are loaded."""
    env = os.environ | {"PYTHONPATH": str(root)} | variables
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    return subprocess.run(command, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("error", ["GolfError", "ParamsError"])
def test_an_expected_error_is_one_line(run: Run, error: str) -> None:
    done = run(f"raise {error}('params.yaml: no such file')")
    assert (done.returncode, done.stderr) == (1, "stage: error: params.yaml: no such file\n")


@pytest.mark.parametrize(
    ("body", "last"),
    [
        ("raise ValueError('planted')", "ValueError: planted"),
        ("raise RuntimeError('planted')", "RuntimeError: planted"),
        ("np.zeros(3).reshape(2, 2)", "ValueError: cannot reshape array of size 3 into shape (2,2)"),
        ("json.loads('{')", "json.decoder.JSONDecodeError: Expecting property name"),
    ],
)
def test_bug_a_fault_of_the_program_hid_its_traceback(run: Run, body: str, last: str) -> None:
    done = run(body)
    assert done.returncode == 1 and done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.splitlines()[-1].startswith(last)


def test_an_interrupt_is_one_line(run: Run) -> None:
    done = run("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "stage: interrupted\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("open({0!r} + '/gone/file')", "{0}/gone/file: No such file or directory"),
        ("open({0!r})", "{0}: Is a directory"),
        (
            "write_text({0!r} + '/file/below', 'x')",
            "{0}/file/below: could not be written (File exists at {0}/file); {1}",
        ),
        ("write_text({0!r} + '/folder', 'x')", "{0}/folder: is a folder, expected the name of a file to write"),
        ("os.rename({0!r} + '/a', {0!r} + '/b')", "{0}/a -> {0}/b: No such file or directory"),
    ],
)
def test_an_error_of_the_system_names_its_file(run: Run, tmp_path: Path, body: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    done, advice = run(body.format(str(tmp_path))), "look at its folder's free space and permissions"
    assert (done.returncode, done.stderr) == (1, f"stage: error: {message.format(tmp_path, advice)}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


# RLIMIT_FSIZE stands for a full disk: the system's error for a write beyond it names no file either
LIMIT = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
LIMIT += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "


@pytest.mark.parametrize("call", ["write_text({0!r}, 'x' * 9999)", "save_numpy({0!r}, dict(a=np.ones(10**6)), dict())"])
def test_a_full_disk_names_the_file_and_leaves_nothing(run: Run, tmp_path: Path, call: str) -> None:
    done = run(LIMIT + call.format(str(tmp_path / "out")))
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"stage: error: {tmp_path / 'out'}: ") and "too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", ["print('x')", "print('x' * 10**6)"])
def test_a_full_or_closed_output_is_one_line(root: Path, body: str) -> None:
    with open("/dev/full", "w") as full:
        done = run_anew(body, root, stdout=full.fileno())
    assert done.returncode == 1 and re.fullmatch(r"stage: error: standard output.*: No space left .*\n", done.stderr)
    reader, writer = os.pipe()
    os.close(reader)
    done = run_anew(body, root, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "stage: error: standard output: Broken pipe\n")


WORKERS = """from concurrent.futures import ProcessPoolExecutor; from golf.data.documents import ordered_map
    with ProcessPoolExecutor(2) as pool: print(list(ordered_map(os._exit, [9, 9], pool)))"""


def test_bug_a_killed_worker_was_a_traceback(root: Path) -> None:
    done = run_anew(WORKERS, root)
    message = "a worker process died, perhaps for want of memory; lower GOLF_PROCESSES"
    assert (done.returncode, done.stderr) == (1, f"stage: error: {message}\n")


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "2,x", "9" * 30])
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_a_wrong_number_of_threads_is_named(run: Run, root: Path, name: str, value: str) -> None:
    part = value.split(",")[-1]
    body, variable = "print('ran')", {name: value}
    done = run_anew(body, root, **variable) if value in ("abc", "0") else run(body, **variable)
    assert done.stdout == "" and done.returncode == 1
    message = f"environment variable {name}: found {part!r}, expected a whole number, 1 to 65536"
    assert done.stderr.splitlines()[-1] == f"stage: error: {message}"


def test_numbers_of_the_environment() -> None:
    assert environment_number({}, "N", 3) == 3 and environment_number({"N": ""}, "N", 3) == 3
    assert environment_number({"N": "0"}, "N", 3, least=0) == 0 and environment_number({"N": "65536"}, "N", 3) == 65536
    for text in ("0", "65537", "²", " 1", "1_0"):
        with pytest.raises(GolfError, match="environment variable N: found"):
            environment_number({"N": text}, "N", 3)


@pytest.mark.parametrize("stage", sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py")))
def test_every_stage_has_the_same_command_line(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: 20 new ones would import torch 20 times."""
    mode = ["roundtrip"] if stage == "evaluate" else []
    monkeypatch.setattr(sys, "argv", ["", *mode, "--root", str(tmp_path), "--params", "gone.yaml"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
    told = capsys.readouterr().err
    assert left.value.code == 1 and told.startswith(f"{stage}: error: gone.yaml: no such parameter file")
    assert told.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_an_error_holds_nothing_that_a_terminal_obeys(run: Run) -> None:
    """Names out of a file were printed raw: one could clear the screen or write lines of its own."""
    done = run(r"raise GolfError('x: name a\n\x1b[2Jb\x9b\u202e' + 'y' * 100_000)")
    assert done.returncode == 1 and done.stderr.startswith(r"stage: error: x: name a\n\x1b[2Jb\x9b\u202eyyy")
    assert done.stderr[:-1].isprintable() and len(done.stderr) < 4100
