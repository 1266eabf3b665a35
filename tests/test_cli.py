"""The `golf` command: help that lists everything, parameters that compose, errors in one line."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from golf.base.params import ParamsError
from golf.cli import COMMANDS, __version__, build_parser
from golf.cli.params import compose, render
from warm import Warm

Golf = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def golf(warm: Warm) -> Golf:
    """`golf ARGS` in a folder, with variables of the environment."""
    return partial(warm.python, "-m", "golf.cli")


def test_help_lists_every_command(golf: Golf, root: Path) -> None:
    shown = golf("--help", cwd=root).stdout
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_an_example_that_parses(golf: Golf, root: Path, name: str) -> None:
    help_line, example = COMMANDS[name]
    done = golf(name, "--help", cwd=root)
    assert done.returncode == 0 and "usage: golf" in done.stdout
    assert help_line[1:] in " ".join(done.stdout.split()) and f"example:\n  {example}\n" in done.stdout
    words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'))
    parser, modules = build_parser([name])
    args = parser.parse_args(words[1:])
    assert words[0] == "golf" and args.command == name and callable(modules[name].run)


HELP_AND_PLAN = """
import sys
from golf.cli import build_parser
parser, modules = build_parser(["plan", "score", "generate", "zip", "unzip"])
assert "restore a text that `golf zip` coded" in parser.format_help()
for preset in ("h100x8_10min", "gdn_hybrid_h100x8_10min", "record_h100x8_10min"):
    modules["plan"].run(parser.parse_args(["plan", "--preset", preset, "--out", sys.argv[1]]))
