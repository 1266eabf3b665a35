"""From averaged float weights to a quantized model, with what it cost: the whole `quantize` stage as one function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from golf.progress import progress
from golf.quantize.full_gptq import GptqConfig, quantize_gptq
from golf.quantize.gptq_lite import quantize_gptq_lite
from golf.quantize.grid import order0_bits
from golf.quantize.sdclip import quantize_sdclip
from golf.quantize.tensors import QuantizedModel, QuantizedTensor

if TYPE_CHECKING:
    from golf.models.base import LanguageModel

__all__ = ["QUANTIZED_ROLES", "QuantizeConfig", "QuantizeResult", "quantize_model"]

QUANTIZED_ROLES = ("embedding", "attention", "mlp")
_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class QuantizeConfig:
    """Section `quantize` of the parameters; units and meaning stand beside the keys in conf/config.yaml."""

    method: Literal["gptq_lite", "sdclip", "gptq", "gptq_trellis"]
    levels: dict[str, int]
    percentiles: tuple[float, ...]
    clip: float
    gptq: GptqConfig = field(default_factory=GptqConfig)

    def __post_init__(self) -> None:
        if set(self.levels) != set(QUANTIZED_ROLES):
            wanted = ", ".join(QUANTIZED_ROLES)
            raise ValueError(f"levels: found {', '.join(sorted(self.levels))}, wanted exactly {wanted}")
        for role, most in self.levels.items():
            if not 7 <= most <= 127:
                raise ValueError(f"levels.{role}: found {most}, wanted 7 (4 bit) to 127 (8 bit)")
        if not self.percentiles or not all(0.5 <= p <= 1.0 for p in self.percentiles):
            raise ValueError(f"percentiles: found {list(self.percentiles)}, wanted at least one in 0.5..1")
        if not (np.isfinite(self.clip) and 0 < self.clip <= 1000):
            raise ValueError(f"clip: found {self.clip}, wanted a number of standard deviations above 0, 1000 at most")
        if self.gptq.act_order and self.method == "gptq_trellis":
            raise ValueError("gptq.act_order: found true, wanted false: the trellis walks columns in storage order")

    @property
    def needs_hessians(self) -> bool:
        """Whether the method uses what `calibrate` makes."""
        return self.method in ("gptq", "gptq_trellis")


@dataclass(frozen=True)
class QuantizeResult:
    """The quantized model, one row of numbers per stored tensor, and flat metrics."""

    model: QuantizedModel
    rows: list[dict[str, Any]]
    metrics: dict[str, float]


def quantize_model(
    state: dict[str, NDArray[np.float32]],
    model: LanguageModel,
    config: QuantizeConfig,
    *,
    meta: dict[str, Any],
    hessians: Mapping[str, NDArray[np.float32] | None] | None = None,
) -> QuantizeResult:
    """Quantize ``state`` (a state dict as float32 arrays) by the roles that ``model`` gives its names.

    Matrices and tables become integers with steps, control tensors fp16 (fp32 where a number leaves the fp16 range).
    Every storage is quantized once: names that ``model`` ties become aliases, and must hold equal data.
    Methods of GPTQ take ``hessians``: every quantized name with its H (C, C), or ``None`` for a lookup table.
    Raises ``ValueError`` naming the tensor for missing or surplus names, wrong shapes, NaN, infinity, broken ties.
    """
    aliases = _aliases(model)
    _check_names(state, model)
    for alias, name in aliases.items():
        if not np.array_equal(state[alias], state[name], equal_nan=True):
            raise ValueError(f"{alias} is tied to {name} in the model but differs in the file; re-run `average`")
    tensors: dict[str, QuantizedTensor] = {}
    plain: dict[str, NDArray[Any]] = {}
    rows = []
    parameters = dict(model.named_parameters(remove_duplicate=False))
    unique = [name for name in sorted(state) if name not in aliases]
    for name in progress(unique, what="quantize", unit="tensor"):
        role = model.role(name) if name in parameters else "control"
        if role in QUANTIZED_ROLES:
            tensors[name] = _quantize(name, state[name], role, config, hessians or {})
        else:
            plain[name] = _small(name, state[name])
        rows.append(_row(name, role, state[name], tensors.get(name), plain.get(name)))
    result = QuantizedModel(meta["model"], meta["vocab_size"], tensors, plain, aliases)
    return QuantizeResult(result, rows, _metrics(rows))


def _aliases(model: LanguageModel) -> dict[str, str]:
    """Names of the state dict that share storage with an earlier name, and that name."""
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        first.setdefault(key, name)
    return aliases


def _check_names(state: dict[str, NDArray[np.float32]], model: LanguageModel) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    odd = sorted(set(shapes) ^ set(state))
    if odd:
        where = "the weights" if odd[0] in state else "the model config"
        raise ValueError(f"{odd[0]} is only in {where}; weights and config do not belong together, re-run `average`")
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise ValueError(f"{name}: weights have shape {state[name].shape}, the model config wants {shape}")


def _quantize(
    name: str,
    weights: NDArray[np.float32],
    role: str,
    config: QuantizeConfig,
    hessians: Mapping[str, NDArray[np.float32] | None],
) -> QuantizedTensor:
    levels = config.levels[role]
    if config.method == "sdclip":
        return quantize_sdclip(name, weights, role=role, levels=levels, clip=config.clip)
    if config.method == "gptq_lite":
        return quantize_gptq_lite(name, weights, role=role, levels=levels, percentiles=config.percentiles)
    if name not in hessians:
        raise ValueError(f"{name}: has no Hessian and no reason for none; re-run `calibrate`")
    return quantize_gptq(
        name,
        weights,
        hessians[name],
        role=role,
        levels=levels,
        clip=config.clip,
        config=config.gptq,
        trellis=config.method == "gptq_trellis",
    )


def _small(name: str, weights: NDArray[np.float32]) -> NDArray[Any]:
    if not np.isfinite(weights).all():
        raise ValueError(f"{name}: holds NaN or infinity; training diverged, see artifacts/train/history.tsv")
    fits = weights.size == 0 or float(np.abs(weights).max()) <= _HALF_MAX
    return weights.astype(np.float16 if fits else np.float32)


def _row(
    name: str,
    role: str,
    weights: NDArray[np.float32],
    tensor: QuantizedTensor | None,
    plain: NDArray[Any] | None,
) -> dict[str, Any]:
    rebuilt = tensor.dequantize() if tensor is not None else plain
    assert rebuilt is not None
    exact = weights.astype(np.float64)
    squared_error, squared_norm = float(np.square(exact - rebuilt).sum()), float(np.square(exact).sum())
    stored_bits = order0_bits(tensor.values) if tensor is not None else 8.0 * rebuilt.nbytes
    scale_bits = 8 * tensor.row_scale.nbytes if tensor is not None else 0
    return {
        "tensor": name,
        "role": role,
        "shape": "x".join(map(str, weights.shape)) or "1",
        "weights": weights.size,
        "relative_error": squared_error / squared_norm if squared_norm else 0.0,
        "bits_per_weight": stored_bits / max(1, weights.size),
        "largest_integer": int(np.abs(tensor.values.astype(np.int32)).max()) if tensor is not None else 0,
        "squared_error": squared_error,
        "squared_norm": squared_norm,
        "scale_bits": scale_bits,
    }


def _metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    metrics: dict[str, float] = {"tensors": len(rows), "weights": sum(row["weights"] for row in rows)}
    groups = {role: [row for row in rows if row["role"] == role] for role in (*QUANTIZED_ROLES, "control")}
    groups["quantized"] = [row for row in rows if row["role"] in QUANTIZED_ROLES]
    for group, members in groups.items():
        count = sum(row["weights"] for row in members)
        norm = sum(row["squared_norm"] for row in members)
        metrics[f"{group}_weights"] = count
        metrics[f"{group}_relative_error"] = sum(row["squared_error"] for row in members) / norm if norm else 0.0
        bits = sum(row["bits_per_weight"] * row["weights"] for row in members)
        metrics[f"{group}_bits_per_weight"] = bits / count if count else 0.0
    scale_bits = sum(row["scale_bits"] for row in rows)
    metrics["scale_bits_per_weight"] = scale_bits / max(1, metrics["quantized_weights"])
    return metrics
