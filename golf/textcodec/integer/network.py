"""A trained model as an integer-exact network: a batched pass over a text and one-token steps give the same bits.

Everything that is summed is snapped to integers of 11 to 13 bits times a power of two first (``exact``): the rows that
enter a matrix product, the weights, queries and keys, values and softmax weights. The scale of a row of activations
comes from its own largest element, those of keys and values from bounds that the weights give, so nothing is calibrated
and nothing is clipped. Between the sums the residual stream is float64, touched only element by element.

Shapes: B streams, t tokens of a pass, D width, H query heads, K key/value heads, E head width, V vocabulary. The models
are those of ``golf.models``; here they are arrays by the names of their parameters, and no torch is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from golf.textcodec.integer.config import FAMILIES, check_arrays
from golf.textcodec.integer.exact import ROW_BITS, WEIGHT_BITS, IntegerError, snapped
from golf.textcodec.integer.kernels import Layers, Ring, Scratch, Shape, Weights, run_pass
from golf.textcodec.integer.product import PANEL, pack_panels
from golf.textcodec.integer.rotary import rotations

__all__ = ["IntegerNetwork", "IntegerStream"]

ROWS = 64  # tokens that go through the layers together: their rows stay in the cache
Arrays = Mapping[str, np.ndarray]


class IntegerNetwork:
    """Weights and layers of a model: its ``config`` as stored in an artifact and its ``arrays`` by name.

    Raises ``IntegerError`` for a family without an exact form, arrays that are not the configuration's, and weights
    that are not finite.
    """

    def __init__(self, config: Mapping[str, Any], arrays: Arrays, *, depth: int | None = None) -> None:
        if config.get("family") not in FAMILIES:
            raise IntegerError(
                f"model.family {config.get('family')} has no integer-exact network, expected {' or '.join(FAMILIES)} "
                "(its recurrent state is rounded at every step); code with arithmetic: portable"
            )
        check_arrays(config, arrays)
        broken = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
        if broken is not None:
            raise IntegerError(f"{broken}: holds a number that is not finite: the artifact's weights are broken")
        heads, kv_heads, width = config["heads"], config["kv_heads"], config["width"] // config["heads"]
        self.base = float(config["rope_base"])
        # a normalized head has length sqrt(E): a bound of keys
        self.shape = Shape(heads, kv_heads, width, math.ceil(math.log2(width) / 2), float(config["norm_eps"]),
                           float(config["negative_slope"]), float(config["softcap"]))  # fmt: skip
        self.vocab_size = len(arrays["token_embedding"])
        if config["family"] == "depth_recurrent":
            blocks = config["blocks"]
            self.layers = _recurrent_layers(config, arrays, depth or config["repeats"])
        else:
            blocks = config["layers"]
            self.layers = _flat_layers(config, arrays)
        self.weights = _weights(arrays, blocks, self.shape)

    def stream(self, streams: int, window: int, chunk: int = 1) -> IntegerStream:
        """``streams`` empty texts whose tokens attend to the last ``window`` keys; passes of ``chunk`` tokens at
        most."""
        return IntegerStream(self, streams, window, chunk)


class IntegerStream:
    """What the network remembers of some texts that go on side by side."""

    def __init__(self, network: IntegerNetwork, streams: int, window: int, chunk: int) -> None:
        for name, size in (("streams", streams), ("window", window), ("chunk", chunk)):
            if size < 1:
                raise ValueError(f"{name}: found {size}, expected 1 or more")
        self.network, self.chunk, self.position = network, chunk, 0
        shape, slots = network.shape, -(-(window + chunk - 1) // PANEL)  # panels of slots
        outer, width = (len(network.layers.block), streams, shape.kv_heads), -(-shape.head_dim // PANEL)
        self._ring = Ring(
            np.zeros((*outer, slots, shape.head_dim // 2, PANEL, 2), np.int16),
            np.zeros((*outer, width, slots * PANEL // 2, PANEL, 2), np.int16),
            window,
        )
        self._table = (-1, np.empty((0, 0)), np.empty((0, 0)))

    def logits(self, ids: np.ndarray, first: int = 0) -> np.ndarray:
        """Feed ``ids`` (B', t) to the streams from ``first`` on: int32 (B', t, V) in steps of 1 / 1024 nat.

        Every stream must be fed the same positions once: ``advance`` follows when all have been. Calls for different
        streams may run side by side.
        """
        ids = np.ascontiguousarray(ids, np.int64)
        assert ids.shape[1] <= self.chunk and first + len(ids) <= self._ring.keys.shape[1]
        network, tokens = self.network, ids.shape[1]
        cos, sin = self.rotations(tokens)
        out = np.empty((*ids.shape, network.vocab_size), np.int32)
        together = max(1, ROWS // tokens)
        scratch = _scratch(network, min(together, len(ids)) * tokens, PANEL * self._ring.keys.shape[3])
        for begin in range(0, len(ids), together):
            part, rows = ids[begin : begin + together], out[begin : begin + together].reshape(-1, out.shape[2])
            place = (first + begin, self.position, cos, sin, tokens)
            model = (network.shape, network.weights, network.layers)
            if not run_pass(*model, self._ring, scratch, part.reshape(-1), place, rows):
                raise IntegerError("the model's numbers grow beyond 2^200: the artifact's weights are broken")
        return out

    def rotations(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine (t, E / 2) of the next positions, from tables of many."""
        start, cos, sin = self._table
        if not start <= self.position <= self.position + tokens <= start + len(cos):
            start, size = self.position, max(256, tokens)
            cos, sin = rotations(np.arange(start, start + size), self.network.shape.head_dim, self.network.base)
            self._table = (start, cos, sin)
        at = slice(self.position - start, self.position - start + tokens)
        return cos[at], sin[at]

    def advance(self, tokens: int) -> None:
        """All streams have been fed so many tokens."""
        self.position += tokens


