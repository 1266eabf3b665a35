"""The weights of a model as its integer-exact network takes them: matrices as integers in panels, vectors in float64.

Shapes: those of ``golf.textcodec.integer.arrays``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from golf.base.exact import exp_all
from golf.textcodec.integer.arrays import Shape, Weights
from golf.textcodec.integer.exact import ROW_BITS, WEIGHT_BITS, IntegerError, snapped
from golf.textcodec.integer.product import pack_panels

__all__ = ["Arrays", "make_weights", "sigmoid_all"]

GATE_BITS = 20  # of the gates of heads, whose few terms are summed in 64 bits
Arrays = Mapping[str, np.ndarray]


def make_weights(arrays: Arrays, shape: Shape) -> Weights:
    """Those of the model whose ``arrays`` have been compared with its configuration."""
    blocks = 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("blocks."))
    qkv, output, mlp_input, mlp_output = matrices = tuple([] for _ in range(4))  # type: ignore[var-annotated]
    for i in range(blocks):
        part = {name: arrays[f"blocks.{i}.attention.{name}.weight"] for name in ("query", "key", "value", "output")}
        qkv.append(_matrix(np.concatenate([part["query"], part["key"], part["value"]])))
        output.append(_matrix(part["output"]))
        mlp_input.append(_matrix(arrays[f"blocks.{i}.mlp.input.weight"]))
        mlp_output.append(_matrix(arrays[f"blocks.{i}.mlp.output.weight"]))

    def vectors(name: str) -> np.ndarray:
        return np.stack([arrays[f"blocks.{i}.{name}"] for i in range(blocks)]).astype(np.float64)

    embedding = arrays["token_embedding"].astype(np.float64)
    head, head_unit = _matrix(embedding)
    smear, hashes = _smear(arrays, embedding), _hashes(arrays, embedding.shape[1])
    tables = [arrays[name] for name in _numbered(arrays, "value_embeddings")]
    stacked = [np.stack(side) for pairs in matrices for side in zip(*pairs, strict=True)]
    values = [arrays[f"blocks.{i}.attention.value.weight"] for i in range(blocks)]
    return Weights._make([
        embedding if len(smear) or len(hashes) else _normed(embedding, shape.eps),
        np.array(tables, np.float64).reshape(len(tables), *embedding.shape),
        head, head_unit, *stacked, vectors("attention.query_gain") * (1.0 / math.sqrt(shape.head_dim)),
        np.array([_value_exponent(value) for value in values]),
        vectors("attention_scale"), vectors("mlp_scale"), vectors("residual_mix"),
        *_gates(arrays, blocks, shape.heads), smear, hashes,
    ])  # fmt: skip


def _gates(arrays: Arrays, blocks: int, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers (N, H, W) and units (N, H) of the gates of the heads."""
    found = [arrays.get(f"blocks.{i}.attention.gate", np.zeros((heads, 0))).astype(np.float64) for i in range(blocks)]
    if not found[0].size:
        return np.zeros((blocks, heads, 0), np.int64), np.ones((blocks, heads))
    pairs = [snapped(gate, GATE_BITS, np.int64) for gate in found]
    return np.stack([integers for integers, _ in pairs]), np.stack([unit for _, unit in pairs])


def _smear(arrays: Arrays, embedding: np.ndarray) -> np.ndarray:
    """How much of the embedding before joins that of each token, (V,); none without a smear gate."""
    if "smear.gate" not in arrays:
        return np.empty(0)
    gate, reads = arrays["smear.gate"][0].astype(np.float64), np.zeros(len(embedding))
    for c, weight in enumerate(gate):  # a sum in a stated order
        reads = reads + embedding[:, c] * weight
    return float(arrays["smear.scale"][0]) * sigmoid_all(reads)


def _hashes(arrays: Arrays, width: int) -> np.ndarray:
    """The rows of the hashed table as the network adds them, (R, D): projected and scaled. Sums in whole numbers."""
    if "hashes.embedding" not in arrays:
        return np.empty((0, width))
    table, unit = snapped(arrays["hashes.embedding"].astype(np.float64), ROW_BITS, np.float64)
    projection, each = snapped(arrays["hashes.projection.weight"].astype(np.float64), WEIGHT_BITS, np.float64)
    if table.shape[1] >= 1 << 53 - ROW_BITS - WEIGHT_BITS:  # sums of whole numbers in float64 are exact below
        raise IntegerError(f"hashes.embedding: found rows of {table.shape[1]} numbers, whose sums are not exact")
    return np.asarray((table @ projection.T) * each * unit[:, None] * float(arrays["hashes.scale"][0]))


def sigmoid_all(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-``x``) of every element, the same bits on any machine."""
    return np.asarray(1.0 / (1.0 + exp_all(-x)))


def _numbered(arrays: Arrays, name: str) -> list[str]:
    found = [key for key in arrays if key.startswith(f"{name}.")]
    return sorted(found, key=lambda key: int(key.rpartition(".")[2]))


def _matrix(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``weight`` (O, I) as panels (P, I / 2, 16, 2), and the power of two of each of its rows, (O,)."""
    integers, unit = snapped(weight.astype(np.float64), WEIGHT_BITS)
    return pack_panels(np.ascontiguousarray(integers.T)), unit


def _value_exponent(weight: np.ndarray) -> int:
    """Values are below 2^this: a normalized row has length sqrt(D). From the snapped weight, in whole numbers."""
    integers, unit = snapped(weight.astype(np.float64), WEIGHT_BITS)
    lengths = (integers.astype(np.int64) ** 2).sum(axis=1).astype(np.float64) * unit * unit
    return math.frexp(math.sqrt(float(lengths.max()) * weight.shape[1]))[1]


def _normed(rows: np.ndarray, eps: float) -> np.ndarray:
    """Rows over their root mean square, as the kernels norm them."""
    integers, unit = snapped(rows, ROW_BITS)
    squares = (integers.astype(np.int64) ** 2).sum(axis=1).astype(np.float64) * (unit * unit)
    inverse = 1.0 / np.sqrt(squares / rows.shape[1] + eps)
    return (integers * unit[:, None]) * inverse[:, None]
