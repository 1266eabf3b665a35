"""PyTorch checkpoints: a state dict of the competition's baseline ``train_gpt.py`` or of one of our own families.

Section ``model`` of the ``params.yaml`` beside it describes the model as in the main pipeline. A baseline needs none:
its shape follows from the tensors, and what they do not tell (softcap, RoPE base, epsilon) is as in the script.

Names and defaults of the baseline: openai/parameter-golf ``train_gpt.py``; it is ``golf.models.transformer`` under
other names. Its RMSNorm gives no epsilon; torch then takes float32's.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf.base import files
from golf.base.params import quoted, read_params
from golf.data.tokenizer import Tokenizer
from golf.imports.folder import Checkpoint
from golf.imports.tables import OriginError
from golf.models.configs.families import config_from_dict, config_to_dict

if TYPE_CHECKING:
    import torch

    from golf.models.configs.families import ModelConfig

__all__ = ["import_checkpoint", "load_state"]

_PREFIXES = ("_orig_mod.", "module.")  # of torch.compile and of data parallel training
_TOKENS = "tok_emb.weight"
_BASELINE = {"token_embedding": _TOKENS, "skip_scales": "skip_weights"}  # its names by ours
_BLOCK = {
    "attention.query.weight": "attn.c_q.weight", "attention.key.weight": "attn.c_k.weight",
    "attention.value.weight": "attn.c_v.weight", "attention.output.weight": "attn.proj.weight",
    "attention.query_gain": "attn.q_gain", "mlp.input.weight": "mlp.fc.weight", "mlp.output.weight": "mlp.proj.weight",
    "attention_scale": "attn_scale", "mlp_scale": "mlp_scale", "residual_mix": "resid_mix",
}  # fmt: skip
_DEFAULTS = {"softcap": 30.0, "rope_base": 10000.0, "norm_eps": 2.0**-23}
State = Mapping[str, "torch.Tensor"]


def load_state(path: Path) -> State:
    """Names and tensors of a state dict, on the CPU and mostly not yet read; no code in the file is run.

    Raises ``OriginError`` for a file that holds anything else.
    """
    import torch

    advice = "expected names and tensors, as torch.save(model.state_dict(), ...) writes them"
    lazily = zipfile.is_zipfile(files.require(path, made_by="whoever trained it"))  # not in the format before torch 1.6
    try:
        found = torch.load(path, "cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # damage and refusals come as errors of many kinds
        reason = quoted(str(error).partition("\n")[0][:120])[1:-1]
        raise OriginError(f"{path}: torch.load(weights_only=True) refuses it ({reason}); {advice}") from error
    if not isinstance(found, dict) or not found:
        raise OriginError(f"{path}: found {'nothing' if found == {} else type(found).__name__}, {advice}")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise OriginError(f"{path}: {quoted(name)} holds a {type(tensor).__name__}, {advice}")
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            raise OriginError(f"{path}: {name} is no dense tensor of numbers ({tensor.layout}, {tensor.device})")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def import_checkpoint(checkpoint: Checkpoint, root: Path) -> dict[str, Any]:
    """Write weights and tokenizer below ``root`` as the stages `average` and `tokenize` do; returns flat metrics.

    Every tensor is used exactly once. Raises ``OriginError`` naming what is missing, left over or of another shape,
    ``TokenizerError`` for a tokenizer that cannot be read or has another number of pieces.
    """
    from golf.models.registry import empty_shapes

    state, where = load_state(checkpoint.weights), checkpoint.weights
    baseline = _TOKENS in state
    table = _TOKENS if baseline else "token_embedding"
    if table not in state or state[table].dim() != 2:
        raise OriginError(f"{where}: found no table {table}: neither train_gpt.py's baseline nor a model of golf")
    config, vocab_size = _config(checkpoint, state, baseline), int(state[table].size(0))
    tokenizer = Tokenizer.from_file(checkpoint.tokenizer)
    if tokenizer.vocab_size != vocab_size:
        raise OriginError(
            f"{checkpoint.tokenizer}: found {tokenizer.vocab_size} pieces, {where.name} has rows for {vocab_size}"
        )
    shapes = empty_shapes(config, vocab_size)
    theirs = {ours: _theirs(ours) if baseline else ours for ours in shapes}
    _check(where, state, {theirs[ours]: shape for ours, shape in shapes.items()})
    weights = {ours: state[name].float() for ours, name in theirs.items()}
    for ours, tensor in weights.items():
        if not tensor.isfinite().all():
            raise OriginError(f"{where}: {theirs[ours]} holds NaN or infinity")
    meta = {"model": config_to_dict(config), "vocab_size": vocab_size, "origin": where.name, "kind": "imported"}
    files.save_torch(root / "artifacts/average/model.safetensors", weights, meta)
    files.write_bytes(root / "artifacts/tokens/tokenizer.model", tokenizer.model)
    return {
        "import_tensors": len(state),
        "import_weights": sum(math.prod(shape) for shape in shapes.values()),
        "import_bits_per_weight": float(max(8 * tensor.element_size() for tensor in state.values())),
        "import_source": where.name,
        "import_vocab_size": vocab_size,
    }


def _config(checkpoint: Checkpoint, state: State, baseline: bool) -> ModelConfig:
    """As ``params.yaml`` says, else the baseline's."""
    if checkpoint.params is not None:
        model = read_params(checkpoint.params).get("model")
        config = config_from_dict(model, where=f"{checkpoint.params}: model")
        if baseline and config.family != "transformer":
            names = f"{checkpoint.weights.name} has the names of train_gpt.py's baseline, which is `transformer`"
            raise OriginError(f"{checkpoint.params}: model.family: found {config.family}, but {names}")
        return config
    if not baseline:
        raise OriginError(f"{checkpoint.weights.parent}: found no params.yaml, expected one with the section `model`")
    return config_from_dict(_deduced(checkpoint.weights, state), where=f"{checkpoint.weights}: shape")


