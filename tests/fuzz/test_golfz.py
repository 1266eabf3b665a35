"""Damaged `.golfz` files whose checksum fits: each is refused by name, in bounded time and memory, or is the text."""

from __future__ import annotations

import dataclasses
import random
import time
from pathlib import Path

import pytest

from golf.data.tokenizer import train_tokenizer
from golf.textcodec.files import CodecConfig, unzip_file, zip_file
from golf.textcodec.layout import BLOCK, CodecError, Header
from golf.textcodec.model import TextModel, text_model
from hostile import damaged, turns
from tiny import pack_untrained, recurrent

TEXT = "A few words to be coded, and a few words more; words to be coded. " * 2


@pytest.fixture(scope="module")
def decoded() -> TextModel:
    tokenizer = train_tokenizer([TEXT * 20], 290)
    return text_model(pack_untrained(recurrent(width=8, blocks=1), tokenizer.vocab_size, tokenizer.model))


def lying_header(data: bytes, rng: random.Random, folder: Path) -> bytes:
    """One or two numbers of header and block heads changed, the CRC made right."""
    (folder / "whole").write_bytes(data)
    with open(folder / "whole", "rb") as file:
        header, at = Header.read(file, where="x"), file.tell()
    head = list(BLOCK.unpack_from(data, at))
    limits = {"streams": 1 << 16, "threads": 4, "window": 1 << 32, "tokens": 1 << 32, "text_bytes": 1 << 32}
    limits |= {"blocks": 1 << 8}
    changes = {}
    for name in rng.sample(sorted(limits), rng.choice((1, 2))):
        near = getattr(header, name) + rng.choice((-1, 1, 2))
        changes[name] = min(max(0, rng.choice((near, rng.randrange(limits[name])))), limits[name] - 1)
    for place, name in enumerate(("tokens", "text_bytes")):
        if name in changes and rng.random() < 0.8:
            head[place] = changes[name]
    return dataclasses.replace(header, **changes).pack() + BLOCK.pack(*head) + data[at + BLOCK.size :]


def refused_or_the_text(folder: Path, model: TextModel) -> bool:
    """Whether ``x.golfz`` is refused in one printable line; if not, the text has come out."""
    try:
        unzip_file(folder / "x.golfz", folder / "out", model)
    except CodecError as error:
        assert "x.golfz: " in str(error) and str(error).isprintable()
        return True
    assert (folder / "out").read_bytes() == TEXT.encode()
    return False


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("arithmetic", ["portable", "integer"])
def test_damaged_files_are_refused_or_the_text(
    mixture: bool, arithmetic: str, tmp_path: Path, decoded: TextModel
) -> None:
    rng = random.Random(f"{mixture} {arithmetic}")
    config = CodecConfig(streams=2, window=16, mixture=mixture, block_bytes=100, arithmetic=arithmetic)  # type: ignore[arg-type]
    (tmp_path / "text").write_text(TEXT)
    zip_file(tmp_path / "text", tmp_path / "text.golfz", decoded, config)
    data, refused = (tmp_path / "text.golfz").read_bytes(), 0
    with open(tmp_path / "text.golfz", "rb") as file:
        Header.read(file, where="x")
        body = file.tell()
    count = turns(30, 1300)
    for turn in range(count):
        changed = data[:body] + damaged(data[body:], rng) if turn % 2 else lying_header(data, rng, tmp_path)
        (tmp_path / "x.golfz").write_bytes(changed)
        begin = time.process_time()
        refused += refused_or_the_text(tmp_path, decoded)
        assert time.process_time() - begin < 30.0
    assert refused > count // 2


@pytest.mark.parametrize("mixture", [False, True])
def test_damaged_short_files_are_refused_or_the_text(mixture: bool, tmp_path: Path, decoded: TextModel) -> None:
    rng = random.Random(f"short {mixture}")
    (tmp_path / "text").write_text(TEXT)
    report = zip_file(tmp_path / "text", tmp_path / "text.golfz", decoded, CodecConfig(mixture=mixture))
    data, refused = (tmp_path / "text.golfz").read_bytes(), 0
    head = len(data) - report.code_bytes
    assert head <= 12
    count = turns(30, 1300)
    for turn in range(count):
        begin = 0 if turn % 3 else head  # all of it, or the code alone
        (tmp_path / "x.golfz").write_bytes(data[:begin] + damaged(data[begin:], rng))
        refused += refused_or_the_text(tmp_path, decoded)
    assert refused > count // 2
