"""`golf zip`, `unzip` and `inspect` as commands: what a user gives them by mistake is one line, and leaves nothing."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

import golf.cli
from golf.artifact.read import unpack
from golf.artifact.write import pack
from golf.data.tokenizer import train_tokenizer
from tiny import write_artifact

WORDS = "some words to be coded, and some more words to be coded. "
OPTIONS = ["--window", "16", "--mixture", "off"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer([WORDS * 20], 290)
    return write_artifact(tmp_path_factory.mktemp("artifact"), tokenizer)


def golf_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """Exit code, and standard output or the one line of the error."""
    monkeypatch.setattr(sys, "argv", ["golf", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        golf.cli.main()
    out = capsys.readouterr()
    assert out.err.count("\n") <= 1 or "B/s" in out.err
    return int(ended.value.code or 0), out.out + out.err if ended.value.code else out.out


def test_a_text_goes_and_comes_back_checked(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text(WORDS)
    common = ["--artifact", artifact]
    code, out = golf_command(monkeypatch, capsys, "zip", tmp_path / "a.txt", *common, *OPTIONS, "--check")
    assert code == 0 and "decoded and compared" in out
    code, out = golf_command(monkeypatch, capsys, "unzip", tmp_path / "a.txt.golfz", *common)
    assert code == 1 and "a.txt: exists; give --force" in out
    assert golf_command(monkeypatch, capsys, "unzip", tmp_path / "a.txt.golfz", *common, "--force")[0] == 0
    assert (tmp_path / "a.txt").read_text() == WORDS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "a.txt.golfz"]


@pytest.mark.parametrize("command", ["zip", "unzip", "inspect", "verify"])
def test_a_folder_in_place_of_a_file_is_one_line(
    command: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.golfz").mkdir()
    rest = ["--artifact", artifact, *(OPTIONS if command == "zip" else [])] if "zip" in command else []
    code, out = golf_command(monkeypatch, capsys, command, tmp_path / "folder.golfz", *rest)
    assert code == 1 and "is a folder" in out
    (tmp_path / "text").write_text(WORDS)
    if command == "zip":
        code, out = golf_command(monkeypatch, capsys, "zip", tmp_path / "text", "--artifact", tmp_path, *OPTIONS)
        assert code == 1 and "is a folder, expected an artifact" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.golfz", "text"]


def test_inspect_prints_nothing_that_a_terminal_obeys(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = unpack(artifact.read_bytes())
    model = dataclasses.replace(stored.model, config=stored.model.config | {"family": "a\n\x1b[2J" + "x" * 9999})
    (tmp_path / "x.golf").write_bytes(pack(model, stored.tokenizer, coders=("rans",)))
    code, out = golf_command(monkeypatch, capsys, "inspect", tmp_path / "x.golf")
    assert code == 0 and r"family a\n\x1b[2Jxxx" in out
    assert out.replace("\n", "").isprintable() and max(map(len, out.splitlines())) < 300