def _deduced(where: Path, state: State) -> dict[str, Any]:
    """The shape that the tensors of a baseline have, with the script's defaults."""
    first = {key: f"blocks.0.{key}" for key in ("attn.q_gain", "attn.c_k.weight", "mlp.fc.weight")}
    for name in first.values():
        if name not in state or not state[name].numel():
            raise OriginError(f"{where}: {name} is missing, which train_gpt.py's baseline has")
    width, heads = int(state[_TOKENS].size(1)), int(state[first["attn.q_gain"]].size(0))
    layers = 1 + max(int(match[1]) for name in state if (match := re.match(r"blocks\.(\d{1,6})\.", name)))
    return {
        "family": "transformer", "width": width, "layers": layers, "heads": heads,
        "kv_heads": int(state[first["attn.c_k.weight"]].size(0)) // max(1, width // heads),
        "mlp_ratio": state[first["mlp.fc.weight"]].size(0) / max(1, width), "unet_skips": True, "negative_slope": 0.0,
        "qk_gain": 1.5, **_DEFAULTS,
    }  # fmt: skip


def _theirs(ours: str) -> str:
    """The baseline's name of one of ours."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", ours)
    return f"blocks.{match[1]}.{_BLOCK[match[2]]}" if match else _BASELINE[ours]


def _check(where: Path, state: State, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Every wanted tensor is there in its shape, and no other."""
    if missing := sorted(wanted.keys() - state.keys()):
        raise OriginError(f"{where}: {missing[0]} is missing, which its configuration asks for ({len(missing)} are)")
    if "lm_head.weight" in state and "lm_head.weight" not in wanted:
        raise OriginError(f"{where}: lm_head.weight: an untied head is not built in this family, expected the tied one")
    if surplus := sorted(state.keys() - wanted.keys()):
        raise OriginError(f"{where}: {surplus[0]} has no place in this model ({len(surplus)} left over)")
    for name, shape in wanted.items():
        if not state[name].is_floating_point():
            found = str(state[name].dtype).removeprefix("torch.")
            raise OriginError(f"{where}: {name} holds {found} numbers, expected floats")
        if tuple(state[name].shape) != shape:
            raise OriginError(f"{where}: {name}: found {tuple(state[name].shape)}, its configuration expects {shape}")
