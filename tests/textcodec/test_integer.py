"""Coding with the integer-exact network: encoded in batches, decoded token by token, wherever and however."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.data.tokenizer import train_tokenizer
from golf.textcodec import blocks, files, layout, stepper
from golf.textcodec.files import CodecConfig, unzip_file, zip_file
from golf.textcodec.integer.exact import IntegerError
from golf.textcodec.layout import CodecError, Header
from golf.textcodec.model import TextModel, open_model
from golf.textcodec.settings import default_arithmetic
from golf.textcodec.stepper import open_stepper
from tiny import pack_untrained, record

ALONE = CodecConfig(streams=4, window=32, threads=1, arithmetic="integer", mixture=False)
MIXED = dataclasses.replace(ALONE, mixture=True)


@pytest.fixture(autouse=True)
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "TOKENS_PER_STREAM", 64)


def code(data: bytes, folder: Path, decoded: TextModel, config: CodecConfig) -> Path:
    (folder / "text").write_bytes(data)
    zip_file(folder / "text", folder / "text.golfz", decoded, config)
    return folder / "text.golfz"


def restored(coded: Path, decoded: TextModel, threads: int | None = None) -> bytes:
    unzip_file(coded, coded.with_suffix(".out"), decoded, threads=threads)
    return coded.with_suffix(".out").read_bytes()


@pytest.mark.parametrize("config", [ALONE, MIXED], ids=["model", "mixture"])
def test_texts_coded_in_batches_come_back_token_by_token(
    config: CodecConfig, tmp_path: Path, decoded: TextModel, prose: str
) -> None:
    for data in (b"", b"a", prose[:700].encode()):
        coded = code(data, tmp_path, decoded, config)
        assert restored(coded, decoded, threads=2) == data


PLAINER = {"untied": True, "smear_width": 0, "gate_width": 0, "skips": False, "hash_rows": 0}


@pytest.mark.parametrize("changes", [{}, PLAINER])
def test_record_stacks_code_and_decode_whatever_they_have(changes: dict[str, Any], tmp_path: Path, prose: str) -> None:
    tokenizer = train_tokenizer([prose], 400)
    data = pack_untrained(record(**changes), tokenizer.vocab_size, tokenizer.model)
    (tmp_path / "model.golf").write_bytes(data)
    model = open_model(tmp_path / "model.golf")
    assert default_arithmetic(model) == "integer"
    text = prose[:300].encode()
    assert restored(code(text, tmp_path, model, ALONE), model, threads=2) == text


def test_code_does_not_depend_on_threads_or_on_how_far_the_encoder_looks_ahead(
    tmp_path: Path, decoded: TextModel, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prose[:600].encode()
    expected = code(data, tmp_path, decoded, ALONE).read_bytes()
    for ahead, threads in ((1, 2), (7, 1)):
        monkeypatch.setattr(stepper, "AHEAD", ahead)
        found = code(data, tmp_path, decoded, dataclasses.replace(ALONE, threads=threads)).read_bytes()
        assert found == expected


def test_code_is_as_long_as_with_the_float_network(tmp_path: Path, decoded: TextModel, prose: str) -> None:
    (tmp_path / "text").write_text(prose[:500])
    exact, ordinary = (
        zip_file(tmp_path / "text", tmp_path / "out", decoded, dataclasses.replace(ALONE, arithmetic=name))
        for name in ("integer", "portable")
    )
    assert exact.stated_bits == pytest.approx(ordinary.stated_bits, rel=1e-3)
    assert exact.stated_bits != ordinary.stated_bits
    assert abs(8 * exact.code_bytes - exact.stated_bits) <= 1e-4 * exact.stated_bits + 16


@pytest.mark.parametrize("config", [ALONE, MIXED], ids=["model", "mixture"])
def test_files_name_no_machine_and_decode_on_any(
    config: CodecConfig, tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = code(b"some text", tmp_path, decoded, config)
    with open(coded, "rb") as file:
        header = Header.read(file, where="here")
    assert (header.arithmetic, header.machine, header.threads) == ("integer", "integer 2", 0)
    monkeypatch.setattr(files, "machine_name", lambda: "an abacus")
    assert restored(coded, decoded) == b"some text"
    monkeypatch.setattr(files, "INTEGER", "integer 3")
    with pytest.raises(CodecError, match="coded in the arithmetic `integer 2`, this is `integer 3`"):
        restored(coded, decoded)


@pytest.mark.parametrize("mixture", [True, False])
def test_short_texts_have_twelve_bytes_in_front_of_their_code(
    mixture: bool, tmp_path: Path, decoded: TextModel, other_artifact: Path, prose: str
) -> None:
    config = CodecConfig(mixture=mixture)
    for data in (b"", b"a", prose[:600].encode()):
        (tmp_path / "text").write_bytes(data)
        report = zip_file(tmp_path / "text", tmp_path / "text.golfz", decoded, config, check=True)
        assert report.file_bytes == (tmp_path / "text.golfz").stat().st_size <= report.code_bytes + 12
        assert restored(tmp_path / "text.golfz", decoded) == data
    whole = (tmp_path / "text.golfz").read_bytes()
    with pytest.raises(CodecError, match="coded with artifact or version [0-9a-f]{8}, this is [0-9a-f]{8}; give"):
        restored(tmp_path / "text.golfz", open_model(other_artifact))
    for size in range(1, 12):
        (tmp_path / "text.golfz").write_bytes(whole[:size])
        with pytest.raises(CodecError, match="truncated"):
            restored(tmp_path / "text.golfz", decoded)
    for at in (0, 1, 3, 7, 10, 11, len(whole) // 2, len(whole) - 1):
        (tmp_path / "text.golfz").write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        with pytest.raises(CodecError, match="text.golfz: .*(damaged|no file of|format|this is|cannot be coded)"):
            restored(tmp_path / "text.golfz", decoded)
    (tmp_path / "text.golfz").write_bytes(whole + b"more")
    with pytest.raises(CodecError, match="damaged"):
        restored(tmp_path / "text.golfz", decoded)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_older_versions_are_refused_by_name(
    version: int, tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "VERSION", version)
    coded = code(b"some text", tmp_path, decoded, ALONE)
    monkeypatch.undo()
    with pytest.raises(CodecError, match=f"format version {version}, this golf reads 3; decode it with the golf that"):
        restored(coded, decoded)


def test_unknown_flags_are_refused(tmp_path: Path, decoded: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(files.Header.pack.__globals__["_FLAGS"], "integer", 8)
    coded = code(b"some text", tmp_path, decoded, ALONE)
    monkeypatch.undo()
    with pytest.raises(CodecError, match="flags 8, of which this golf knows 1, 2 and 4"):
        restored(coded, decoded)


def test_broken_weights_and_announced_tokens_are_noticed(decoded: TextModel) -> None:
    inputs = np.ones((2, 3), dtype=np.int64)
    with open_stepper(decoded, arithmetic="integer", threads=1) as make:
        known = make(2, 8, inputs)
        known.step(inputs[:, 0])
        with pytest.raises(RuntimeError, match="the tokens coded are not those announced"):
            known.step(inputs[:, 1] + 1)
    broken = decoded.arrays["token_embedding"].copy()
    broken[1, 0] = np.nan
    model = dataclasses.replace(decoded, arrays={**decoded.arrays, "token_embedding": broken})
    with pytest.raises(IntegerError, match="not finite"), open_stepper(model, arithmetic="integer", threads=1):
        pass
    with torch.no_grad():
        kept = decoded.model.token_embedding[1, 0].clone()
        decoded.model.token_embedding[1, 0] = float("nan")
    try:
        with (
            open_stepper(decoded, arithmetic="portable", threads=1) as make,
            pytest.raises(CodecError, match="logits are not finite"),
        ):
            make(2, 8, None).step(inputs[:, 0])
    finally:
        with torch.no_grad():
            decoded.model.token_embedding[1, 0] = kept
