"""Tiny models and artifacts that many tests need (pytest's ``pythonpath`` makes this importable)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf.artifact.write import pack
from golf.data.tokenizer import Tokenizer
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.quantize.config import QUANTIZED_ROLES, GptqConfig, QuantizeConfig, RoleConfig
from golf.quantize.pipeline import Quantizer, QuantizeResult

__all__ = [
    "flat", "hybrid", "pack_untrained", "quantize_config", "quantize_model", "record", "recurrent", "shaken",
    "write_artifact",
]  # fmt: skip

_COMMON = {"heads": 2, "kv_heads": 1, "mlp_ratio": 2.0, "negative_slope": 0.5, "softcap": 30.0}
_COMMON |= {"rope_base": 10000.0, "qk_gain": 1.5, "norm_eps": 1e-6}


def recurrent(width: int = 16, blocks: int = 2, repeats: int = 2, **changes: Any) -> dict[str, Any]:
    """Config of a depth-recurrent model with everything it can have, in its smallest form."""
    shape = {"family": "depth_recurrent", "width": width, "blocks": blocks, "repeats": repeats, **_COMMON}
    return shape | {"value_tables": 1, "cross_repeat_skip": True, "xsa_last": 1} | changes


def flat(width: int = 16, layers: int = 2, **changes: Any) -> dict[str, Any]:
    """Config of a flat transformer, as small."""
    return {"family": "transformer", "width": width, "layers": layers, "unet_skips": True, **_COMMON} | changes


def hybrid(**changes: Any) -> dict[str, Any]:
    """Config of a gated-delta hybrid, as small."""
    shape = {"family": "gdn_hybrid", "layout": "gdn2_swa_gdn_swa_shared", "kv_share_stride": 2, "width": 24}
    shape |= {"delta_heads": 3, "delta_key_dim": 4, "delta_value_dim": 8, "delta_chunk": 4, "delta_norm_eps": 1e-5}
    shape |= {"conv_size": 3, "heads": 3, "kv_heads": 1, "window": 6, "hash_rows": 11}
    shape |= {"hash_width": 5, "smear": True, "bos_id": 1, "rope_base": 10000.0, "qk_gain": 1.5, "mlp_ratio": 2.0}
    return shape | {"negative_slope": 0.5, "softcap": 30.0, "norm_eps": 1e-6} | changes


def record(**changes: Any) -> dict[str, Any]:
    """Config of a record stack with everything it can have, in its smallest form."""
    shape = {"family": "record", "width": 24, "layers": 4, "loop": [1, 2], "repeats": 2, "untied": False}
    shape |= {"lanes_from": 3, "rope_dims": 4, "exclusive": True, "layer_scale": True, "skips": True}
    shape |= {"gate_width": 4, "smear_width": 4, "hash_rows": 11, "hash_width": 5, "bos_id": 1}
    return shape | _COMMON | changes


def shaken(shape: dict[str, Any], vocab_size: int, *, seed: int = 0, noise: float = 0.1) -> LanguageModel:
    """An untrained model with noise on every weight: parts that begin at zero act too."""
    torch.manual_seed(seed)
    model = build_model(config_from_dict(shape), vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def quantize_config(method: Any, clip: float = 8.0, **changes: Any) -> QuantizeConfig:
    """Section `quantize` with everything that a method can do without left out."""
    levels, roles = dict.fromkeys(QUANTIZED_ROLES, 31), dict.fromkeys(QUANTIZED_ROLES, RoleConfig(None, None))
    gptq = GptqConfig(damping=0.01, column_exponent=0.5, act_order=False, row_exponent=0.0)
    plain = {"levels": levels, "percentiles": (0.999, 1.0), "gptq": gptq, "roles": roles, "control_step": 0.0}
    return QuantizeConfig(method=method, clip=clip, **(plain | changes))


def quantize_model(
    state: Mapping[str, np.ndarray],
    model: LanguageModel,
    config: QuantizeConfig,
    *,
    meta: dict[str, Any],
    hessians: Mapping[str, np.ndarray | None] | None = None,
) -> QuantizeResult:
    """``state`` quantized once."""
    return Quantizer(dict(state), model, config, meta=meta, hessians=hessians).run()


def pack_untrained(shape: dict[str, Any], vocab_size: int, tokenizer: bytes, *, seed: int = 0) -> bytes:
    """The artifact of ``shaken(shape, vocab_size, seed=seed)`` at int6, order-0 coder."""
    model = shaken(shape, vocab_size, seed=seed)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    config = quantize_config("gptq_lite")
    return pack(quantize_model(state, model, config, meta={"model": shape, "vocab_size": vocab_size}).model, tokenizer)


def write_artifact(folder: Path, tokenizer: Tokenizer) -> Path:
    """A file in ``folder`` with the smallest untrained model over the pieces of ``tokenizer``."""
    path = folder / "model.golf"
    path.write_bytes(pack_untrained(recurrent(width=8, blocks=1), tokenizer.vocab_size, tokenizer.model))
    return path
