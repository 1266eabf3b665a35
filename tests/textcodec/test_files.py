"""Texts of every kind come back byte for byte, and whatever does not fit is refused with its reason."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.base.files import FileError
from golf.data.tokenizer import Tokenizer
from golf.textcodec import blocks, files, resume, text
from golf.textcodec.files import CodecConfig, CodecReport, unzip_file, zip_file, zip_tokens
from golf.textcodec.layout import CodecError, Header
from golf.textcodec.model import TextModel, open_model

STREAMS = 4
QUICK = CodecConfig(streams=STREAMS, window=32, threads=1, arithmetic="portable", mixture=False)
MIXED = dataclasses.replace(QUICK, mixture=True)


@pytest.fixture(autouse=True)
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short texts are cut into several streams too, so that tests stay quick."""
    monkeypatch.setattr(blocks, "TOKENS_PER_STREAM", 32)


def code(data: bytes, folder: Path, decoded: TextModel, config: CodecConfig) -> tuple[Path, CodecReport]:
    (folder / "text").write_bytes(data)
    return folder / "text.golfz", zip_file(folder / "text", folder / "text.golfz", decoded, config)


def restored(coded: Path, decoded: TextModel, threads: int | None = None) -> bytes:
    unzip_file(coded, coded.with_suffix(".out"), decoded, threads=threads)
    return coded.with_suffix(".out").read_bytes()


@pytest.mark.parametrize("config", [QUICK, MIXED], ids=["model", "mixture"])
@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"a", b"\n", b"\0", "\u2581".encode(), b" "),
        "NUL \0 and \u2581 literal \u2581\u2581, tab\t, \r\n, <s></s><0x41> caf\u00e9 \U0001f600  end ".encode(),
    ],
)
def test_small_texts_come_back(data: bytes, config: CodecConfig, tmp_path: Path, decoded: TextModel) -> None:
    coded, report = code(data, tmp_path, decoded, config)
    assert restored(coded, decoded) == data
    assert report.text_bytes == len(data)
    assert report.file_bytes == coded.stat().st_size
    assert report.text_sha256 == hashlib.sha256(data).hexdigest()


@settings(max_examples=8)
@given(st.text(max_size=100))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, decoded: TextModel, some: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    coded, _ = code(some.encode(), folder, decoded, QUICK)
    assert restored(coded, decoded) == some.encode()


@pytest.mark.parametrize("config", [QUICK, MIXED, dataclasses.replace(MIXED, arithmetic="fast")])
def test_real_text_over_streams_is_restored_and_as_long_as_stated(
    config: CodecConfig, tmp_path: Path, decoded: TextModel, prose: str
) -> None:
    data = prose[:700].encode()
    coded, report = code(data, tmp_path, decoded, config)
    assert blocks.block_streams(report.tokens, STREAMS) == STREAMS
    assert restored(coded, decoded) == data
    assert abs(8 * report.code_bytes - report.stated_bits) <= 1e-4 * report.stated_bits + 16
    assert report.overhead_percent == pytest.approx(100 * (8 * report.code_bytes / report.stated_bits - 1))


def test_the_mixture_earns_its_place(tmp_path: Path, decoded: TextModel, prose: str) -> None:
    alone, mixed = (code(2 * prose[:600].encode(), tmp_path, decoded, config)[1] for config in (QUICK, MIXED))
    assert mixed.file_bytes < 0.75 * alone.file_bytes


