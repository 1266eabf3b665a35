"""10,000 damaged artifacts: each ends in the named error, or, behind a repaired hash, in a model that can be used.

Random flips, overwritten bytes, cuts, insertions and extensions, lies about lengths and shapes; half of them with the
hash as it was, which must refuse every one, half with length and hash repaired, so that the parsers behind it are
reached. Memory stays below twice what the artifact declares, and a fixed working area (docs/format.md, "Memory").
"""

from __future__ import annotations

import dataclasses
import random
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.artifact.bytes import ArtifactError
from golf.artifact.read import unpack
from golf.artifact.write import pack, write_index
from golf.quantize.tensors import QuantizedModel, QuantizedTensor
from hostile import closed, damaged, opened, sealed

WORKING_AREA = 4e6  # tables of the coders, which do not grow with the artifact
CODERS = [("rans",), ("raw",), ("columns", "raw"), ("context",)]


def tiny_model() -> QuantizedModel:
    rng = np.random.default_rng(0)
    values = np.rint(rng.normal(0, 2, (6, 7))).astype(np.int16)
    codes = np.arange(7).astype(np.int8)
    tensors = {
        "a": QuantizedTensor("a", "mlp", (6, 7), values, codes[:6], codes, True),
        "b": QuantizedTensor("b", "embedding", (3, 2, 7), values, rng.uniform(0, 1, 6).astype(np.float16), codes),
        "c": QuantizedTensor("c", "attention", (2, 3), values[:2, :3] * 3000, codes[:2]),
    }
    return QuantizedModel({"family": "x"}, 9, tensors, {"g": np.ones(3, np.float16)}, {"t": "b"})


MODEL = tiny_model()
WHOLE = {coders: pack(MODEL, b"tokenizer", coders=coders) for coders in CODERS}


OPENED = {coders: opened(data) for coders, data in WHOLE.items()}


def declared_bytes(data: bytes) -> int:
    """What the prefix declares: the file's bytes and float32 weights."""
    return len(data) + 4 * int(struct.unpack_from("<Q", data, 16)[0])


def ends_well(data: bytes) -> bool:
    """Whether ``data`` was refused with the named error; otherwise its model must be of use."""
    try:
        found = unpack(data, where="x.golf")
    except ArtifactError as error:
        assert str(error).startswith("x.golf: ")
        return True
    assert found.model.num_weights() * 4 <= declared_bytes(data)
    for name, array in found.model.state().items():
        assert array.dtype == np.float32, name
    return False


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compilation is no part of what is measured below."""
    for data in WHOLE.values():
        assert not ends_well(data)


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_damaged_files_are_refused_by_hash_and_lengths(seed: int) -> None:
    rng = random.Random(seed)
    data = WHOLE[CODERS[seed % len(CODERS)]]
    assert all(ends_well(damaged(data, rng)) for _ in range(1000))


@pytest.mark.parametrize("coders", CODERS)
def test_a_thousand_damaged_files_with_a_repaired_hash(coders: tuple[str, ...]) -> None:
    rng = random.Random(repr(coders))
    data, refused = WHOLE[coders], 0
    for turn in range(1000):
        tried = sealed(damaged(data, rng))
        if turn % 20 or len(tried) < 64:
            refused += ends_well(tried)
            continue
        tracemalloc.start()  # ten times slower
        refused += ends_well(tried)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * declared_bytes(tried) + WORKING_AREA
    assert refused > 500


@pytest.mark.parametrize("coders", CODERS)
def test_two_hundred_and_fifty_damaged_parts_behind_the_compression(coders: tuple[str, ...]) -> None:
    rng = random.Random(repr(coders))
    data, refused = WHOLE[coders], 0
    for _ in range(250):
        parts = list(OPENED[coders])
        place = rng.choice([i for i, part in enumerate(parts) if part])
        parts[place] = damaged(parts[place], rng)
        refused += ends_well(closed(data, parts))
    assert refused > 60


@settings(max_examples=60)
@given(data=st.data())
def test_lies_about_shapes_and_lengths(data: st.DataObject) -> None:
    """One record of the index says something else; prefix and hash go along with it."""
    coders = data.draw(st.sampled_from(CODERS))
    records = list(unpack(WHOLE[coders]).records)
    place = data.draw(st.integers(0, len(records) - 1))
    big = st.sampled_from([0, 1, 2, 7, 63, 64, 1024, 65537, 1 << 22, 1 << 31, 1 << 62])
    changes = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "shape": st.lists(big, min_size=1, max_size=4).map(tuple),
                "coder": st.integers(0, 6),
                "grid": st.integers(0, 11),
                "side_bytes": big,
                "payload_bytes": big,
            },
        )
    )
    lying = dataclasses.replace(records[place], **changes)
    records[place] = lying
    weights = min(sum(record.weights for record in records), (1 << 64) - 1)
    whole = WHOLE[coders][:16] + struct.pack("<Q", weights) + WHOLE[coders][24:]
    refused = ends_well(closed(whole, [write_index(MODEL, records), *OPENED[coders][1:]]))
    assert refused or lying.shape == unpack(WHOLE[coders]).records[place].shape