print([name for name in ("torch", "numba") if name in sys.modules])
"""


def test_help_and_plan_load_no_network(root: Path, tmp_path: Path) -> None:
    """Importing torch takes three seconds; what prints help or reads parameters must not wait for it."""
    command = [sys.executable, "-c", HELP_AND_PLAN, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.count("plan for ") == 6 and done.stdout.endswith("\n[]\n")


@pytest.mark.parametrize("name", ["audit", "deps", "params", "plan"])
def test_the_examples_that_need_no_run_run(golf: Golf, root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "train.log").write_text("final val_loss:2.80405024 val_bpb:1.08553523\n")
    for link in ("conf", "golf", "stages", "dvc.yaml"):
        (tmp_path / link).symlink_to(root / link)
    shutil.copy(root / "params.yaml", tmp_path)  # `golf params --write` writes through a link
    done = golf(*shlex.split(COMMANDS[name][1])[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_sources_and_parameters_are_utf_8_in_a_locale_that_is_not(golf: Golf, root: Path, tmp_path: Path) -> None:
    """Under LC_ALL=C the sources of the decoder and params.yaml were once read as ASCII."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shutil.copytree(root / "conf", tmp_path / "conf")
    config = tmp_path / "conf" / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("path: data/", "path: da\u00df/")
    config.write_text(text, encoding="utf-8")

    def ascii_golf(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:  # Python reads the locale when it starts
        command, env = [sys.executable, "-m", "golf.cli", *args], {**os.environ, **locale}
        return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", env=env, check=False)

    done = ascii_golf("params", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "path: da\u00df/" in done.stdout
    assert ascii_golf("deps", "compress", cwd=root).stdout == golf("deps", "compress", cwd=root).stdout


def test_a_closed_standard_output_is_none(root: Path, tmp_path: Path) -> None:
    """With `>&-` Python has no sys.stdout: its flush was once a traceback."""
    (tmp_path / "train.log").write_text("val_loss:2.0153 val_bpb:1.1935\n")
    for command, code in (("audit train.log", 0), ("audit gone.log", 1)):
        script = f"{shlex.quote(sys.executable)} -m golf.cli {command} >&-"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, encoding="utf-8",
                              env={**os.environ, "PYTHONPATH": str(root)})  # fmt: skip
        assert done.returncode == code and done.stderr.count("\n") == code, done.stderr


def test_a_name_cannot_act_on_the_terminal(golf: Golf, root: Path, tmp_path: Path) -> None:
    name = "\x1b[2J\r\u202egone.log"
    done = golf("audit", name, cwd=tmp_path, PYTHONPATH=str(root))
    assert done.stderr.startswith(r"golf: error: \x1b[2J\r\u202egone.log: no such file")
    for file, text in ((name, "val_loss:2.0153 val_bpb:1.1935\n"), ("b.log", "no score")):
        (tmp_path / file).write_text(text)
    done = golf("audit", name, "b.log", cwd=tmp_path, PYTHONPATH=str(root))
    assert done.stdout.startswith("\\x1b[2J\\r\\u202egone.log\n") and "\x1b" not in done.stdout


def test_a_mistyped_command_suggests_the_right_one(golf: Golf, root: Path) -> None:
    done = golf("audti", "x.log", cwd=root)
    assert done.returncode == 2 and "unknown command 'audti'; did you mean `audit`?" in done.stderr
    done = golf("\x1b[2Jqqq", cwd=root)
    assert r"unknown command '\x1b[2Jqqq'; the commands are audit, " in done.stderr


def test_no_command_is_help_and_version_is_told(golf: Golf, root: Path) -> None:
    done = golf(cwd=root)
    assert done.returncode == 0 and "usage: golf" in done.stdout
    assert golf("--version", cwd=root).stdout == f"golf {__version__}\n"


def test_bash_completes_commands_options_and_files(golf: Golf, root: Path, tmp_path: Path) -> None:
    done = golf("completion", "bash", cwd=root)
    assert done.returncode == 0, done.stderr
    (tmp_path / "golf.bash").write_text(done.stdout)
    (tmp_path / "book.txt").write_text("")
    script = """
        source golf.bash
        complete_line() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _shtab_golf
            echo "${COMPREPLY[@]}"
        }
        complete_line golf au; complete_line golf verify --js; complete_line golf zip boo
    """
    shown = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == ["audit", "--json", "book.txt"]


def test_params_keep_their_comments(root: Path) -> None:
    text = render(root / "conf", overrides=["train.seed=7"])
    line = next(line for line in text.splitlines() if line.strip().startswith("seed:"))
    assert line.split()[:2] == ["seed:", "7"] and "# of initial weights" in line


def test_unknown_preset_lists_the_known_ones(golf: Golf, root: Path) -> None:
    done = golf("params", "--preset", "h200", cwd=root)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("golf: error: unknown preset `h200`: conf/preset has cpu_small, ")


def test_unknown_key_is_named(root: Path) -> None:
    with pytest.raises(ParamsError, match=r"Could not override 'train.sed'.*Key 'sed' is not in struct"):
        compose(root / "conf", overrides=["train.sed=1"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.sed=1", "Could not override 'train.sed'"),
        ("train.sed=1", "; did you mean `train.seed`?"),
        ("warmdown=0.3", "; did you mean `train.warmdown`?"),
        ("evaluate.hedge.shar=0.3", "; did you mean `evaluate.hedge.share`?"),
        ("tokenize.path=a=(b", """is quoted twice, as in 'KEY="a=b"'"""),
        ("preset=1", "Config group override must be a string"),
        ("train.iterations=1e3", "train.iterations: found 1000.0 (float), expected int"),
        ("quantize.levels.mlp=500", "quantize.levels.mlp: found 500"),
        ("model.width=-1", "width: found -1"),
        ("evaluate.sliding.precision=fp8", "evaluate.sliding.precision: found 'fp8'"),
    ],
)
def test_a_wrong_key_or_value_is_named_before_anything_is_written(root: Path, override: str, words: str) -> None:
    with pytest.raises(ParamsError) as caught:
        compose(root / "conf", overrides=[override])
    assert words in str(caught.value)


def test_params_outside_the_repository_say_so(golf: Golf, tmp_path: Path) -> None:
    done = golf("params", cwd=tmp_path)
    assert done.returncode == 1 and "conf/config.yaml: not found; run in the repository's root" in done.stderr


def test_params_write_a_file_whole(golf: Golf, root: Path, tmp_path: Path) -> None:
    done = golf("params", "--write", str(tmp_path / "p.yaml"), cwd=root)
    assert done.returncode == 0 and (tmp_path / "p.yaml").read_text() == render(root / "conf")