def test_portable_code_is_the_same_for_any_thread_count(
    tmp_path: Path, decoded: TextModel, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("golf.textcodec.stepper.SHARD", 2)  # two shards, so that two workers have work
    data = prose[:600].encode()
    one, _ = code(data, tmp_path, decoded, QUICK)
    expected = one.read_bytes()
    two, _ = code(data, tmp_path, decoded, dataclasses.replace(QUICK, threads=2))
    assert two.read_bytes() == expected
    assert restored(two, decoded, threads=3) == data


def test_streams_are_fewer_for_short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert [blocks.block_streams(n, 64) for n in (0, 1, 1023, 1024, 32768, 10**9)] == [1, 1, 1, 2, 64, 64]


def test_stated_bits_are_those_of_the_streaming_model(tmp_path: Path, decoded: TextModel, prose: str) -> None:
    """One stream behind BOS is the whole text seen by ``hidden`` at once, up to float rounding."""
    tokenizer = Tokenizer(decoded.tokenizer_model)
    tokens = tokenizer.document(prose[:100])[0].astype(np.int64)[:32]
    report = zip_tokens([tokens[1:]], tmp_path / "one.golfz", decoded, QUICK, total_bytes=100)
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        logits = decoded.model.logits(decoded.model.hidden(ids[None, :-1]))[0]
    nats = torch.nn.functional.cross_entropy(logits.double(), ids[1:], reduction="sum").item()
    assert report.stated_bits == pytest.approx(nats / math.log(2.0), rel=1e-5)


BLOCKS = dataclasses.replace(QUICK, block_bytes=150)


def test_blocks_are_cut_between_words_and_joined(tmp_path: Path, decoded: TextModel, prose: str) -> None:
    data = (prose[:450] + "\U0001f600" * 50).encode()
    coded, report = code(data, tmp_path, decoded, BLOCKS)
    with open(coded, "rb") as file:
        assert Header.read(file, where="here").blocks >= 4
    assert restored(coded, decoded) == data
    assert report.text_bytes == len(data)


def killed_behind(count: int, data: bytes, folder: Path, decoded: TextModel, config: CodecConfig) -> None:
    """A child that is killed while the block behind ``count`` finished ones is on its way to the disk."""
    child = os.fork()
    if child == 0:
        write = resume.write_json

        def stop(path: Path, values: dict[str, Any]) -> None:
            if values["blocks"] > count:
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, values)

        resume.write_json = stop
        try:
            code(data, folder, decoded, config)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, decoded: TextModel, prose: str) -> None:
    data = prose[:550].encode()
    (tmp_path / "whole").mkdir()
    whole, report = code(data, tmp_path / "whole", decoded, BLOCKS)
    assert report.resumed_bytes == 0
    for count in (1, 3):
        killed_behind(count, data, tmp_path, decoded, BLOCKS)
        assert not (tmp_path / "text.golfz").exists()
    coded, again = code(data, tmp_path, decoded, BLOCKS)
    assert 300 < again.resumed_bytes < 500
    assert coded.read_bytes() == whole.read_bytes()
    assert dataclasses.replace(again, seconds=0.0, resumed_bytes=0) == dataclasses.replace(report, seconds=0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "text.golfz", "whole"]


def test_another_text_or_setting_begins_anew(tmp_path: Path, decoded: TextModel, prose: str) -> None:
    data = prose[:350].encode()
    killed_behind(1, data, tmp_path, decoded, BLOCKS)
    other = b"X" + data[1:]
    coded, report = code(other, tmp_path, decoded, BLOCKS)
    assert report.resumed_bytes == 0 and restored(coded, decoded) == other
    killed_behind(1, data, tmp_path, decoded, BLOCKS)
    coded, report = code(data, tmp_path, decoded, dataclasses.replace(BLOCKS, streams=3))
    assert report.resumed_bytes == 0 and restored(coded, decoded) == data


def test_two_runs_do_not_write_one_file(tmp_path: Path, decoded: TextModel) -> None:
    with open(tmp_path / "text.golfz.part", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CodecError, match="text.golfz.part: another `golf zip` is writing it"):
            code(b"some text", tmp_path, decoded, QUICK)


@given(st.text(max_size=200), st.integers(16, 60))
def test_pieces_of_a_text_join_to_it(tmp_path_factory: pytest.TempPathFactory, some: str, size: int) -> None:
    path = tmp_path_factory.mktemp("pieces") / "text"
    path.write_bytes(some.encode())
    pieces = list(text.iterate_text(path, block_bytes=size))
    assert "".join(pieces) == some
    assert all(0 < len(piece.encode()) <= size for piece in pieces)


@pytest.mark.parametrize(("data", "offset"), [(b"abc\xff", 3), (b"x" * 100 + b"\xc3", 100), (b"\x80", 0)])
def test_offset_of_what_is_no_utf8_is_named(data: bytes, offset: int, tmp_path: Path, decoded: TextModel) -> None:
    with pytest.raises(CodecError, match=rf"byte 0x\w\w at offset {offset} is not UTF-8"):
        code(data, tmp_path, decoded, QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_offset_counts_from_the_start_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"word " * 20 + b"\xfe" + b" word" * 20)
    with pytest.raises(CodecError, match="byte 0xFE at offset 100 "):
        list(text.iterate_text(tmp_path / "text", block_bytes=32))


