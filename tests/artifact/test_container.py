from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.artifact import layout
from golf.artifact.bytes import ArtifactError, Reader, pack_block, unpack_block, varint
from golf.artifact.layout import Record, Unpacked
from golf.artifact.read import unpack
from golf.artifact.write import pack, write_index
from golf.quantize.rounding import entropy_bits
from golf.quantize.tensors import QuantizedModel, QuantizedTensor

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "artifact.json"
TOKENIZER = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02" * 9


def bell(seed: int, rows: int, columns: int, width: int = 8) -> np.ndarray:
    """Integers of a bell curve from a fixed congruence, the same wherever the test runs."""
    state, out = seed, np.zeros(rows * columns, np.int64)
    for i in range(out.size):
        for _ in range(3):
            state = (state * 1664525 + 1013904223) % 2**32
            out[i] += (state >> 16) % width
    return (out - 3 * width // 2).astype(np.int16).reshape(rows, columns)


def make_model() -> QuantizedModel:
    tensors = [
        QuantizedTensor("block.w", "mlp", (20, 30), bell(1, 20, 30), (np.arange(20) / 64 + 0.01).astype(np.float16)),
        QuantizedTensor("embedding", "embedding", (2, 10, 8), bell(2, 20, 8, 40), np.arange(-10, 10).astype(np.int8)),
        QuantizedTensor("zero", "attention", (4, 4), np.zeros((4, 4), np.int16), np.full(4, 2**-24, np.float16)),
        QuantizedTensor(
            "path", "attention", (6, 5), bell(3, 6, 5), np.zeros(6, np.int8), np.arange(5).astype(np.int8), True
        ),
        QuantizedTensor("far", "mlp", (1, 3), np.array([[32767, -32768, 1]], np.int16), np.ones(1, np.float16)),
    ]
    plain = {
        "gain": np.array([[1.5, -0.25]], np.float16),
        "wide": np.array([1e9, -3.0, 0.1], np.float32),
        "scalar": np.array(2.5, np.float16),
        "none": np.zeros((0, 3), np.float16),
    }
    config = {"family": "depth_recurrent", "width": 8}
    return QuantizedModel(config, 10, {t.name: t for t in tensors}, plain, {"head": "embedding", "twin": "gain"})


MODEL = make_model()
DATA = pack(MODEL, TOKENIZER)
CODED = dataclasses.replace(
    MODEL,
    tensors={
        **MODEL.tensors,
        "tall": QuantizedTensor(
            "tall", "embedding", (300, 12), np.cumsum(bell(4, 300, 12), axis=1).astype(np.int16), np.zeros(300, np.int8)
        ),
        "walk": QuantizedTensor(
            "walk", "embedding", (280, 9), bell(5, 280, 9), np.zeros(280, np.int8), np.arange(9).astype(np.int8), True
        ),
        "broad": QuantizedTensor("broad", "mlp", (7, 70), bell(6, 7, 70), np.zeros(7, np.int8), trellis=True),
    },
)


def assert_same(unpacked: Unpacked, model: QuantizedModel) -> None:
    found = unpacked.model
    assert (found.config, found.vocab_size, found.aliases) == (model.config, model.vocab_size, model.aliases)
    assert set(found.tensors) == set(model.tensors) and set(found.plain) == set(model.plain)
    for name, old in model.tensors.items():
        new = found.tensors[name]
        assert (new.name, new.role, new.shape, new.trellis) == (old.name, old.role, old.shape, old.trellis)
        for field in ("values", "row_scale", "column_codes"):
            a, b = getattr(new, field), getattr(old, field)
            assert (a is None) == (b is None)
            assert a is None or (a.dtype == b.dtype and np.array_equal(a, b)), (name, field)
    for name, array in model.plain.items():
        assert found.plain[name].dtype == array.dtype and np.array_equal(found.plain[name], array)
        assert found.plain[name].shape == array.shape
    for name, array in model.state().items():
        assert np.array_equal(found.state()[name], array)


def seal(data: bytes) -> bytes:
    """Make length and SHA-256 of a tampered artifact right again, as an attacker would."""
    data = data[:8] + struct.pack("<Q", len(data)) + data[16:]
    return data[:32] + hashlib.sha256(data[:32] + data[64:]).digest() + data[64:]


def with_index(edit: str, **changes: object) -> bytes:
    """The artifact with its first record changed and everything else honest."""
    records: list[Record] = list(unpack(DATA).records)
    place = [record.name for record in records].index(edit)
    records[place] = dataclasses.replace(records[place], **changes)  # type: ignore[arg-type]
    return rebuilt(write_index(MODEL, records), sum(record.weights for record in records))


def rebuilt(index: bytes, weights: int | None = None) -> bytes:
    reader = Reader(DATA[64:], "old")
    unpack_block(reader, "index")
    rest = reader.take(reader.left, "rest")
    prefix = DATA[:16] + struct.pack("<Q", MODEL.num_weights() if weights is None else weights) + DATA[24:64]
    return seal(prefix + pack_block(index) + rest)


@pytest.mark.parametrize(
    "coders", [("rans", "raw"), ("rans",), ("raw",), ("columns", "raw"), ("context",), ("linear", "context")]
)
def test_round_trip_of_every_kind_of_tensor(coders: tuple[str, ...]) -> None:
    data = pack(MODEL, TOKENIZER, coders=coders)
    unpacked = unpack(data)
    assert_same(unpacked, MODEL)
    assert unpacked.tokenizer == TOKENIZER
    assert sum(unpacked.sections.values()) == unpacked.num_bytes == len(data)
    assert unpacked.sha256 == hashlib.sha256(data).hexdigest()


@given(
    st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 200, 32767]), st.booleans()
)
def test_round_trip_of_any_integers(rows: int, columns: int, seed: int, most: int, codes: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-most, most + 1, (rows, columns)).astype(np.int16)
    scale = rng.integers(-128, 128, rows).astype(np.int8) if codes else rng.uniform(0, 9, rows).astype(np.float16)
    column_codes = rng.integers(-128, 128, columns).astype(np.int8) if codes else None
    tensor = QuantizedTensor("w", "mlp", (rows, columns), values, scale, column_codes)
    model = QuantizedModel({"family": "x"}, 2, {"w": tensor})
    assert_same(unpack(pack(model, b"t")), model)


