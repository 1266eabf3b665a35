"""Integers, steps and small tensors of the 17 M-parameter recurrent model with the statistics of a small trained one.

Nothing here is a trained large model: shapes, names and roles are those of conf/model/depth_recurrent_832.yaml; row
and column codes and small tensors are drawn from the like-named tensors of a quantized small model (values jittered, so
that mantissas are fresh), integers are normal with the deviation that the steps leave. Good for the share of side
information, which depends on counts and on these statistics alone; not for KL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf.base.params import read_params
from golf.models.registry import build_model, config_from_dict, config_to_dict
from golf.quantize.rounding import stored_control
from golf.quantize.storage import load_quantized
from golf.quantize.tensors import QuantizedModel, QuantizedTensor

__all__ = ["large_quantized"]

LEVELS = 31
SHARED = {"key": "query", "value": "query"}  # matrices with the same input have the same column codes


def large_quantized(
    root: Path, clip: float, *, model: str = "conf/model/depth_recurrent_832.yaml", control_step: float = 0.0
) -> QuantizedModel:
    """The large model at ``clip``; statistics from ``root``/artifacts/fit/model.safetensors (clip 8).

    ``control_step`` as the key `quantize.control_step`.
    """
    small = load_quantized(root / "artifacts/fit/model.safetensors")
    config = config_from_dict(read_params(model))
    with torch.device("meta"):
        built = build_model(config, 1024)
    rng = np.random.default_rng(0)
    tensors: dict[str, QuantizedTensor] = {}
    plain: dict[str, Any] = {}
    for name, tensor in sorted(built.state_dict().items()):
        shape = tuple(tensor.shape)
        if name in small.tensors:
            codes = _columns(name, shape[-1], small, tensors, rng)
            tensors[name] = _quantized(small.tensors[name], shape, clip, codes, rng)
        elif name in small.plain:
            drawn = rng.choice(small.plain[name].astype(np.float64).ravel(), shape)
            jittered = drawn * (1 + 0.02 * rng.standard_normal(shape))
            plain[name] = stored_control(name, jittered.astype(np.float32), step=control_step)
        else:
            assert name in small.aliases, name
    return QuantizedModel(config_to_dict(config), 1024, tensors, plain, dict(small.aliases))


def _columns(
    name: str, count: int, small: QuantizedModel, done: dict[str, QuantizedTensor], rng: np.random.Generator
) -> np.ndarray | None:
    codes = small.tensors[name].column_codes
    if codes is None:
        return None
    for part, other in SHARED.items():
        twin = name.replace(f"attention.{part}", f"attention.{other}")
        if twin != name and twin in done:
            return done[twin].column_codes
        first = name.replace(f"attention.{other}", f"attention.{part}")
        if first != name and first in done:
            return done[first].column_codes
    return rng.choice(codes, count)


def _quantized(
    like: QuantizedTensor, shape: tuple[int, ...], clip: float, codes: np.ndarray | None, rng: np.random.Generator
) -> QuantizedTensor:
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    shift = round(8 * np.log2(clip / 8.0))
    row_codes = (rng.choice(like.row_scale, rows).astype(np.int64) + shift).astype(np.int8)
    spread = np.ones(columns) if codes is None else 2.0 ** (-codes / 4)
    values = np.rint(rng.standard_normal((rows, columns)) * (LEVELS / clip * spread)).astype(np.int16)
    return QuantizedTensor(like.name, like.role, shape, values, row_codes, codes)
