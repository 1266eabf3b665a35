"""The file between `quantize`, `fit` and `compress`: integers, steps and small tensors in safetensors.

Per quantized tensor ``NAME`` the integers (R, C) as int8 where they fit, else int16; ``NAME/rows`` fp16 steps or int8
codes; ``NAME/columns`` int8 codes. Other tensors under their own name. ``meta["tensors"]`` describes each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from golf.base import files
from golf.base.errors import GolfError
from golf.quantize.tensors import QuantizedModel, QuantizedTensor

if TYPE_CHECKING:
    from golf.quantize.pipeline import QuantizeResult

__all__ = ["load_quantized", "save_quantized", "save_result"]

_MADE_BY = "`fit`"
_COLUMNS = (
    "tensor", "role", "shape", "weights", "relative_error", "output_error", "bits_per_weight", "largest_integer",
)  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    role: str
    shape: tuple[int, ...]
    trellis: bool


@dataclass(frozen=True)
class _Stored:
    """What the file's metadata says, besides the model's configuration."""

    vocab_size: int
    tensors: dict[str, _Entry]
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
    config = meta.pop("model", None)
    stored = files.checked(_Stored, meta, path=path, made_by=_MADE_BY)
    if not isinstance(config, dict):
        raise files.FileError(f"{path}: no `model` in it, not quantized weights; re-run {_MADE_BY}")
    tensors = {}
    try:
        for name, entry in stored.tensors.items():
            values = arrays.pop(name)
            tensors[name] = QuantizedTensor(
                name=name,
                role=entry.role,
                shape=entry.shape,
                values=values.astype(np.int16) if values.dtype == np.int8 else values,
                row_scale=arrays.pop(f"{name}/rows"),
                column_codes=arrays.pop(f"{name}/columns", None),
                trellis=entry.trellis,
            )
    except KeyError as error:
        raise files.FileError(f"{path}: no {error} in it, not quantized weights; re-run {_MADE_BY}") from error
    except GolfError as error:
        raise files.FileError(f"{path}: {error}; re-run {_MADE_BY}") from error
    return QuantizedModel(config, stored.vocab_size, tensors, arrays, stored.aliases)
