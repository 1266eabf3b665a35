"""What weighs nothing allocates nothing: declared sizes count against the bytes that are stored, before any memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from golf.artifact.bytes import ArtifactError, varint
from golf.artifact.layout import Record
from golf.artifact.read import unpack
from golf.artifact.write import pack, write_index
from golf.base.errors import GolfError
from golf.data.tokenizer import Tokenizer
from golf.quantize.tensors import QuantizedModel, QuantizedTensor
from hostile import closed, opened

EMPTY = QuantizedModel({"family": "x"}, 9, {}, {"g": np.ones(3, np.float16)}, {})
WHOLE = pack(EMPTY, b"tokenizer", coders=("rans",))


def refused(read: Callable[[], object], *, match: str) -> None:
    """``read`` raises the named error within a second and 40 MB."""
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(GolfError, match=match):
        read()
    peak, seconds = tracemalloc.get_traced_memory()[1], time.process_time() - begin
    tracemalloc.stop()
    assert peak < 40e6 and seconds < 5.0


def with_index(index: bytes, weights: int) -> bytes:
    return closed(WHOLE[:16] + struct.pack("<Q", weights) + WHOLE[24:], [index, *opened(WHOLE)[1:]])


@pytest.mark.parametrize("grid", range(2, 10))
@pytest.mark.parametrize("shape", [(1 << 24, 0), (0, 1 << 24), (1 << 40, 0, 1 << 40)])
def test_tensors_without_weights_have_no_rows(grid: int, shape: tuple[int, ...]) -> None:
    """(2^24, 0) has no weight and 2^24 row steps: 43 kB of artifact took 2.75 GB."""
    data = with_index(write_index(EMPTY, [Record("a", "mlp", grid, shape, 1)]), 0)
    refused(lambda: unpack(data), match="a dimension is|a: shape")


def test_an_empty_tensor_is_not_written_either() -> None:
    empty = QuantizedTensor("a", "mlp", (4, 0), np.zeros((4, 0), np.int16), np.zeros(4, np.int8))
    with pytest.raises(ArtifactError, match=r"a: named a inside, shape \(4, 0\)"):
        pack(QuantizedModel({"family": "x"}, 9, {"a": empty}), b"tokenizer", coders=("rans",))


def test_constant_matrices_are_paid_for_by_bytes() -> None:
    """Sixteen matrices of zeros, 2^20 weights each, took 69 CPU seconds out of 2.6 kB."""
    zeros = np.zeros((1024, 1024), np.int16)
    tensors = {
        f"m{i:02}": QuantizedTensor(f"m{i:02}", "mlp", zeros.shape, zeros, np.zeros(1024, np.int8)) for i in range(3)
    }
    data = pack(QuantizedModel({"family": "x"}, 9, tensors), b"tokenizer", coders=("rans",))
    assert len(data) < 5000
    refused(lambda: unpack(data), match=f"declares {3 << 20} weights in {len(data)} bytes, at most")


def test_a_tokenizer_of_millions_of_empty_pieces_is_refused() -> None:
    """631 bytes of artifact were 5.5 million pieces: 909 MB and 15 CPU seconds."""
    parts = opened(WHOLE)
    count = 1_300_000
    parts[-2] = b"\1" + varint(count) + bytes(3 * count)
    refused(lambda: unpack(closed(WHOLE, parts)), match=f"number of pieces is {count}, at most 65536 is allowed")
    parts[-2] = b"\0" + b"\x0a\x00" * (1 << 23)
    large = closed(WHOLE, parts)
    refused(lambda: unpack(large), match="tokenizer raw length is .*, at most 16777216 is allowed")
    refused(lambda: Tokenizer(b"\x0a\x00" * 2_000_000), match="more than 65,536 pieces")
