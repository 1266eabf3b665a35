"""An output that cannot be written is told before minutes of work, by every command that writes one at its end."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from golf.base.files import FileError
from golf.cli import fetch, recode, score, seeds, unpack, verify
from golf.cli.outputs import tried

COMMANDS = {
    "score": (score, ["{0}/m", "{0}/m", "--json", "{1}"]), "verify": (verify, ["{0}/m", "--json", "{1}"]),
    "recode": (recode, ["{0}/m", "-o", "{1}", "--force"]), "unpack": (unpack, ["{0}/m", "-o", "{1}", "--force"]),
    "unpack to a file": (unpack, ["{0}/m", "-o", "{1}", "--as", "gguf", "--force"]),
    "seeds": (seeds, ["3", "--write", "{1}"]), "fetch": (fetch, ["enwik8", "--to", "{1}"]),
}  # fmt: skip


@pytest.mark.parametrize("where", ["file/below", "taken"])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_cannot_be_written_is_told_before_the_work(name: str, where: str, tmp_path: Path) -> None:
    command, words = COMMANDS[name]
    (tmp_path / "file").touch()
    (tmp_path / "m").touch()  # no artifact: the work would fail otherwise
    (tmp_path / "taken").touch() if name == "unpack" else (tmp_path / "taken").mkdir()
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(FileError, match=f"{where}: (could not be written|is a f.*expected the name of a)"):
        command.run(parser.parse_args([word.format(tmp_path, tmp_path / where) for word in words]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "m", "taken"]


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    for path in (tmp_path / "old", tmp_path / "new", None):
        tried(path)
    tried(tmp_path / "folder", folder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"
