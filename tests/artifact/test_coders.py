"""The smallest of all coders: which wins where, exact round trips, lazy imports, named errors."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.artifact import coders
from golf.artifact.bytes import ArtifactError
from golf.artifact.coders import CODERS, Coder, Encoded, SideInfo, encode_smallest

ALL = [coder.name for coder in CODERS.values()]


def _info(values: np.ndarray) -> SideInfo:
    rows, columns = values.shape
    return SideInfo("t", rows, columns, np.ones(rows, np.float16), None)


def _back(coded: Encoded, values: np.ndarray) -> np.ndarray:
    return CODERS[coded.coder].decode(coded.side, coded.payload, _info(values))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 80), st.integers(0, 20)),
    scale=st.floats(0.01, 9000),
    name=st.sampled_from(ALL),
)
def test_round_trip(seed: int, shape: tuple[int, int], scale: float, name: str) -> None:
    noise = np.random.default_rng(seed).normal(size=shape) * scale
    values = np.clip(np.rint(noise), -32768, 32767).astype(np.int16)
    coded = encode_smallest(values, _info(values), coders=("raw", name))
    assert CODERS[coded.coder].name in ("raw", name) and np.array_equal(_back(coded, values), values)


def test_each_coder_wins_where_it_should() -> None:
    rng = np.random.default_rng(0)
    factors = np.rint(3 * (rng.normal(size=(1500, 4)) @ rng.normal(size=(4, 24)) + rng.normal(size=(1500, 24)) / 2))
    uniform = rng.integers(-8, 8, (64, 64))
    for values, winner in ((factors, "linear"), (uniform, "raw")):
        coded = encode_smallest(values.astype(np.int16), _info(values), coders=ALL)
        assert CODERS[coded.coder].name == winner


def test_the_choice_is_the_smallest_of_all() -> None:
    values = np.rint(np.random.default_rng(1).normal(size=(300, 40)) * np.geomspace(1, 5, 40)).astype(np.int16)
    sizes = {name: encode_smallest(values, _info(values), coders=(name,)).num_bytes for name in ALL}
    coded = encode_smallest(values, _info(values), coders=ALL)
    assert coded.num_bytes == min(sizes.values()) == sizes[CODERS[coded.coder].name] < sizes["rans"]


def test_a_large_table_is_coded_whole_only_by_coders_with_hope(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, whole = np.random.default_rng(0), []
    values = np.rint(3 * (rng.normal(size=(1500, 4)) @ rng.normal(size=(4, 24)))).astype(np.int16)
    exact = encode_smallest(values, _info(values), coders=ALL)
    for number, coder in list(CODERS.items()):

        def encode(some: np.ndarray, info: SideInfo, coder: Coder = coder) -> tuple[bytes, bytes]:
            whole.extend([coder.name] * (len(some) == len(values)))
            return coder.encode(some, info)

        monkeypatch.setitem(CODERS, number, replace(coder, encode=encode))
    monkeypatch.setattr(coders, "LARGE", 1000)
    monkeypatch.setattr(coders, "_SAMPLED", 500)
    assert encode_smallest(values, _info(values), coders=ALL) == exact and whole == ["linear"]


def test_numbers_are_those_of_the_format() -> None:
    assert [(n, c.number, c.name) for n, c in CODERS.items()] == [
        *((0, 0, "raw"), (1, 1, "rans"), (2, 2, "columns"), (3, 3, "context"), (4, 4, "linear"))
    ]


def test_numba_is_imported_only_when_such_a_stream_is_coded() -> None:
    script = (
        "import sys, numpy as np, golf.artifact.read, golf.artifact.write\n"
        "from golf.artifact.coders import CODERS, SideInfo, encode_smallest\n"
        "v = np.arange(12, dtype=np.int16).reshape(3, 4)\n"
        "encode_smallest(v, SideInfo('t', 3, 4, np.ones(3, np.float16), None), coders=('rans', 'raw'))\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_errors_name_what_is_wrong() -> None:
    values = np.zeros((2, 2), np.int16)
    with pytest.raises(ValueError, match="expected at least one of raw, rans, columns, context, linear"):
        encode_smallest(values, _info(values), coders=("zip",))
    with pytest.raises(ValueError, match="none of the coders"):
        encode_smallest(np.array([[-5000, 5000]], np.int16), _info(np.zeros((1, 2))), coders=("columns",))
    with pytest.raises(ArtifactError, match="side bytes"):
        CODERS[3].decode(b"\0", b"", _info(values))


@pytest.mark.parametrize("number", [2, 3, 4])
def test_shapes_whose_models_would_fill_the_memory_are_refused(number: int) -> None:
    columns = coders.MAX_MODELED_COLUMNS + 1
    info = SideInfo("t", 1, columns, np.ones(1, np.float16), None)
    with pytest.raises(ArtifactError, match=f"t: .*{columns}"):
        CODERS[number].decode(b"", b"\0" * 20, info)
    wide = np.zeros((1, columns), np.int16)
    assert encode_smallest(wide, info, coders=[CODERS[number].name, "raw"]).coder == 0
