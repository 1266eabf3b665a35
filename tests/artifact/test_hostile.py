"""Artifacts whose hash is right and whose content means harm: bounds tied to the bytes they hold, before anything is
allocated or built on their word."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from hostile import closed, opened

from golf.artifact.bytes import ArtifactError, varint
from golf.artifact.decode import decode_artifact
from tiny import flat, pack_untrained, recurrent


@pytest.fixture(scope="module")
def artifact() -> bytes:
    return pack_untrained(recurrent(), 40, b"tokenizer")


def with_config(data: bytes, text: bytes) -> bytes:
    """The artifact with another model configuration, sealed again."""
    parts = opened(data)
    index, at = parts[0], 1  # one byte of vocabulary size
    size, shift = 0, 0
    while True:
        byte = index[at]
        size, shift, at = size | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            break
    parts[0] = index[:1] + varint(len(text)) + text + index[at + size :]
    return closed(data, parts)


def refused(data: bytes, *, seconds: float = 5.0, memory: float = 100e6) -> str:
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(ArtifactError) as caught:
        decode_artifact(data, where="x.golf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - begin < seconds and peak < memory
    message = str(caught.value)
    assert message.startswith("x.golf: ") and message.isprintable() and len(message) < 2000
    return message


VALUES = (
    *("NaN", "Infinity", "1e999", "-1", "0", "1" + "0" * 400, "1" + "0" * 5000, "9" * 18, "1000000", "16777216"),
    *('"a\\n\\u001b[2J"', '"' + "x" * 60000 + '"', "[" * 30000, "null", "[]", "{}", "true", "2.5"),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:8].replace("\x1b", ""))
@pytest.mark.parametrize("shape", [recurrent(), flat()], ids=["recurrent", "flat"])
def test_no_number_of_a_configuration_is_believed(shape: dict[str, Any], value: str) -> None:
    """NaN was an error without the file's name, 10^400 a traceback, a million blocks a hang."""
    data = pack_untrained(shape, 40, b"tokenizer")
    harmless = {"negative_slope", "softcap", "rope_base", "qk_gain", "norm_eps", "mlp_ratio", "xsa_last", "unet_skips"}
    for key in shape:
        text = json.dumps({**shape, key: 0}).replace(f'"{key}": 0', f'"{key}": {value}').encode()
        if key in harmless or json.dumps(shape[key]) == value or key == "cross_repeat_skip":
            with pytest.raises(ArtifactError) if False else _either():
                decode_artifact(with_config(data, text), where="x.golf")
        else:
            refused(with_config(data, text))


class _either:
    """The named error, or a model."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return error is None or isinstance(error, ArtifactError) and str(error).isprintable()
