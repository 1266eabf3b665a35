"""An artifact back in its origin's format: float weights under the origin's names, its configuration and tokenizer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.artifact.layout import Unpacked
from golf.base import files
from golf.base.tensor_file import tensor_file
from golf.imports.bpe import BytePairs
from golf.imports.gguf import write_gguf
from golf.imports.origin import parse_blob
from golf.imports.tables import OriginError, Rule, decoder_config, rules, to_origin
from golf.models.decoder import DecoderConfig, frequencies
from golf.models.registry import config_from_dict, empty_shapes
from golf.quantize.tensors import QuantizedModel

__all__ = ["KINDS", "write_origin"]

KINDS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}  # of the numbers written: the name in safetensors
_HALF_MAX = float(np.finfo(np.float16).max)


def write_origin(unpacked: Unpacked, out: Path, *, kind: str, dtype: str, where: str, threads: int = 1) -> None:
    """Write the model of ``unpacked`` to ``out``: a folder for ``kind`` "safetensors", a file for "gguf".

    ``threads`` tensors are turned into numbers at a time.

    GGUF knows float16 and float32 here. Raises ``OriginError`` for an artifact of a model trained here, a number that
    does not fit ``dtype``, or a tokenizer that GGUF has no name for; ``where`` (the file) begins the message.
    """
    blob = parse_blob(unpacked.tokenizer, where)
    model, kept = unpacked.model, dict(blob["files"])
    config = config_from_dict(model.config, where=where)
    if not isinstance(config, DecoderConfig):
        raise OriginError(f"{where}: holds a model of the family {model.config['family']}, which no origin has")
    described = dict(kept["config.json"], tie_word_embeddings=config.tied)
    if decoder_config(described, tied=config.tied, where=where) != config:
        raise OriginError(f"{where}: the configuration of its origin is not that of its model")
    stored = {name: tensor.shape for name, tensor in (model.tensors | model.plain).items()}
    odd = set(empty_shapes(config, model.vocab_size).items()) ^ stored.items()
    if odd := {pair for pair in odd if pair[0] not in model.aliases}:
        raise OriginError(f"{where}: tensors do not fit its configuration, first difference {min(odd)}")
    for key in ("dtype", "torch_dtype"):
        described.pop(key, None)
    kept["config.json"] = described | {"dtype": dtype}
    names = set(model.tensors) | set(model.plain)
    chosen = rules(described["model_type"], config.layers, names)
    if kind == "gguf":
        if dtype == "bfloat16":
            raise OriginError("--dtype: found bfloat16, expected float16 or float32 for a GGUF")
        if "tokenizer.json" in kept:
            BytePairs(kept, vocab_size=model.vocab_size, name=f"{where}: tokenizer.json")  # that it is one
        tensors = {rule[0]: _fits(_tensor(model, rule, config), dtype, rule[0]) for rule in chosen}
        tensors |= _rope_factors(config)
        with files.atomic_file(out) as temporary:
            write_gguf(temporary, kept, tensors, name=blob["origin"], half=dtype == "float16")
        return
    shapes = {name: _shape(model, targets, layout, config) for name, targets, layout in chosen}
    with files.atomic_directory(out) as folder:
        with (
            tensor_file(folder / "model.safetensors", shapes, {"format": "pt"}, kind=KINDS[dtype]) as put,
            ThreadPoolExecutor(threads) as pool,
        ):

            def write(rule: Rule) -> None:
                put(rule[0], _stored(_fits(_tensor(model, rule, config), dtype, rule[0]), dtype))

            list(pool.map(write, chosen))  # raises what one of them did
        for name, content in kept.items():
            files.write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _tensor(model: QuantizedModel, rule: Rule, config: DecoderConfig) -> NDArray[np.float32]:
    """The origin's tensor that ``rule`` names."""
    _, targets, layout = rule
    parts = [
        model.tensors[target].dequantize() if target in model.tensors else model.plain[target].astype(np.float32)
        for target in targets
    ]
    return to_origin(parts, layout, config)


def _rope_factors(config: DecoderConfig) -> dict[str, NDArray[np.float32]]:
    """What llama.cpp divides the frequencies of Llama 3's stretched rotations by, as a tensor; nothing without them."""
    if config.rope_scaling is None:
        return {}
    factors: NDArray[np.float32] = (frequencies(config, scaled=False) / frequencies(config)).float().numpy()
    return {"rope_freqs.weight": factors}


def _shape(model: QuantizedModel, targets: tuple[str, ...], layout: str, config: DecoderConfig) -> tuple[int, ...]:
    shapes = [model.tensors[t].shape if t in model.tensors else model.plain[t].shape for t in targets]
    empty = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
    return to_origin(empty, layout, config).shape


def _fits(array: NDArray[np.float32], dtype: str, name: str) -> NDArray[np.float32]:
    largest = max(float(array.max(initial=0)), -float(array.min(initial=0)))
    if dtype == "float16" and largest > _HALF_MAX:
        raise OriginError(f"{name}: found {largest:.6g}, float16 holds {_HALF_MAX:.0f} at most; give --dtype bfloat16")
    return array


def _stored(array: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "bfloat16":  # nearest, ties to even; numpy has no such type
        bits = np.ascontiguousarray(array).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
            np.uint16
        )
    return array.astype(dtype)
