from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from golf.base.files import FileError, save_numpy, sha256_file
from golf.quantize.storage import load_quantized, save_quantized
from golf.quantize.tensors import QuantizedModel, QuantizedTensor, column_steps, row_steps


def tensor(**changes: object) -> QuantizedTensor:
    fields: dict[str, object] = {
        "name": "w",
        "role": "mlp",
        "shape": (2, 3),
        "values": np.array([[1, -2, 300], [0, 5, -6]], np.int16),
        "row_scale": np.array([0.5, 0.25], np.float16),
    }
    return QuantizedTensor(**(fields | changes))  # type: ignore[arg-type]


def test_codes_are_powers_of_two_to_float32() -> None:
    codes = np.arange(-128, 128).astype(np.int8)
    assert row_steps(codes).tolist() == [float(np.float32(math.pow(2, c / 8))) for c in range(-128, 128)]
    assert column_steps(codes).tolist() == [float(np.float32(math.pow(2, c / 4))) for c in range(-128, 128)]


def test_dequantize_by_hand() -> None:
    assert tensor().dequantize().tolist() == [[0.5, -1.0, 150.0], [0.0, 1.25, -1.5]]
    stepped = tensor(row_scale=np.array([8, -16], np.int8), column_codes=np.array([0, 4, -8], np.int8))
    assert stepped.dequantize().tolist() == [[2.0, -8.0, 150.0], [0.0, 2.5, -0.375]]


def test_trellis_values_follow_the_path() -> None:
    """State 0, next by T[state][k & 1]; value (2k + (state & 1)) / 2 steps."""
    found = tensor(trellis=True, row_scale=np.ones(2, np.float16)).dequantize()
    table = [[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]]
    expected = []
    for row in tensor().values.tolist():
        state, out = 0, []
        for k in row:
            out.append((2 * k + (state & 1)) / 2)
            state = table[state][k & 1]
        expected.append(out)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.zeros((2, 3), np.int8)}, "integers are int8"),
        ({"shape": (3, 2)}, r"expected int16 \(3, 2\)"),
        ({"shape": (6,)}, "expected int16"),
        ({"role": "head"}, "role is 'head'"),
        ({"row_scale": np.ones(3, np.float16)}, "row scales are float16"),
        ({"row_scale": np.ones(2, np.float32)}, "row scales are float32"),
        ({"row_scale": np.array([1, -1], np.float16)}, "negative or not finite"),
        ({"row_scale": np.array([1, np.nan], np.float16)}, "negative or not finite"),
        ({"column_codes": np.zeros(2, np.int8)}, "column codes are int8"),
    ],
)
def test_broken_invariants_name_the_tensor(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="w: .*" + message):
        tensor(**changes)


def model() -> QuantizedModel:
    tensors = {
        "w": tensor(),
        "v": tensor(name="v", values=np.ones((2, 3), np.int16), row_scale=np.array([3, -9], np.int8)),
        "c": tensor(name="c", column_codes=np.array([1, 2, -3], np.int8), trellis=True),
    }
    plain = {"gain": np.array([1.5, -2], np.float16), "big": np.array([1e9], np.float32)}
    return QuantizedModel({"family": "x", "width": 3}, 50, tensors, plain, {"tied": "w", "twin": "gain"})


def test_file_round_trip(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_quantized(first, model())
    again = load_quantized(first)
    assert (again.config, again.vocab_size, again.aliases) == ({"family": "x", "width": 3}, 50, model().aliases)
    for name, array in model().state().items():
        assert (again.state()[name] == array).all()
    for name, old in model().tensors.items():
        new = again.tensors[name]
        assert (new.role, new.shape, new.trellis) == (old.role, old.shape, old.trellis)
        assert (new.values == old.values).all() and new.row_scale.dtype == old.row_scale.dtype
    save_quantized(second, again)
    assert sha256_file(first) == sha256_file(second)


def test_tied_names_share_one_array() -> None:
    state = model().state()
    assert state["tied"] is state["w"] and state["twin"] is state["gain"]
    assert model().num_weights() == 18 + 3


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not found; it is made by `fit`"):
        load_quantized(tmp_path / "none.safetensors")
    save_numpy(tmp_path / "x.safetensors", {"a": np.zeros(1)}, {"model": {}})
    with pytest.raises(FileError, match=r"x.safetensors: missing key `vocab_size` .*; re-run `fit`"):
        load_quantized(tmp_path / "x.safetensors")