def _scratch(network: IntegerNetwork, rows: int, slots: int) -> Scratch:
    shape, weights = network.shape, network.weights
    width, attended = weights.embedding.shape[1], shape.heads * shape.head_dim
    matrices = (weights.head, weights.qkv, weights.output, weights.mlp_input, weights.mlp_output)
    panels = max(matrix.shape[-4] for matrix in matrices)
    inputs = max(width, attended, weights.mlp_input_unit.shape[1]) + 1  # an odd number has a zero behind it
    group, places = shape.heads // shape.kv_heads, int(network.layers.kept.max(initial=-1)) + 1
    return Scratch(
        x=np.empty((rows, width)), x0=np.empty((rows, width)), kept=np.empty((places, rows, width)),
        z=np.empty((rows, panels * PANEL)), left=np.zeros((rows, inputs + inputs % 2), np.int16),
        unit=np.empty(rows), inverse=np.empty(rows), q=np.empty((rows, shape.heads, shape.head_dim), np.int16),
        v=np.empty((rows, shape.kv_heads, shape.head_dim)), y=np.empty((rows, attended)),
        scores=np.empty((group, slots)), weights=np.empty((group, slots), np.int16),
        sums=np.empty((group, -(-shape.head_dim // PANEL) * PANEL)), totals=np.empty(group),
    )  # fmt: skip


def _weights(arrays: Arrays, blocks: int, shape: Shape) -> Weights:
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
    tables = [arrays[name] for name in _numbered(arrays, "value_embeddings")]
    stacked = [np.stack(side) for pairs in matrices for side in zip(*pairs, strict=True)]
    values = [arrays[f"blocks.{i}.attention.value.weight"] for i in range(blocks)]
    return Weights._make([
        _normed(embedding, shape.eps), np.array(tables, np.float64).reshape(len(tables), *embedding.shape),
        head, head_unit, *stacked, vectors("attention.query_gain") * (1.0 / math.sqrt(shape.head_dim)),
        np.array([_value_exponent(value) for value in values]),
        vectors("attention_scale"), vectors("mlp_scale"), vectors("residual_mix"),
    ])  # fmt: skip


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


def _recurrent_layers(config: Mapping[str, Any], arrays: Arrays, depth: int) -> Layers:
    blocks, width = config["blocks"], config["width"]
    count, tables = blocks * depth, config["value_tables"]
    layers = _empty_layers(count, tables, width)
    layers.block[:] = np.arange(count) % blocks
    layers.exclusive[:] = np.arange(count) >= count - config["xsa_last"]
    layers.loop[:] = arrays["loop_vectors"][:count]
    if tables:
        layers.mixes[:] = arrays["value_scales"][:count]
    skips = arrays.get("cross_repeat_scales", np.empty(0))
    for layer in range(count if len(skips) else 0):
        repeat, block = divmod(layer, blocks)
        layers.kept[layer] = block if repeat + 1 < depth else -1
        if repeat > 0:
            layers.taken[layer], layers.skip[layer] = block, skips[block, repeat - 1]
    return layers


def _flat_layers(config: Mapping[str, Any], arrays: Arrays) -> Layers:
    count, half = config["layers"], config["layers"] // 2
    layers = _empty_layers(count, 0, config["width"])
    layers.block[:] = np.arange(count)
    for index in range(half if config["unet_skips"] else 0):
        taken = half - 1 - index  # the first layer of the second half takes the last output of the first
        layers.kept[taken], layers.taken[half + index] = taken, taken
        layers.skip[half + index] = arrays["skip_scales"][index]
    return layers


def _empty_layers(count: int, tables: int, width: int) -> Layers:
    return Layers(
        block=np.zeros(count, np.int64), exclusive=np.zeros(count, np.bool_), loop=np.zeros((count, width)),
        mixes=np.zeros((count, tables, width)), skip=np.zeros((count, width)), taken=np.full(count, -1),
        kept=np.full(count, -1),
    )  # fmt: skip