def test_golden_artifact() -> None:
    """Old artifacts must stay readable: these are the bytes of version 2, zstd frames aside (their level is 1)."""
    golden = json.loads(GOLDEN.read_text())
    data = bytes.fromhex(golden["hex"])
    assert hashlib.sha256(data).hexdigest() == golden["sha256"]
    assert_same(unpack(data), MODEL)


@pytest.mark.parametrize(("coder", "number"), [("columns", 2), ("context", 3), ("linear", 4)])
def test_golden_artifacts_of_the_compiled_coders(coder: str, number: int) -> None:
    golden = json.loads(GOLDEN.with_name("artifact_coders.json").read_text())[coder]
    data = bytes.fromhex(golden["hex"])
    assert hashlib.sha256(data).hexdigest() == golden["sha256"]
    unpacked = unpack(data)
    assert number in {record.coder for record in unpacked.records}
    assert_same(unpacked, CODED)


def test_same_model_same_bytes_whatever_the_order() -> None:
    turned = dataclasses.replace(
        MODEL,
        tensors=dict(reversed(MODEL.tensors.items())),
        plain=dict(reversed(MODEL.plain.items())),
        aliases=dict(reversed(MODEL.aliases.items())),
    )
    assert pack(turned, TOKENIZER) == DATA


def test_whole_file_stays_within_a_thousandth_of_entropy() -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for i in range(3):
        values = np.rint(rng.normal(0, 2.4 + i, (600, 500))).astype(np.int16)
        tensors[f"w{i}"] = QuantizedTensor(f"w{i}", "mlp", (600, 500), values, np.ones(600, np.float16))
    unpacked = unpack(pack(QuantizedModel({"family": "x"}, 2, tensors), b"t"))
    order0 = sum(entropy_bits(tensor.values) / 8 for tensor in tensors.values())
    assert unpacked.num_bytes - unpacked.sections["tokenizer"] <= 1.001 * order0


