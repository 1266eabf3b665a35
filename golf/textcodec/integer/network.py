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

from golf.textcodec.integer.arrays import Ring, Scratch, Shape
from golf.textcodec.integer.config import FAMILIES, check_arrays
from golf.textcodec.integer.exact import IntegerError
from golf.textcodec.integer.kernels import run_pass
from golf.textcodec.integer.layers import make_layers
from golf.textcodec.integer.product import PANEL
from golf.textcodec.integer.rotary import rotations
from golf.textcodec.integer.weights import Arrays, make_weights

__all__ = ["IntegerNetwork", "IntegerStream"]

ROWS = 64  # tokens that go through the layers together: their rows stay in the cache


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
        record = config["family"] == "record"
        self.base = float(config["rope_base"])
        # a normalized head has length sqrt(E): a bound of keys
        self.shape = Shape(heads, kv_heads, width, math.ceil(math.log2(width) / 2), float(config["norm_eps"]),
                           float(config["negative_slope"]), float(config["softcap"]),
                           config["rope_dims"] if record else width, config["bos_id"] if record else -1)  # fmt: skip
        self.vocab_size = len(arrays["token_embedding"])
        self.layers = make_layers(config, arrays, depth)
        self.weights = make_weights(arrays, self.shape)

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
            np.zeros(streams, np.int64),
            np.full((streams, 2), -1),
        )
        self._table = (-1, np.empty((0, 0)), np.empty((0, 0)))

    def logits(self, ids: np.ndarray, first: int = 0) -> np.ndarray:
        """Feed ``ids`` (B', t) to the streams from ``first`` on: int32 (B', t, V) in steps of 1 / 1024 nat.

        Every stream must be fed each position once: ``advance`` follows when all have been. Calls for different streams
        may run side by side.
        """
        ids = np.ascontiguousarray(ids, np.int64)
        network, tokens = self.network, ids.shape[1]
        if tokens > self.chunk or first < 0 or first + len(ids) > self._ring.keys.shape[1]:
            raise ValueError(f"ids: found {ids.shape} from stream {first} on, which is outside of this stream")
        if ids.min(initial=0) < 0 or ids.max(initial=0) >= network.vocab_size:  # the kernel indexes by them
            raise ValueError(f"ids: found {ids.min()} to {ids.max()}, expected 0 to {network.vocab_size - 1}")
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
        """Cosine and sine (t, turned / 2) of the next positions, from tables of many."""
        start, cos, sin = self._table
        if not start <= self.position <= self.position + tokens <= start + len(cos):
            start, size = self.position, max(256, tokens)
            cos, sin = rotations(np.arange(start, start + size), self.network.shape.turned, self.network.base)
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
        mixed=np.empty((rows, width)), lane=np.empty((rows, width)), first=np.empty(rows, np.int64),
        gates=np.empty((rows, shape.heads)),
    )  # fmt: skip
