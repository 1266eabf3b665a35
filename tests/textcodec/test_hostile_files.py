"""Damaged progress, links, foreign files and untrue headers: nothing is lost, overwritten or believed."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import stat
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf.textcodec import blocks, layout, resume
from golf.textcodec.files import CodecConfig, unzip_file, zip_file, zip_tokens
from golf.textcodec.layout import BLOCK, CodecError, Header
from golf.textcodec.model import TextModel

QUICK = CodecConfig(streams=4, window=32, mixture=False, block_bytes=60)


def interrupted(tmp_path: Path, decoded: TextModel, data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """``text.golfz.part`` and its progress behind two blocks of ``data``."""
    (tmp_path / "text").write_bytes(data)
    append = resume.Part.append

    def stop(part: resume.Part, *values: Any) -> None:
        append(part, *values)
        if part.tally.blocks == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resume.Part, "append", stop)
        zip_file(tmp_path / "text", tmp_path / "text.golfz", decoded, QUICK)
    return tmp_path / "text.golfz.part", tmp_path / "text.golfz.progress"


def zipped(tmp_path: Path, decoded: TextModel, data: bytes = b"some text", **options: Any) -> Path:
    (tmp_path / "text").write_bytes(data)
    zip_file(tmp_path / "text", tmp_path / "text.golfz", decoded, QUICK, **options)
    return tmp_path / "text.golfz"


def restored(coded: Path, decoded: TextModel) -> bytes:
    unzip_file(coded, coded.with_suffix(".out"), decoded)
    return coded.with_suffix(".out").read_bytes()


def test_a_flipped_bit_in_the_part_is_coded_again(
    tmp_path: Path, decoded: TextModel, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run went on behind it, said done, and the file did not decode: the text was lost to who deleted it."""
    data = prose[:200].encode()
    expected = zipped(tmp_path, decoded, data).read_bytes()
    for at in range(5):
        part, _ = interrupted(tmp_path, decoded, data, monkeypatch)
        broken = bytearray(part.read_bytes())
        broken[-1 - 11 * at] ^= 1 << at
        part.write_bytes(broken)
        assert zipped(tmp_path, decoded, data).read_bytes() == expected


def test_changed_numbers_in_the_progress_are_not_believed(
    tmp_path: Path, decoded: TextModel, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prose[:200].encode()
    part, progress = interrupted(tmp_path, decoded, data, monkeypatch)
    whole, before = json.loads(progress.read_text()), part.read_bytes()
    for field in dataclasses.fields(resume.Tally):
        changed = whole[field.name] + 1 if isinstance(whole[field.name], int) else "0x1p+4"
        progress.write_text(json.dumps(whole | {field.name: changed}))
        with pytest.raises(CodecError, match="not what an interrupted `golf zip` leaves; remove both, or give --force"):
            zipped(tmp_path, decoded, data)
    assert part.read_bytes() == before
    assert restored(zipped(tmp_path, decoded, data, force=True), decoded) == data


def test_progress_with_impossible_numbers_is_refused() -> None:
    for wrong in ({"blocks": -1}, {"stated_bits": "nan"}, {"stated_bits": "x"}, {"code_bytes": 9, "part_bytes": 5}):
        with pytest.raises(CodecError, match="numbers that no run has written"):
            resume.Tally(**wrong)


def test_a_link_in_the_way_is_refused_and_its_target_stays(tmp_path: Path, decoded: TextModel) -> None:
    """`golf zip` followed `text.golfz.part` and overwrote what it pointed to."""
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "text.golfz.part").symlink_to(tmp_path / "precious")
    with pytest.raises(CodecError, match="text.golfz.part: is a symbolic link"):
        zipped(tmp_path, decoded, force=True)
    (tmp_path / "text.golfz.part").unlink()
    os.link(tmp_path / "precious", tmp_path / "text.golfz.part")
    with pytest.raises(CodecError, match="remove both, or give --force"):
        zipped(tmp_path, decoded)
    zipped(tmp_path, decoded, force=True)
    (tmp_path / "text.golfz.progress").symlink_to(tmp_path / "precious")
    zipped(tmp_path, decoded, force=True)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    (tmp_path / "text.golfz.part").mkdir()
    with pytest.raises(CodecError, match="text.golfz.part: is a folder"):
        zipped(tmp_path, decoded)


@pytest.mark.parametrize("name", ["text.golfz.part", "text.golfz.progress"])
def test_a_file_of_the_user_with_such_a_name_is_not_touched(name: str, tmp_path: Path, decoded: TextModel) -> None:
    (tmp_path / name).write_bytes(b"my own")
    with pytest.raises(CodecError, match="remove both, or give --force"):
        zipped(tmp_path, decoded)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["text", name])
    assert (tmp_path / name).read_bytes() == b"my own"
    assert restored(zipped(tmp_path, decoded, force=True), decoded) == b"some text"