def test_documents_are_coded_with_their_bos(tmp_path: Path, decoded: TextModel, prose: str) -> None:
    tokenizer = Tokenizer(decoded.tokenizer_model)
    documents = [prose[:300], "", prose[300:700]]
    tokens = np.concatenate([tokenizer.document(document)[0] for document in documents]).astype(np.int64)
    report = zip_tokens([tokens], tmp_path / "d.golfz", decoded, MIXED, total_bytes=700)
    assert report.tokens == len(tokens)
    assert restored(tmp_path / "d.golfz", decoded) == prose[:700].encode()


def test_another_artifact_is_refused(tmp_path: Path, decoded: TextModel, other_artifact: Path) -> None:
    coded, _ = code(b"some text", tmp_path, decoded, QUICK)
    other = open_model(other_artifact)
    expected = f"coded with artifact {decoded.sha256[:16]}, this is artifact {other.sha256[:16]}"
    with pytest.raises(CodecError, match=expected):
        restored(coded, other)


def test_other_threads_are_refused_in_fast_arithmetic(tmp_path: Path, decoded: TextModel) -> None:
    coded, _ = code(b"some text", tmp_path, decoded, dataclasses.replace(QUICK, arithmetic="fast"))
    with pytest.raises(CodecError, match="fast arithmetic with 1 threads, found --threads 2"):
        restored(coded, decoded, threads=2)
    assert restored(coded, decoded, threads=1) == b"some text"


def test_another_machine_is_refused(tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    coded, _ = code(b"some text", tmp_path, decoded, QUICK)
    monkeypatch.setattr(files, "machine_name", lambda: "an abacus")
    with pytest.raises(CodecError, match="coded in the arithmetic `torch .* float32 .*`, this is `an abacus`"):
        restored(coded, decoded)


def test_another_mixture_is_refused(tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    coded, _ = code(b"some text", tmp_path, decoded, MIXED)
    monkeypatch.setattr(files, "mixture_hash", lambda config: "1234567890abcdef")
    with pytest.raises(CodecError, match=r"coded with mixture \w{16}, this golf has mixture 1234567890abcdef"):
        restored(coded, decoded)


def test_damaged_code_names_both_hashes_or_the_damage(tmp_path: Path, decoded: TextModel, prose: str) -> None:
    coded, report = code(prose[:150].encode(), tmp_path, decoded, QUICK)
    whole = coded.read_bytes()
    for at in range(len(whole) - report.code_bytes, len(whole), 31):
        broken = bytearray(whole)
        broken[at] ^= 4
        coded.write_bytes(bytes(broken))
        with pytest.raises(CodecError, match=f"SHA-256 [0-9a-f]{{64}}, the text coded.*{report.text_sha256}|damaged"):
            restored(coded, decoded)
    assert not coded.with_suffix(".out").exists()


def test_every_cut_and_every_changed_header_byte_is_refused(tmp_path: Path, decoded: TextModel) -> None:
    coded, report = code(b"some text", tmp_path, decoded, QUICK)
    whole = coded.read_bytes()
    for size in range(0, len(whole)):
        coded.write_bytes(whole[:size])
        with pytest.raises(CodecError, match="truncated|no file of `golf zip`"):
            restored(coded, decoded)
    for at in range(len(whole) - report.code_bytes - 12):
        coded.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        with pytest.raises(CodecError, match="damaged|no file of|format version|truncated"):
            restored(coded, decoded)
    coded.write_bytes(whole + b"x")
    with pytest.raises(CodecError, match="1 bytes are left behind the last of 1 blocks"):
        restored(coded, decoded)


def test_a_tokenizer_that_changes_text_is_refused(
    tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "_joined", lambda self, ids: b"")
    with pytest.raises(CodecError, match=r"tokenizer changes text .* use an artifact whose tokenizer is lossless"):
        code(b"some text", tmp_path, decoded, QUICK)


def test_missing_files_are_named(tmp_path: Path, decoded: TextModel) -> None:
    with pytest.raises(FileError, match="nothing: not found"):
        zip_file(tmp_path / "nothing", tmp_path / "out", decoded, QUICK)
    with pytest.raises(FileError, match="made by `golf zip`"):
        unzip_file(tmp_path / "nothing", tmp_path / "out", decoded)


@pytest.mark.parametrize("name", ["streams", "window", "threads"])
def test_impossible_settings_are_named(name: str) -> None:
    with pytest.raises(CodecError, match=f"{name} is 0, expected 1 to "):
        CodecConfig(**{name: 0})