def test_every_flipped_bit_is_the_named_error() -> None:
    rng = random.Random(0)
    for at in [*range(64), *rng.sample(range(64, len(DATA)), 200)]:
        damaged = bytearray(DATA)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(ArtifactError):
            unpack(bytes(damaged))


@pytest.mark.parametrize("cut", [0, 1, 4, 63, 64, 65, 200, len(DATA) - 1])
def test_truncated(cut: int) -> None:
    with pytest.raises(ArtifactError, match="truncated|not a golf artifact") as error:
        unpack(DATA[:cut])
    assert error.value.cause in ("length", "magic")


def test_extended() -> None:
    with pytest.raises(ArtifactError, match=rf"has {len(DATA) + 1} bytes, its prefix says {len(DATA)}: extended"):
        unpack(DATA + b"\0")


def test_messages_begin_with_the_file() -> None:
    with pytest.raises(ArtifactError, match=r"^model\.golf: begins with b'PK") as error:
        unpack(b"PK\x03\x04" + DATA[4:], where="model.golf")
    assert error.value.cause == "magic"


@pytest.mark.parametrize("version", [1, 3])
def test_other_version(version: int) -> None:
    with pytest.raises(ArtifactError, match=rf"format version {version}\.0, this decoder reads 2\.0") as error:
        unpack(DATA[:4] + bytes([version, 0]) + DATA[6:])
    assert error.value.cause == "version"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_index("block.w", shape=(20, 31)), "does not end after 620 symbols"),
        (with_index("block.w", shape=(20, 29)), "does not end after 580 symbols"),
        (with_index("block.w", shape=(1 << 30, 1 << 30)), "declares"),
        (with_index("block.w", shape=(600,)), "shape"),
        (with_index("block.w", grid=10), "grid 10"),
        (with_index("block.w", coder=77), "coder 77"),
        (with_index("gain", coder=1), "coder 1"),
        (with_index("block.w", payload_bytes=5), "payload has"),
        (with_index("block.w", side_bytes=1 << 39), "side bytes is 549755813888, at most"),
        (with_index("far", name="block.w"), "names"),
        (rebuilt(b""), "vocabulary size wants 1 bytes"),
        (rebuilt(varint(10) + varint(3) + b"{]}" + varint(0) + varint(0)), "config"),
        (rebuilt(varint(10) + varint(60000) + b"[" * 60000 + varint(0)), "config"),
        (rebuilt(b"\xff" * 12), "vocabulary size"),
        (rebuilt(write_index(MODEL, list(unpack(DATA).records)) + b"\0"), "left over"),
        (rebuilt(write_index(MODEL, list(unpack(DATA).records)), 5), "block.w dimension is 20, at most 5"),
        (rebuilt(write_index(MODEL, list(unpack(DATA).records)), 1 << 60), "at most"),
    ],
)
def test_honest_hash_over_lies(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        unpack(data)


@pytest.mark.parametrize(
    ("seed", "coders"), [*((seed, ("rans", "raw")) for seed in range(4)), (4, ("columns", "raw")), (5, ("context",))]
)
def test_mutations_behind_a_valid_hash_end_in_the_named_error_or_a_valid_model(
    seed: int, coders: tuple[str, ...]
) -> None:
    """150 mutations each of raw blocks (no zstd in the way), hash repaired: no crash, no hang, little memory."""
    rng = random.Random(seed)
    small = dataclasses.replace(MODEL, aliases={})
    stored = pack(small, TOKENIZER, coders=coders)
    reader = Reader(stored[64:], "s")
    blocks = [unpack_block(reader, name) for name in ("index", *layout.BLOCKS, "tokenizer")]
    payload = reader.take(reader.left, "payload")
    tracemalloc.start()
    refused = 0
    for _ in range(150):
        parts = [bytearray(part) for part in (*blocks, payload)]
        part = rng.choice([part for part in parts if part])
        for _ in range(rng.choice([1, 1, 2, 8])):
            part[rng.randrange(len(part))] = rng.randrange(256)
        if rng.random() < 0.2:
            del part[rng.randrange(len(part)) :]
        body = b"".join([*(b"\0" + varint(len(p)) + varint(len(p)) + bytes(p) for p in parts[:-1]), bytes(parts[-1])])
        prefix = stored[:24] + struct.pack("<Q", len(parts[-1])) + bytes(32)
        try:
            found = unpack(seal(prefix + body))
        except ArtifactError:
            refused += 1
        else:
            found.model.state()  # what is accepted can be used
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 50
    assert peak < 20e6


@pytest.mark.parametrize(
    ("changes", "cause", "message"),
    [
        ({"vocab_size": 1}, "index", "vocabulary of 1"),
        ({"vocab_size": 300000}, "index", "vocabulary of 300000"),
        ({"config": {"width": 8}}, "index", "no `family`"),
        ({"config": {"family": "x" * 70000}}, "index", "more than 65536 bytes"),
        ({"aliases": {"head": "nothing"}}, "index", "head is tied to nothing"),
        ({"aliases": {"gain": "wide"}}, "index", "10 names, 9 different|names"),
        ({"plain": {"gain": np.array([np.inf], np.float16)}, "aliases": {}}, "tensor", "gain: holds NaN"),
        ({"plain": {"gain": np.array([1.0])}, "aliases": {}}, "tensor", "gain: float64"),
        ({"plain": {"": np.ones(1, np.float16)}, "aliases": {}}, "index", "tensor name '', expected 1 to 255"),
    ],
)
def test_what_may_not_be_written(changes: dict[str, object], cause: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as error:
        pack(dataclasses.replace(MODEL, **changes), TOKENIZER)  # type: ignore[arg-type]
    assert error.value.cause == cause


def test_no_tokenizer_no_artifact() -> None:
    with pytest.raises(ArtifactError, match="0 bytes of tokenizer"):
        pack(MODEL, b"")


def test_frames_that_claim_more_than_they_hold_are_refused() -> None:
    block = pack_block(b"a" * 1000)
    assert block[0] == 1
    lying = b"\1" + varint(999) + block[3:]
    with pytest.raises(ArtifactError, match="frame holds 1000 bytes, 999 were declared"):
        unpack_block(Reader(lying, "b"), "b")
    with pytest.raises(ArtifactError, match="method 7 is unknown"):
        unpack_block(Reader(b"\7\0\0", "b"), "b")
    with pytest.raises(ArtifactError, match="does not unpack"):
        unpack_block(Reader(b"\1\3\3abc", "b"), "b")
    with pytest.raises(ArtifactError, match="unpacks to 3 bytes, 4 were declared"):
        unpack_block(Reader(b"\0\4\3abc", "b"), "b")


def test_a_block_may_not_claim_more_than_the_index_needs() -> None:
    """A few bytes of zstd could otherwise ask for 256 MB (here for 8)."""
    reader = Reader(DATA[64:], "old")
    index = unpack_block(reader, "index")
    unpack_block(reader, "low")
    rest = reader.take(reader.left, "rest")
    bomb = pack_block(bytes(1 << 23))
    data = seal(DATA[:64] + pack_block(index) + bomb + rest)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=r"low raw length is 8388608, at most \d+ is allowed"):
        unpack(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_coder_raw_is_for_comparison() -> None:
    assert len(pack(MODEL, TOKENIZER, coders=("raw",))) > len(DATA)
    assert {record.coder for record in unpack(pack(MODEL, TOKENIZER, coders=("raw",))).records} == {0}