def test_a_run_that_waited_for_the_lock_leaves_the_finished_file(
    tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between open and lock the first run has renamed the file: the second once truncated the finished one."""
    whole, lock = zipped(tmp_path, decoded, b"an earlier text").read_bytes(), fcntl.flock
    part = tmp_path / "text.golfz.part"
    os.rename(tmp_path / "text.golfz", part)

    def finish_first(descriptor: int, how: int) -> None:
        if part.exists() and not (tmp_path / "finished").exists():
            os.rename(part, tmp_path / "finished")
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    assert restored(zipped(tmp_path, decoded), decoded) == b"some text"
    assert (tmp_path / "finished").read_bytes() == whole


def test_check_decodes_before_it_says_done(tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(tmp_path, decoded, check=True).unlink()
    finish = blocks.RangeEncoder.finish
    monkeypatch.setattr(blocks.RangeEncoder, "finish", lambda self: bytes([finish(self)[0] ^ 1]) + finish(self)[1:])
    with pytest.raises(CodecError, match="block 1 of 1|SHA-256"):
        zipped(tmp_path, decoded, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_what_is_on_the_disk_is_read_back(tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = resume.Part.finish

    def damaged(part: resume.Part, header: bytes) -> None:
        part.file.seek(-1, os.SEEK_END)
        part.file.write(b"?")
        finish(part, header)

    monkeypatch.setattr(resume.Part, "finish", damaged)
    with pytest.raises(CodecError, match="holds other bytes than were written to it"):
        zipped(tmp_path, decoded)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_modes_follow_the_umask_and_the_source(tmp_path: Path, decoded: TextModel) -> None:
    (tmp_path / "text").touch(mode=0o600)
    assert stat.S_IMODE(zipped(tmp_path, decoded).stat().st_mode) == 0o600
    (tmp_path / "text").chmod(0o666)
    before = os.umask(0o027)
    try:
        coded = zipped(tmp_path, decoded)
        assert stat.S_IMODE(coded.stat().st_mode) == 0o640
        coded.chmod(0o600)
        restored(coded, decoded)
        assert stat.S_IMODE(coded.with_suffix(".out").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_an_output_that_is_a_link_is_followed(tmp_path: Path, decoded: TextModel) -> None:
    """The link was replaced by a file, and what it pointed to stayed as it was."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "text.golfz").symlink_to(tmp_path / "elsewhere" / "coded")
    coded = zipped(tmp_path, decoded)
    assert coded.is_symlink() and (tmp_path / "elsewhere" / "coded").is_file()
    coded.with_suffix(".out").symlink_to(tmp_path / "elsewhere" / "text")
    assert restored(coded, decoded) == b"some text" and (tmp_path / "elsewhere" / "text").is_file()


def test_folders_and_pipes_are_refused_and_leave_nothing(tmp_path: Path, decoded: TextModel) -> None:
    with pytest.raises(CodecError, match="-: standard input is read once, .*; give a file"):
        zip_file("-", tmp_path / "out.golfz", decoded, QUICK)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("folder", "a folder"), ("pipe", "a pipe or device")):
        with pytest.raises(CodecError, match=f"{name}: is {what}, expected a file of text"):
            zip_file(tmp_path / name, tmp_path / "out.golfz", decoded, QUICK)
        with pytest.raises(CodecError, match="expected a file of `golf zip`"):
            unzip_file(tmp_path / name, tmp_path / "out", decoded)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def forged(coded: Path, heads: dict[str, int], **header: Any) -> None:
    """Other numbers in the head of the first block and in the header, whose CRC fits."""
    data = coded.read_bytes()
    with open(coded, "rb") as file:
        found = Header.read(file, where="here")
        at = file.tell()
    head = layout.BlockHead(*BLOCK.unpack_from(data, at))._replace(**heads)
    coded.write_bytes(dataclasses.replace(found, **header).pack() + BLOCK.pack(*head) + data[at + BLOCK.size :])


@pytest.mark.parametrize("name", ["tokens", "text_bytes"])
def test_what_the_header_states_must_be_true(name: str, tmp_path: Path, decoded: TextModel) -> None:
    coded = zipped(tmp_path, decoded)
    forged(coded, {}, **{name: 10**9})
    with pytest.raises(CodecError, match=f"the header states 1000000000 {name}, its blocks"):
        restored(coded, decoded)
    coded = zipped(tmp_path, decoded)
    forged(coded, {}, stated_bits=1.0)
    assert unzip_file(coded, tmp_path / "out", decoded).stated_bits > 10.0  # counted, not repeated


def test_a_few_bytes_do_not_ask_for_gigabytes(tmp_path: Path, decoded: TextModel) -> None:
    """`window` and `streams` of a header were believed before the file's length was looked at."""
    coded = zipped(tmp_path, decoded)
    forged(coded, {}, window=1 << 20, streams=4096)
    tracemalloc.start()
    begin = time.process_time()
    assert restored(coded, decoded) == b"some text"  # more than the text needs is never allocated
    for tokens in (10**6, (1 << 32) - 1):
        forged(coded, {"tokens": tokens}, tokens=tokens)
        with pytest.raises(CodecError, match="are more than .* may ask for|cannot be coded in|damaged"):
            restored(coded, decoded)
    assert tracemalloc.get_traced_memory()[1] < 64e6 and time.process_time() - begin < 60
    tracemalloc.stop()


def test_a_short_code_does_not_decode_for_ever(tmp_path: Path, decoded: TextModel) -> None:
    """`tokens` of a block was compared with the header's alone, and the decoder read zeros without end."""
    coded = zipped(tmp_path, decoded)
    forged(coded, {"tokens": 100_000}, tokens=100_000, window=32)
    with pytest.raises(CodecError, match="block 1 of 1: .*(more bytes than the block states|behind its end)"):
        restored(coded, decoded)
    forged(coded, {"tokens": 100_000, "text_bytes": 10**9}, tokens=100_000, text_bytes=10**9)
    with pytest.raises(CodecError, match="block 1 of 1: range code: .*: damaged"):
        restored(coded, decoded)


def test_tokens_outside_the_vocabulary_reach_no_kernel(tmp_path: Path, decoded: TextModel) -> None:
    for token in (-1, decoded.vocab_size, 1 << 40):
        with pytest.raises(CodecError, match=f"expected 0 to {decoded.vocab_size - 1}"):
            zip_tokens([np.array([1, token])], tmp_path / "x.golfz", decoded, QUICK, total_bytes=1)
    assert list(tmp_path.iterdir()) == []
