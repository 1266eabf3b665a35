"""The integer-exact network written down plainly: one text at a time, NumPy int64 for every sum, no kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from golf.base.exact import exp_all
from golf.textcodec.integer.rotary import rotations

ROW, WEIGHT, ATTENTION = 13, 11, 12  # bits


def snap(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers (..., C) int64 and the power of two (..., 1) of each row."""
    top = np.abs(rows).max(axis=-1, keepdims=True)
    unit = np.ldexp(1.0, np.maximum(np.frexp(top)[1], -200) - bits)
    return np.rint(rows / unit).astype(np.int64), unit


def normed(rows: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Snapped rows, their units, and one over their root mean squares."""
    integers, unit = snap(rows, ROW)
    squares = (integers * integers).sum(-1, keepdims=True).astype(np.float64) * (unit * unit)
    return integers, unit, 1.0 / np.sqrt(squares / rows.shape[-1] + eps)


def rms_norm(rows: np.ndarray, eps: float) -> np.ndarray:
    integers, unit, inverse = normed(rows, eps)
    return (integers * unit) * inverse


def product(integers: np.ndarray, unit: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(T, O) of rows (T, I) and a weight (O, I)."""
    columns, units = snap(weight.astype(np.float64), WEIGHT)
    return (integers @ columns.T).astype(np.float64) * units[:, 0] * unit


def exp_nonpositive(x: np.ndarray) -> np.ndarray:
    x = np.maximum(x, -64.0)
    k = np.rint(x * 1.4426950408889634)
    r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
    p = np.full_like(r, 1.0 / 5040.0)
    for n in range(6, -1, -1):
        p = p * r + 1.0 / math.factorial(n)
    return np.ldexp(p, k.astype(np.int64))


def grid(x: np.ndarray, exponent: int) -> np.ndarray:
    limit = 1 << ATTENTION
    return np.clip(np.rint(np.ldexp(x, ATTENTION - exponent)), -limit, limit).astype(np.int64)


def plain_logits(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], ids: np.ndarray, window: int, depth: int = 0
) -> np.ndarray:
    """Logits (T, V) of ``ids`` (T,), in steps of 1 / 1024 nat."""
    eps, table = config["norm_eps"], arrays["token_embedding"].astype(np.float64)
    x = x0 = rms_norm(table, eps)[ids]
    outputs: list[np.ndarray] = []
    if config["family"] == "record":
        x = plain_record(config, arrays, ids, window)
    elif config["family"] == "transformer":
        half = config["layers"] // 2
        for layer in range(config["layers"]):
            back = layer - half
            if config["unet_skips"] and 0 <= back < half:
                x = x + arrays["skip_scales"][back].astype(np.float64) * outputs[half - 1 - back]
            x = run_block(config, arrays, layer, x, x0, window, exclusive=False)
            outputs.append(x)
    else:
        count = config["blocks"] * (depth or config["repeats"])
        for layer in range(count):
            repeat, block = divmod(layer, config["blocks"])
            x = x + arrays["loop_vectors"][layer].astype(np.float64)
            for i in range(config["value_tables"]):
                mix, values = arrays["value_scales"][layer, i], arrays[f"value_embeddings.{i}"]
                x = x + mix.astype(np.float64) * values[ids].astype(np.float64)
            if config["cross_repeat_skip"] and repeat:
                scale = arrays["cross_repeat_scales"][block, repeat - 1].astype(np.float64)
                x = x + scale * outputs[layer - config["blocks"]]
            x = run_block(config, arrays, block, x, x0, window, exclusive=layer >= count - config["xsa_last"])
            outputs.append(x)
    z = product(*snap(rms_norm(x, eps), ROW), table)
    decay = exp_nonpositive(-2.0 * (np.abs(z) / config["softcap"]))
    steps = np.rint(((1.0 - decay) / (1.0 + decay)) * (config["softcap"] * 1024))
    return np.where(z >= 0.0, steps, -steps).astype(np.int64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    small = exp_nonpositive(-np.abs(x))
    return np.where(x >= 0.0, 1.0, small) / (1.0 + small)


def plain_record(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], ids: np.ndarray, window: int
) -> np.ndarray:
    """Rows (T, D) before the last norm."""
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    first, last = config["loop"]
    order = [*range(last + 1), *list(range(first, last + 1)) * (config["repeats"] - 1)]
    order += range(last + 1, config["layers"])
    starts = np.maximum.accumulate(np.where(ids == config["bos_id"], np.arange(len(ids)), 0))
    x = wide["token_embedding"][ids]
    reads = np.zeros(len(ids))
    for c in range(config["smear_width"]):
        reads = reads + x[:, c] * wide["smear.gate"][0, c]
    joins = wide["smear.scale"][0] * (1.0 / (1.0 + exp_all(-reads)))
    joins[ids == config["bos_id"]] = 0.0
    x = np.concatenate((x[:1], x[1:] + joins[1:, None] * x[:-1]))
    x = x0 = rms_norm(x + hashed(config, wide, ids), config["norm_eps"])
    lane, kept, half = None, [], len(order) // 2
    for index, layer in enumerate(order):
        own = {n.removeprefix(f"blocks.{layer}."): a for n, a in wide.items() if n.startswith(f"blocks.{layer}.")}
        scale = 1.0 / math.sqrt(layer + 1.0)
        if lane is None and index >= half and layer >= config["lanes_from"]:
            lane = x
        if index >= half and kept:
            gate = 1.0 / (1.0 + exp_all(-wide["skip_gates"][index - half]))
            x = gate * x + ((1.0 - gate) * wide["skip_scales"][index - half]) * kept.pop()
        mixed = own["residual_mix"][0] * x + own["residual_mix"][1] * x0
        integers, unit, inverse = normed(mixed, config["norm_eps"])
        parts = [own[f"attention.{name}.weight"] for name in ("query", "key", "value")]
        q, k, v = (product(integers, unit * (inverse * scale), part) for part in parts)
        y = attention(config, own, q, k, v, window, exclusive=True, starts=starts)
        columns, units = snap(own["attention.gate"], 20)
        sums = (integers[:, : columns.shape[1]] @ columns.T).astype(np.float64)
        gates = sigmoid(0.5 * (sums * units[:, 0] * (unit * (inverse * scale))))
        y = y * np.repeat(gates, y.shape[1] // gates.shape[1], axis=1)
        attended = own["attention_scale"] * product(*snap(y, ROW), own["attention.output.weight"])
        x = x if lane is not None else mixed + attended
        integers, unit, inverse = normed(x if lane is None else lane, config["norm_eps"])
        h = product(integers, unit * (inverse * scale), own["mlp.input.weight"])
        h = np.where(h < 0.0, h * config["negative_slope"], h)
        thought = own["mlp_scale"] * product(*snap(h * h, ROW), own["mlp.output.weight"])
        if lane is None:
            x = x + thought
        else:
            carry, shares = wide["lane_carry"][layer], wide["lane_shares"][layer]
            olds = enumerate((x, lane))
            x, lane = (carry[i] * old + shares[0, i] * attended + shares[1, i] * thought for i, old in olds)
        if index < half:
            kept.append(x)
    return x if lane is None else (x + lane) * 0.5


def hashed(config: Mapping[str, Any], wide: Mapping[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """What the rows of bigrams and trigrams add, (T, D)."""
    out, last, bos = np.zeros((len(ids), config["width"])), config["hash_rows"] - 1, config["bos_id"]
    if last < 0:
        return out
    rows = product(*snap(wide["hashes.embedding"], ROW), wide["hashes.projection.weight"]) * wide["hashes.scale"][0]
    for t, token in enumerate(ids.tolist()):
        one = int(ids[t - 1]) if t and token != bos else -1
        two = int(ids[t - 2]) if t > 1 and one not in (-1, bos) else -1
        mixed = (36313 * token) ^ (27191 * one)
        out[t] = rows[last if one < 0 else mixed % last] + rows[last if two < 0 else (mixed ^ (51497 * two)) % last]
    return out


def run_block(
    config: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: int, x: np.ndarray, x0: np.ndarray, window: int,
    *, exclusive: bool,
) -> np.ndarray:  # fmt: skip
    own = {name.removeprefix(f"blocks.{index}."): array for name, array in arrays.items()}
    mix = own["residual_mix"].astype(np.float64)
    x = mix[0] * x + mix[1] * x0
    integers, unit, inverse = normed(x, config["norm_eps"])
    parts = [own[f"attention.{name}.weight"] for name in ("query", "key", "value")]
    q, k, v = (product(integers, unit * inverse, part) for part in parts)
    y = attention(config, own, q, k, v, window, exclusive=exclusive)
    x = x + own["attention_scale"].astype(np.float64) * product(*snap(y, ROW), own["attention.output.weight"])
    integers, unit, inverse = normed(x, config["norm_eps"])
    h = product(integers, unit * inverse, own["mlp.input.weight"])
    h = np.where(h < 0.0, h * config["negative_slope"], h)
    return x + own["mlp_scale"].astype(np.float64) * product(*snap(h * h, ROW), own["mlp.output.weight"])


def attention(
    config: Mapping[str, Any], own: Mapping[str, np.ndarray], q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int,
    *, exclusive: bool, starts: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    tokens, heads, kv_heads = len(q), config["heads"], config["kv_heads"]
    width = config["width"] // heads
    bound = math.ceil(math.log2(width) / 2)
    half = config.get("rope_dims", width) // 2
    cos, sin = rotations(np.arange(tokens), 2 * half, config["rope_base"])

    def turned(rows: np.ndarray) -> np.ndarray:
        rows = rms_norm(rows.reshape(tokens, -1, width), config["norm_eps"])
        first, second, rest = np.split(rows, (half, 2 * half), axis=-1)
        c, s = cos[:, None], sin[:, None]
        return grid(np.concatenate((first * c + second * s, second * c - first * s, rest), axis=-1), bound)

    queries, keys = turned(q), turned(k)
    columns, units = snap(own["attention.value.weight"].astype(np.float64), WEIGHT)
    lengths = (columns * columns).sum(1).astype(np.float64) * units[:, 0] ** 2
    exponent = math.frexp(math.sqrt(lengths.max() * columns.shape[1]))[1]
    values, unit = grid(v.reshape(tokens, kv_heads, width), exponent), math.ldexp(1.0, exponent - ATTENTION)
    gain = own["attention.query_gain"].astype(np.float64) * (1.0 / math.sqrt(width))
    y = np.empty((tokens, heads, width))
    for t in range(tokens):
        seen = slice(max(0 if starts is None else starts[t], t - window + 1), t + 1)
        for h in range(heads):
            group = h // (heads // kv_heads)
            scores = (keys[seen, group] @ queries[t, h]).astype(np.float64) * 4.0 ** (bound - ATTENTION) * gain[h]
            weights = np.rint(exp_nonpositive(scores - scores.max()) * (1 << ATTENTION)).astype(np.int64)
            y[t, h] = (weights @ values[seen, group]).astype(np.float64) * unit / weights.sum()
            if exclusive:
                own_value = values[t, group]
                dot = float(grid(y[t, h], exponent) @ own_value) * (unit * unit)
                share = dot / max(float(own_value @ own_value) * (unit * unit), 1e-24)
                y[t, h] -= share * (own_value * unit)
    return y.reshape(tokens, -1)
