"""Artifacts whose hash is right and whose configuration means harm: bounds tied to what they hold, before modules."""

from __future__ import annotations

import json
import random
import time

import pytest
import torch

from golf.artifact.bytes import ArtifactError
from golf.artifact.decode import decode_artifact
from hostile import closed, damaged, lying, opened, sealed, turns, with_config
from tiny import flat, hybrid, pack_untrained, record, recurrent

FAMILIES = {"depth_recurrent": recurrent(), "transformer": flat(), "gdn_hybrid": hybrid(), "record": record()}
VALUES = (
    *("NaN", "Infinity", "1e999", "-1", "0", "1" + "0" * 400, "1" + "0" * 5000, "9" * 18, "1000000", "16777216"),
    *('"a\\n\\u001b[2J"', '"' + "x" * 60000 + '"', "[" * 30000, "null", "[]", "{}", "true", "2.5"),
)


@pytest.fixture(scope="module")
def artifacts() -> dict[str, bytes]:
    return {name: pack_untrained(shape, 40, b"tokenizer") for name, shape in FAMILIES.items()}


def tried(data: bytes) -> bool:
    """Whether ``data`` was refused by the named error, in words that a terminal can show; else its model must run."""
    begin = time.process_time()
    try:
        decoded = decode_artifact(data, where="x.golf")
        with torch.inference_mode():
            decoded.model.logits(decoded.model.hidden(torch.zeros(1, 4, dtype=torch.int64)))
        return False
    except ArtifactError as error:
        assert str(error).startswith("x.golf: ") and str(error).isprintable() and len(str(error)) < 2000
        return True
    finally:
        assert time.process_time() - begin < 20.0


@pytest.mark.parametrize("family", FAMILIES)
def test_no_number_of_a_configuration_is_believed(family: str, artifacts: dict[str, bytes]) -> None:
    """NaN was an error without the file's name, 10^400 a traceback, a million blocks a hang."""
    shape = FAMILIES[family]
    for key in shape:
        for value in random.Random(key).sample(VALUES, turns(5, len(VALUES))):
            text = json.dumps({**shape, key: 0}).replace(f'"{key}": 0', f'"{key}": {value}', 1)
            if tried(with_config(artifacts[family], text.encode())):
                continue
            json.loads(text)  # refused, or at least a configuration


@pytest.mark.parametrize("value", VALUES)
def test_each_odd_value_as_a_width_is_refused(value: str, artifacts: dict[str, bytes]) -> None:
    for family, shape in FAMILIES.items():
        text = json.dumps({**shape, "width": "?"}).replace('"?"', value)
        assert tried(with_config(artifacts[family], text.encode())), family


@pytest.mark.parametrize(
    "layout", ["gdn999999999", "gdn" + "9" * 5000, "_".join(["gdn999"] * 5000), "swa_shared" * 900]
)
def test_a_layout_of_millions_of_blocks_is_refused(layout: str, artifacts: dict[str, bytes]) -> None:
    text = json.dumps({**FAMILIES["gdn_hybrid"], "layout": layout})
    assert tried(with_config(artifacts["gdn_hybrid"], text.encode()))


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_artifacts_of_every_family_with_a_repaired_hash(family: str, artifacts: dict[str, bytes]) -> None:
    rng = random.Random(family)
    whole, shape = artifacts[family], FAMILIES[family]
    parts, refused, count = opened(whole), 0, turns(120, 7000)
    for turn in range(count):
        if turn % 3 == 0:
            data = sealed(damaged(whole, rng))
        elif turn % 3 == 1:
            place = rng.choice([i for i, part in enumerate(parts) if part])
            changed = [*parts[:place], damaged(parts[place], rng), *parts[place + 1 :]]
            data = closed(whole, changed)
        else:
            data = with_config(whole, json.dumps(lying(shape, rng)).encode())
        refused += tried(data)
    assert refused > count // 3
