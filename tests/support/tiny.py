"""Tiny models and artifacts that many tests need (pytest's ``pythonpath`` makes this importable)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from golf.artifact.write import pack
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.quantize.config import GptqConfig, Method
from golf.quantize.pipeline import QuantizeConfig, Quantizer, QuantizeResult

__all__ = ["flat", "pack_untrained", "quantize_config", "quantize_model", "recurrent", "shaken"]

_COMMON = {"heads": 2, "kv_heads": 1, "mlp_ratio": 2.0, "negative_slope": 0.5, "softcap": 30.0}
_COMMON |= {"rope_base": 10000.0, "qk_gain": 1.5, "norm_eps": 1e-6}


def recurrent(width: int = 16, blocks: int = 2, repeats: int = 2, **changes: Any) -> dict[str, Any]:
    """Config of a depth-recurrent model with everything it can have, in its smallest form."""
    shape = {"family": "depth_recurrent", "width": width, "blocks": blocks, "repeats": repeats, **_COMMON}
    return shape | {"value_tables": 1, "cross_repeat_skip": True, "xsa_last": 1} | changes


def flat(width: int = 16, layers: int = 2, **changes: Any) -> dict[str, Any]:
    """Config of a flat transformer, as small."""
    return {"family": "transformer", "width": width, "layers": layers, "unet_skips": True, **_COMMON} | changes


def shaken(shape: dict[str, Any], vocab_size: int, *, seed: int = 0, noise: float = 0.1) -> LanguageModel:
    """An untrained model with noise on every weight: parts that begin at zero act too."""
    torch.manual_seed(seed)
    model = build_model(config_from_dict(shape), vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def quantize_config(
    method: Method, levels: dict[str, int], percentiles: tuple[float, ...], clip: float, **changes: Any
) -> QuantizeConfig:
    """A method and nothing besides: no exponents by token, control tensors as they are."""
    return QuantizeConfig(
        method, levels, percentiles, clip, **{"gptq": GptqConfig(token_exponent=0.0), "control_step": 0.0} | changes
    )


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
    levels = {"embedding": 31, "attention": 31, "mlp": 31}
    method = quantize_config("gptq_lite", levels, (0.999, 1.0), 12.85)
    return pack(quantize_model(state, model, method, meta={"model": shape, "vocab_size": vocab_size}).model, tokenizer)
