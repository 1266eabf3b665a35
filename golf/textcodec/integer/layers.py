"""What the layers of an integer-exact network do beside their blocks, by family: skips, scales, lanes.

Shapes: those of ``golf.textcodec.integer.arrays``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from golf.textcodec.integer.arrays import Layers
from golf.textcodec.integer.config import record_applications
from golf.textcodec.integer.weights import Arrays, sigmoid_all

__all__ = ["make_layers"]


def make_layers(config: Mapping[str, Any], arrays: Arrays, depth: int | None) -> Layers:
    """Those of a model at ``depth``, its full one when that is ``None``."""
    if config["family"] == "record":
        return _record_layers(config, arrays, depth)
    if config["family"] == "depth_recurrent":
        return _recurrent_layers(config, arrays, depth or config["repeats"])
    return _flat_layers(config, arrays)


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


def _record_layers(config: Mapping[str, Any], arrays: Arrays, depth: int | None) -> Layers:
    order = record_applications(config, depth)
    layers, half = _empty_layers(len(order), 0, config["width"]), len(order) // 2
    layers.exclusive[:] = config["exclusive"]
    lanes = False
    for index, (layer, block) in enumerate(order):
        layers.block[index] = block
        if config["layer_scale"]:
            layers.scale[index] = 1.0 / math.sqrt(layer + 1.0)
        if lanes or (index >= half and layer >= config["lanes_from"]):
            layers.lanes[index] = 2 if lanes else 1
            layers.carry[index], layers.shares[index] = arrays["lane_carry"][layer], arrays["lane_shares"][layer]
            lanes = True
    for place in range(half if "skip_scales" in arrays else 0):
        taken = half - 1 - place
        layers.kept[taken], layers.taken[half + place] = taken, taken
        gate = sigmoid_all(arrays["skip_gates"][place].astype(np.float64))
        layers.stay[half + place] = gate
        layers.skip[half + place] = (1.0 - gate) * arrays["skip_scales"][place].astype(np.float64)
    return layers


def _empty_layers(count: int, tables: int, width: int) -> Layers:
    return Layers(
        block=np.zeros(count, np.int64), exclusive=np.zeros(count, np.bool_), loop=np.zeros((count, width)),
        mixes=np.zeros((count, tables, width)), skip=np.zeros((count, width)), taken=np.full(count, -1),
        kept=np.full(count, -1), stay=np.ones((count, width)), scale=np.ones(count), lanes=np.zeros(count, np.int64),
        carry=np.zeros((count, 2)), shares=np.zeros((count, 2, 2)),
    )  # fmt: skip
