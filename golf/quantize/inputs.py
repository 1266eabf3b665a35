"""What the stages of quantization read: averaged weights, Hessians, and how often each token is met in training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from golf.base.files import FileError, load_torch
from golf.quantize.hessian import load_hessians

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["hessians_or_none", "load_weights", "token_counts"]


def load_weights(root: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights that `average` wrote, as float32 by name, and their meta (``model``, ``vocab_size``).

    They may be stored as float16, bfloat16, float32 or float64. Raises ``FileError`` naming the tensor for any other
    numbers, and the key for meta without it.
    """
    import torch

    path = root / "artifacts/average/model.safetensors"
    tensors, meta = load_torch(path, made_by="`average`")
    for key in ("model", "vocab_size"):
        if key not in meta:
            raise FileError(f"{path}: meta has no `{key}`; re-run `average`")
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            found, expected = str(tensor.dtype).removeprefix("torch."), "float16, bfloat16, float32 or float64"
            raise FileError(f"{path}: {name} holds {found} numbers, expected {expected}; re-run `average`")
    return {name: tensor.float() for name, tensor in tensors.items()}, meta


def hessians_or_none(root: Path) -> dict[str, NDArray[np.float32] | None]:
    """What `calibrate` wrote: H (C, C) of every quantized name, ``None`` for a lookup table, which has none."""
    path = root / "artifacts/calibrate/hessians.safetensors"
    found, meta = load_hessians(path, made_by="`calibrate`")
    without = meta.get("without")
    if not isinstance(without, dict):
        raise FileError(f"{path}: meta has no `without`; re-run `calibrate`")
    return {**found, **dict.fromkeys(without)}


def token_counts(root: Path, vocab_size: int) -> NDArray[np.int64]:
    """How often each token id (V,) stands in the training split."""
    from golf.data.shards import open_split

    source, chunk = open_split(root / "artifacts/tokens/train"), 1 << 22
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, source.num_tokens, chunk):
        counts += np.bincount(source.read(start, min(chunk, source.num_tokens - start)), minlength=vocab_size)
    return counts
