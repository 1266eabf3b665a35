"""What the origins' configurations and tensor names mean: one table of names per architecture, one reader of its keys.

A rule is (name in the origin, names in ``golf.models.decoder``, layout). ``{i}`` is the layer; names of ours that the
configuration does not have drop the rule. Layouts, ``W`` an origin's tensor: ``same``; ``transposed`` (GPT-2 stores
inputs x outputs); ``thirds`` (GPT-2: query, key and value side by side, transposed); ``by_head`` (GPT-NeoX: query, key
and value of each head in turn). Names and keys: the configurations and state dicts of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError
from golf.base.params import from_dict, quoted
from golf.models.decoder import DecoderConfig

__all__ = ["ARCHITECTURES", "OriginError", "Rule", "decoder_config", "from_origin", "rules", "to_origin"]

Array = NDArray[np.float32]
Rule = tuple[str, tuple[str, ...], str]


class OriginError(GolfError):
    """A model that others trained cannot be read; the message names the file, the key or the tensor."""


def _both(origin: str, ours: str) -> list[Rule]:
    """A matrix and its bias."""
    return [(f"{origin}.weight", (f"{ours}.weight",), "same"), (f"{origin}.bias", (f"{ours}.shift.bias",), "same")]


def _norm(origin: str, ours: str) -> list[Rule]:
    return [(f"{origin}.{part}", (f"{ours}.{part}",), "same") for part in ("weight", "bias")]


_B, _A = "blocks.{i}", "blocks.{i}.attention"
_QKV = tuple(f"{_A}.{part}" for part in ("query", "key", "value"))
_LLAMA: list[Rule] = [
    ("model.embed_tokens.weight", ("token_embedding",), "same"),
    *_norm("model.layers.{i}.input_layernorm", f"{_B}.attention_norm"),
    *_both("model.layers.{i}.self_attn.q_proj", f"{_A}.query"),
    *_both("model.layers.{i}.self_attn.k_proj", f"{_A}.key"),
    *_both("model.layers.{i}.self_attn.v_proj", f"{_A}.value"),
    *_both("model.layers.{i}.self_attn.o_proj", f"{_A}.output"),
    *_norm("model.layers.{i}.self_attn.q_norm", f"{_A}.query_norm"),
    *_norm("model.layers.{i}.self_attn.k_norm", f"{_A}.key_norm"),
    *_norm("model.layers.{i}.post_attention_layernorm", f"{_B}.mlp_norm"),
    *_both("model.layers.{i}.mlp.gate_proj", f"{_B}.mlp.gate"),
    *_both("model.layers.{i}.mlp.up_proj", f"{_B}.mlp.up"),
    *_both("model.layers.{i}.mlp.down_proj", f"{_B}.mlp.down"),
    *_norm("model.norm", "norm"),
    ("lm_head.weight", ("head.weight",), "same"),
]
_GPT2: list[Rule] = [
    ("transformer.wte.weight", ("token_embedding",), "same"),
    ("transformer.wpe.weight", ("position_embedding",), "same"),
    *_norm("transformer.h.{i}.ln_1", f"{_B}.attention_norm"),
    ("transformer.h.{i}.attn.c_attn.weight", tuple(f"{name}.weight" for name in _QKV), "thirds"),
    ("transformer.h.{i}.attn.c_attn.bias", tuple(f"{name}.shift.bias" for name in _QKV), "thirds"),
    ("transformer.h.{i}.attn.c_proj.weight", (f"{_A}.output.weight",), "transposed"),
    ("transformer.h.{i}.attn.c_proj.bias", (f"{_A}.output.shift.bias",), "same"),
    *_norm("transformer.h.{i}.ln_2", f"{_B}.mlp_norm"),
    ("transformer.h.{i}.mlp.c_fc.weight", (f"{_B}.mlp.up.weight",), "transposed"),
    ("transformer.h.{i}.mlp.c_fc.bias", (f"{_B}.mlp.up.shift.bias",), "same"),
    ("transformer.h.{i}.mlp.c_proj.weight", (f"{_B}.mlp.down.weight",), "transposed"),
    ("transformer.h.{i}.mlp.c_proj.bias", (f"{_B}.mlp.down.shift.bias",), "same"),
    *_norm("transformer.ln_f", "norm"),
    ("lm_head.weight", ("head.weight",), "same"),
]
_NEOX: list[Rule] = [
    ("gpt_neox.embed_in.weight", ("token_embedding",), "same"),
    *_norm("gpt_neox.layers.{i}.input_layernorm", f"{_B}.attention_norm"),
    ("gpt_neox.layers.{i}.attention.query_key_value.weight", tuple(f"{name}.weight" for name in _QKV), "by_head"),
    ("gpt_neox.layers.{i}.attention.query_key_value.bias", tuple(f"{name}.shift.bias" for name in _QKV), "by_head"),
    *_both("gpt_neox.layers.{i}.attention.dense", f"{_A}.output"),
    *_norm("gpt_neox.layers.{i}.post_attention_layernorm", f"{_B}.mlp_norm"),
    *_both("gpt_neox.layers.{i}.mlp.dense_h_to_4h", f"{_B}.mlp.up"),
    *_both("gpt_neox.layers.{i}.mlp.dense_4h_to_h", f"{_B}.mlp.down"),
    *_norm("gpt_neox.final_layer_norm", "norm"),
    ("embed_out.weight", ("head.weight",), "same"),
]
ARCHITECTURES = {"llama": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA, "gpt2": _GPT2, "gpt_neox": _NEOX}


def rules(kind: str, layers: int, ours: set[str]) -> list[Rule]:
    """The rules of an architecture with all layers written out, without those whose names are not in ``ours``."""
    found = []
    for origin, targets, layout in ARCHITECTURES[kind]:
        for i in range(layers if "{i}" in origin else 1):
            names = tuple(name.format(i=i) for name in targets)
            if ours.issuperset(names):
                found.append((origin.format(i=i), names, layout))
    return found


def from_origin(array: Array, layout: str, config: DecoderConfig) -> list[Array]:
    """Our tensors of one of the origin's, float32; matrices are (outputs, inputs), see the module for ``layout``."""
    if layout == "transposed":
        return [array.T]
    if layout == "thirds":
        return list(np.split(array.T if array.ndim == 2 else array, 3))
    if layout == "by_head":
        parts = array.reshape(config.heads, 3, config.head_dim, *array.shape[1:])
        return [parts[:, i].reshape(-1, *array.shape[1:]) for i in range(3)]
    return [array]


