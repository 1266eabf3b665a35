"""What the stages of quantization read: Hessians, and how often each token is met in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from golf.base.files import checked
from golf.quantize.hessian import load_hessians

WEIGHTS = "artifacts/average/model.safetensors"
__all__ = ["WEIGHTS", "hessians_or_none", "token_counts"]


@dataclass(frozen=True)
class _Calibrated:
    """What is read of the metadata of Hessians."""

    without: dict[str, str]  # tensors that have none, and why


def hessians_or_none(root: Path) -> dict[str, NDArray[np.float32] | None]:
    """What `calibrate` wrote: H (C, C) of every quantized name, ``None`` for a lookup table, which has none."""
    path = root / "artifacts/calibrate/hessians.safetensors"
    found, meta = load_hessians(path, made_by="`calibrate`")
    return {**found, **dict.fromkeys(checked(_Calibrated, meta, path=path, made_by="`calibrate`").without)}


def token_counts(root: Path, vocab_size: int) -> NDArray[np.int64]:
    """How often each token id (V,) stands in the training split."""
    from golf.data.shards import open_split

    source, chunk = open_split(root / "artifacts/tokens/train"), 1 << 22
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, source.num_tokens, chunk):
        counts += np.bincount(source.read(start, min(chunk, source.num_tokens - start)), minlength=vocab_size)
    return counts
