"""Coding with the integer-exact network: encoded in batches, decoded token by token, wherever and however."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.artifact.decode import Decoded
from golf.textcodec import blocks, files, stepper
from golf.textcodec.files import CodecConfig, unzip_file, zip_file
from golf.textcodec.layout import CodecError, Header
from golf.textcodec.stepper import open_stepper

ALONE = CodecConfig(streams=4, window=32, threads=1, arithmetic="integer", mixture=False)
MIXED = dataclasses.replace(ALONE, mixture=True)


@pytest.fixture(autouse=True)
def short_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "TOKENS_PER_STREAM", 64)


def code(data: bytes, folder: Path, decoded: Decoded, config: CodecConfig) -> Path:
    (folder / "text").write_bytes(data)
    zip_file(folder / "text", folder / "text.golfz", decoded, config)
    return folder / "text.golfz"


def restored(coded: Path, decoded: Decoded, threads: int | None = None) -> bytes:
    unzip_file(coded, coded.with_suffix(".out"), decoded, threads=threads)
    return coded.with_suffix(".out").read_bytes()


@pytest.mark.parametrize("config", [ALONE, MIXED], ids=["model", "mixture"])
def test_texts_coded_in_batches_come_back_token_by_token(
    config: CodecConfig, tmp_path: Path, decoded: Decoded, prose: str
) -> None:
    for data in (b"", b"a", prose[:700].encode()):
        coded = code(data, tmp_path, decoded, config)
        assert restored(coded, decoded, threads=2) == data


def test_code_does_not_depend_on_threads_or_on_how_far_the_encoder_looks_ahead(
    tmp_path: Path, decoded: Decoded, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prose[:600].encode()
    expected = code(data, tmp_path, decoded, ALONE).read_bytes()
    for ahead, threads in ((1, 2), (7, 1)):
        monkeypatch.setattr(stepper, "AHEAD", ahead)
        found = code(data, tmp_path, decoded, dataclasses.replace(ALONE, threads=threads)).read_bytes()
        assert found == expected


def test_code_is_as_long_as_with_the_float_network(tmp_path: Path, decoded: Decoded, prose: str) -> None:
    (tmp_path / "text").write_text(prose[:500])
    exact, ordinary = (
        zip_file(tmp_path / "text", tmp_path / "out", decoded, dataclasses.replace(ALONE, arithmetic=name))
        for name in ("integer", "portable")
    )
    assert exact.stated_bits == pytest.approx(ordinary.stated_bits, rel=1e-4)
    assert exact.stated_bits != ordinary.stated_bits
    assert abs(8 * exact.code_bytes - exact.stated_bits) <= 1e-4 * exact.stated_bits + 16


def test_the_model_alone_is_decoded_on_any_machine_a_mixture_is_not(
    tmp_path: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {}
    for config in (ALONE, MIXED):
        (tmp_path / str(config.mixture)).mkdir()
        texts[config.mixture] = code(b"some text", tmp_path / str(config.mixture), decoded, config)
    with open(texts[False], "rb") as file:
        header = Header.read(file, where="here")
    assert (header.arithmetic, header.machine, header.threads) == ("integer", "integer 1", 0)
    monkeypatch.setattr(files, "machine_name", lambda: "an abacus")
    assert restored(texts[False], decoded) == b"some text"
    with pytest.raises(CodecError, match="`integer 1, mixture on torch .*`, this is `integer 1, mixture on an abacus`"):
        restored(texts[True], decoded)
    monkeypatch.setattr(files, "INTEGER", "integer 2")
    with pytest.raises(CodecError, match="coded in the arithmetic `integer 1`, this is `integer 2`"):
        restored(texts[False], decoded)


def test_unknown_flags_are_refused(tmp_path: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(files.Header.pack.__globals__["_FLAGS"], "integer", 8)
    coded = code(b"some text", tmp_path, decoded, ALONE)
    monkeypatch.undo()
    with pytest.raises(CodecError, match="flags 8, of which this golf knows 1, 2 and 4"):
        restored(coded, decoded)


def test_broken_weights_and_announced_tokens_are_noticed(decoded: Decoded) -> None:
    inputs = np.ones((2, 3), dtype=np.int64)
    with open_stepper(decoded.model, arithmetic="integer", threads=1) as make:
        known = make(2, 8, inputs)
        known.step(inputs[:, 0])
        with pytest.raises(AssertionError, match="the tokens coded are those announced"):
            known.step(inputs[:, 1] + 1)
    with torch.no_grad():
        kept = decoded.model.token_embedding[1, 0].clone()
        decoded.model.token_embedding[1, 0] = float("nan")
    try:
        with (
            open_stepper(decoded.model, arithmetic="integer", threads=1) as make,
            pytest.raises(CodecError, match="logits are not finite"),
        ):
            make(2, 8, None).step(inputs[:, 0])
    finally:
        with torch.no_grad():
            decoded.model.token_embedding[1, 0] = kept
