"""The file between `quantize`, `fit` and `compress`: integers, steps and small tensors in safetensors.

Per quantized tensor ``NAME`` the integers (R, C) as int8 where they fit, else int16; ``NAME/rows`` fp16 steps or int8
codes; ``NAME/columns`` int8 codes. Other tensors under their own name. ``meta["tensors"]`` describes each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from golf.base import files
from golf.base.errors import GolfError
from golf.base.params import Count
from golf.quantize.tensors import QuantizedModel, QuantizedTensor

if TYPE_CHECKING:
    from golf.quantize.pipeline import QuantizeResult

__all__ = ["load_quantized", "save_quantized", "save_result"]

_MADE_BY = "`fit`"
_COLUMNS = (
    "tensor", "role", "shape", "weights", "relative_error", "output_error", "bits_per_weight", "largest_integer",
)  # fmt: skip


@dataclass(frozen=True)
class _Tensor:
    role: Literal["embedding", "attention", "mlp", "control"]
    shape: tuple[Count, ...]
    trellis: bool


@dataclass(frozen=True)
class _Meta:
    """What is read of the metadata, beside the configuration ``model``."""

    vocab_size: Count
    tensors: dict[str, _Tensor]
    aliases: dict[str, str]


def save_result(folder: Path, result: QuantizeResult) -> None:
    """Make ``folder`` hold ``model.safetensors`` and the error of every tensor, ``errors.tsv``."""
    rows = [[str(row[column]) for column in _COLUMNS] for row in result.rows]
    with files.atomic_directory(folder) as temporary:
        save_quantized(temporary / "model.safetensors", result.model)
        files.write_text(temporary / "errors.tsv", "".join("\t".join(line) + "\n" for line in [list(_COLUMNS), *rows]))


def save_quantized(path: str | Path, model: QuantizedModel) -> None:
    """Write ``model``."""
    arrays: dict[str, np.ndarray] = dict(model.plain)
    described: dict[str, Any] = {}
    for name, tensor in model.tensors.items():
        fits = tensor.values.size == 0 or (tensor.values.min() >= -128 and tensor.values.max() <= 127)
        arrays[name] = tensor.values.astype(np.int8) if fits else tensor.values
        arrays[f"{name}/rows"] = tensor.row_scale
        if tensor.column_codes is not None:
            arrays[f"{name}/columns"] = tensor.column_codes
        entry = {"role": tensor.role, "shape": list(tensor.shape), "trellis": tensor.trellis}
        described[name] = entry
    meta = {"model": model.config, "vocab_size": model.vocab_size, "tensors": described, "aliases": model.aliases}
    files.save_numpy(path, arrays, meta)


def load_quantized(path: str | Path) -> QuantizedModel:
    """Read what ``save_quantized`` wrote. Raises ``FileError`` for a missing or other file."""
    arrays, meta = files.load_numpy(path, made_by=_MADE_BY)
    about, config = files.checked(_Meta, meta, path=path, made_by=_MADE_BY), meta.get("model")
    tensors = {}
    for name, entry in about.tensors.items():
        values, rows = arrays.pop(name, None), arrays.pop(f"{name}/rows", None)
        if values is None or rows is None or values.dtype not in (np.int8, np.int16):
            raise files.FileError(f"{path}: no integers and steps of `{name}` in it; re-run {_MADE_BY}")
        columns = arrays.pop(f"{name}/columns", None)
        try:
            tensors[name] = QuantizedTensor(
                name, entry.role, entry.shape, values.astype(np.int16), rows, columns, entry.trellis
            )
        except GolfError as error:
            raise files.FileError(f"{path}: {error}; re-run {_MADE_BY}") from error
    if not isinstance(config, dict):
        raise files.FileError(f"{path}: no configuration `model` in it, not quantized weights; re-run {_MADE_BY}")
    return QuantizedModel(config, about.vocab_size, tensors, arrays, about.aliases)
