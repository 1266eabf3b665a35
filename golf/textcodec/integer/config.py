"""Configuration and arrays of a model, compared before a kernel indexes by them. No torch.

Shapes: V vocabulary, D width, H query heads, K key/value heads, E head width, M MLP width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from golf.base.params import quoted
from golf.models.configs.record import applications
from golf.textcodec.integer.exact import IntegerError

__all__ = ["FAMILIES", "check_arrays", "record_applications"]

FAMILIES = ("depth_recurrent", "record", "transformer")
_MOST = 1 << 16


def check_arrays(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ``IntegerError`` unless ``arrays`` are those of a model of this ``config``, by names and shapes."""
    expected = _shapes(config, arrays["token_embedding"].shape[0] if "token_embedding" in arrays else 0)
    found = {name: array.shape for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise IntegerError(f"{name}: found shape {found.get(name, 'none')}, expected {expected.get(name, 'none')}")


def _shapes(config: Mapping[str, Any], vocab_size: int) -> dict[str, tuple[int, ...]]:
    family = config["family"]
    width, heads, kv_heads = (_whole(config, name, 1) for name in ("width", "heads", "kv_heads"))
    blocks = _whole(config, "blocks" if family == "depth_recurrent" else "layers", 1)
    for name in ("mlp_ratio", "norm_eps", "softcap", "rope_base"):
        _number(config, name, above=0.0)
    _number(config, "negative_slope", above=-1e9)
    hidden, size = round(width * config["mlp_ratio"]), width // heads
    if width % heads or heads % kv_heads or size % 2 or not 1 <= hidden <= 64 * width:
        raise IntegerError(
            f"model: width {width}, {heads} heads, {kv_heads} key/value heads and {hidden} channels of the MLP do not "
            "fit together"
        )
    shapes: dict[str, tuple[int, ...]] = {"token_embedding": (vocab_size, width)}
    extra: dict[str, tuple[int, ...]] = {}
    if family == "record":
        shapes |= _record_shapes(config)
        blocks = 1 + max(block for _, block in record_applications(config))
        if config["gate_width"]:
            extra["attention.gate"] = (heads, config["gate_width"])
    elif family == "depth_recurrent":
        layers, tables = blocks * _whole(config, "repeats", 1), _whole(config, "value_tables", 0)
        _whole(config, "xsa_last", 0)
        shapes |= {"loop_vectors": (layers, width)}
        shapes |= {f"value_embeddings.{i}": (vocab_size, width) for i in range(tables)}
        if tables:
            shapes["value_scales"] = (layers, tables, width)
        if config.get("cross_repeat_skip") and config["repeats"] > 1:
            shapes["cross_repeat_scales"] = (blocks, config["repeats"] - 1, width)
    else:
        shapes["skip_scales"] = (blocks // 2 if config.get("unet_skips") else 0, width)
    block = {
        "attention.query.weight": (width, width), "attention.key.weight": (kv_heads * size, width),
        "attention.value.weight": (kv_heads * size, width), "attention.output.weight": (width, width),
        "attention.query_gain": (heads,), "mlp.input.weight": (hidden, width), "mlp.output.weight": (width, hidden),
        "attention_scale": (width,), "mlp_scale": (width,), "residual_mix": (2, width), **extra,
    }  # fmt: skip
    return shapes | {f"blocks.{i}.{name}": shape for i in range(blocks) for name, shape in block.items()}


def record_applications(config: Mapping[str, Any], depth: int | None = None) -> list[tuple[int, int]]:
    """``(layer, block)`` of each application of a record stack."""
    return applications(config["layers"], config["loop"], depth or config["repeats"], untied=config["untied"])


def _record_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Those of a record stack outside its blocks, but for the embedding."""
    width, layers, loop = config["width"], config["layers"], config.get("loop")
    if not (isinstance(loop, list | tuple) and len(loop) == 2 and all(type(each) is int for each in loop)
            and 0 <= loop[0] <= loop[1] < layers):  # fmt: skip
        raise IntegerError(f"model.loop: found {quoted(loop)}, expected first and last layer of it")
    for name, least in (("repeats", 1), ("lanes_from", 0), ("gate_width", 0), ("smear_width", 0), ("bos_id", -1)):
        _whole(config, name, least)
    rows, row_width = (_whole(config, name, 0) for name in ("hash_rows", "hash_width"))
    if rows == 1 or rows and not row_width:
        raise IntegerError(f"model: hash_rows {rows} and hash_width {row_width} are no table")
    if not (2 <= _whole(config, "rope_dims", 2) <= width // config["heads"] and config["rope_dims"] % 2 == 0):
        raise IntegerError(f"model.rope_dims: found {config['rope_dims']}, expected an even one up to the head width")
    if config["repeats"] > 64 or max(config["gate_width"], config["smear_width"]) > width:
        raise IntegerError("model: repeats, gate_width or smear_width are larger than the model can have")
    shapes: dict[str, tuple[int, ...]] = {}
    if config["smear_width"]:
        shapes |= {"smear.gate": (1, config["smear_width"]), "smear.scale": (1,)}
    if rows:
        shapes |= {"hashes.embedding": (rows, row_width), "hashes.projection.weight": (width, row_width)}
        shapes["hashes.scale"] = (1,)
    skips = len(record_applications(config)) // 2 if config.get("skips") else 0
    if skips:
        shapes |= {"skip_scales": (skips, width), "skip_gates": (skips, width)}
    if config["lanes_from"] < layers:
        shapes |= {"lane_carry": (layers, 2), "lane_shares": (layers, 2, 2)}
    return shapes


def _whole(config: Mapping[str, Any], name: str, least: int) -> int:
    value = config.get(name)
    if type(value) is not int or not least <= value <= _MOST:
        raise IntegerError(f"model.{name}: found {quoted(value)}, expected a whole number from {least} to {_MOST}")
    return value


def _number(config: Mapping[str, Any], name: str, *, above: float) -> None:
    value = config.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not above < value < 1e9:
        raise IntegerError(f"model.{name}: found {quoted(value)}, expected a number above {above:g}")