def to_origin(arrays: Sequence[Array], layout: str, config: DecoderConfig) -> Array:
    """The inverse of ``from_origin``."""
    if layout == "transposed":
        return arrays[0].T
    if layout == "thirds":
        whole = np.concatenate(arrays)
        return whole.T if whole.ndim == 2 else whole
    if layout == "by_head":
        rest = arrays[0].shape[1:]
        parts = [array.reshape(config.heads, 1, config.head_dim, *rest) for array in arrays]
        return np.concatenate(parts, axis=1).reshape(-1, *rest)
    return arrays[0]


class _Keys:
    """The origin's configuration, each key checked as it is read."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data, self.where = data, where

    def get(self, key: str, kind: Any, default: Any = None) -> Any:
        value = self._data.get(key)
        value = default if value is None else value
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise OriginError(f"{self.where}: {key}: found {quoted(value)}, expected {kind.__name__}")
        return value

    def only(self, key: str, expected: Any, default: Any = None) -> None:
        """Refuse by name what is not built."""
        value = self._data.get(key)
        value = default if value is None else value
        choices = expected if isinstance(expected, tuple) else (expected,)
        if value not in choices:
            raise OriginError(f"{self.where}: {key}: found {quoted(value)}, built is only {quoted(choices[0])}")

    def layers_attend_fully(self) -> None:
        """Refuse layers with a window."""
        kinds = self._data.get("layer_types") or []
        if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
            raise OriginError(f"{self.where}: layer_types: found {quoted(kinds)}, built is only full_attention")

    def rope(self) -> dict[str, Any]:
        """Base and scaling of rotary positions, wherever this version of the format keeps them."""
        found = self._data.get("rope_parameters") or {}
        scaling = self._data.get("rope_scaling") or found
        if not isinstance(found, dict) or not isinstance(scaling, dict):
            raise OriginError(f"{self.where}: rope_parameters: found {quoted(found)}, expected keys and values")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        base = found.get("rope_theta", self._data.get("rope_theta", self._data.get("rotary_emb_base", 10000.0)))
        share = found.get("partial_rotary_factor", self._data.get("rotary_pct"))
        inner = _Keys({**scaling, "rope_theta": base, "share": share}, f"{self.where}: rope_scaling")
        if kind not in ("default", "llama3"):
            raise OriginError(f"{self.where}: rope scaling {quoted(kind)} is not built, expected default or llama3")
        stretch = None
        if kind == "llama3":
            stretch = {
                "factor": inner.get("factor", float), "low": inner.get("low_freq_factor", float),
                "high": inner.get("high_freq_factor", float),
                "original": inner.get("original_max_position_embeddings", int),
            }  # fmt: skip
        return {"base": inner.get("rope_theta", float), "scaling": stretch, "share": inner.get("share", float, -1.0)}


def decoder_config(data: Mapping[str, Any], *, tied: bool, where: str) -> DecoderConfig:
    """Our configuration of an origin's ``config.json``; a ``GolfError`` names a key that is wrong or not built.

    ``tied``: whether the origin has no head of its own.
    """
    kind = data.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise OriginError(f"{where}: model_type: found {quoted(kind)}, expected one of {', '.join(ARCHITECTURES)}")
    keys = _Keys(data, where)
    values = _gpt2(keys) if kind == "gpt2" else _neox(keys) if kind == "gpt_neox" else _llama(keys, kind)
    return from_dict(DecoderConfig, {"family": "decoder", "tied": tied, **values}, where=where)


def _llama(keys: _Keys, kind: str) -> dict[str, Any]:
    width, heads = keys.get("hidden_size", int), keys.get("num_attention_heads", int)
    keys.only("hidden_act", "silu", "silu")
    keys.only("use_sliding_window", False, False)
    keys.only("pretraining_tp", 1, 1)
    keys.layers_attend_fully()
    head_dim, rope = keys.get("head_dim", int, width // max(1, heads)), keys.rope()
    bias = keys.get("attention_bias", bool, False)
    return {
        "width": width, "layers": keys.get("num_hidden_layers", int), "heads": heads,
        "kv_heads": keys.get("num_key_value_heads", int, heads), "head_dim": head_dim,
        "mlp_width": keys.get("intermediate_size", int), "norm": "rms",
        "norm_eps": keys.get("rms_norm_eps", float, 1e-6), "mlp": "swiglu", "positions": 0,
        "rope_base": rope["base"], "rope_dims": head_dim, "rope_scaling": rope["scaling"], "parallel": False,
        "qk_norm": kind == "qwen3", "qkv_bias": bias or kind == "qwen2", "output_bias": bias,
        "mlp_bias": keys.get("mlp_bias", bool, False),
    }  # fmt: skip


def _gpt2(keys: _Keys) -> dict[str, Any]:
    width, heads = keys.get("n_embd", int), keys.get("n_head", int)
    keys.only("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    keys.only("scale_attn_weights", True, True)
    keys.only("scale_attn_by_inverse_layer_idx", False, False)
    return {
        "width": width, "layers": keys.get("n_layer", int), "heads": heads, "kv_heads": heads,
        "head_dim": width // max(1, heads), "mlp_width": keys.get("n_inner", int, 4 * width), "norm": "layer",
        "norm_eps": keys.get("layer_norm_epsilon", float, 1e-5), "mlp": "gelu_tanh",
        "positions": keys.get("n_positions", int), "rope_base": 10000.0, "rope_dims": 0, "rope_scaling": None,
        "parallel": False, "qk_norm": False, "qkv_bias": True, "output_bias": True, "mlp_bias": True,
    }  # fmt: skip


def _neox(keys: _Keys) -> dict[str, Any]:
    width, heads = keys.get("hidden_size", int), keys.get("num_attention_heads", int)
    keys.only("hidden_act", ("gelu", "gelu_new", "gelu_pytorch_tanh"), "gelu")
    rope, head_dim = keys.rope(), width // max(1, heads)
    share, bias = rope["share"] if rope["share"] >= 0 else 0.25, keys.get("attention_bias", bool, True)
    return {
        "width": width, "layers": keys.get("num_hidden_layers", int), "heads": heads, "kv_heads": heads,
        "head_dim": head_dim, "mlp_width": keys.get("intermediate_size", int), "norm": "layer",
        "norm_eps": keys.get("layer_norm_eps", float, 1e-5),
        "mlp": "gelu" if keys.get("hidden_act", str, "gelu") == "gelu" else "gelu_tanh", "positions": 0,
        "rope_base": rope["base"], "rope_dims": int(head_dim * min(share, 2.0)), "rope_scaling": rope["scaling"],
        "parallel": keys.get("use_parallel_residual", bool, True), "qk_norm": False, "qkv_bias": bias,
        "output_bias": bias, "mlp_bias": True,
    }  # fmt: skip
