"""From averaged float weights to a quantized model, with what it cost: the whole `quantize` stage as one function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError
from golf.base.files import require
from golf.base.progress import progress
from golf.base.tensor_file import LARGE
from golf.quantize.calibrate import WEIGHTS, hessians_or_none, sensitivities
from golf.quantize.config import QUANTIZED_ROLES, QuantizeConfig, Recipe
from golf.quantize.gptq import factor_of, importance_for, quantize_gptq
from golf.quantize.hessian import StoredHessians
from golf.quantize.rounding import entropy_bits, quantize_gptq_lite, quantize_sdclip, stored_control
from golf.quantize.steps import column_codes, row_factors
from golf.quantize.tensors import QuantizedModel, QuantizedTensor, column_steps

if TYPE_CHECKING:
    from golf.models.base import LanguageModel
    from golf.quantize.hessian import Factor

__all__ = ["QUANTIZED_ROLES", "QuantizeConfig", "QuantizeResult", "Quantizer", "output_error"]

_KEPT = 4  # factors of a single run: those of one block
Hessians = Mapping[str, NDArray[np.float32] | None]


@dataclass(frozen=True)
class QuantizeResult:
    """The quantized model, one row of numbers per stored tensor, and flat metrics."""

    model: QuantizedModel
    rows: list[dict[str, Any]]
    metrics: dict[str, float]


class Quantizer:
    """One float model, quantized as often as asked with other steps; what does not depend on steps is kept."""

    def __init__(
        self,
        state: Mapping[str, NDArray[np.float32]],
        model: LanguageModel,
        config: QuantizeConfig,
        *,
        meta: dict[str, Any],
        hessians: Hessians | None = None,
        sensitivities: Mapping[str, NDArray[np.float32]] | None = None,
        once: bool = False,
    ) -> None:
        """``state`` as float32 arrays, ``model`` for roles and ties, ``hessians`` for methods of GPTQ.

        Matrices and tables become integers with steps, control tensors fp16 (fp32 where a number leaves the fp16
        range), on a grid of their own with ``config.control_step``. Every storage is quantized once: names that
        ``model`` ties become aliases, and must hold equal data.
        Methods of GPTQ take ``hessians``: every quantized name with its H (C, C), or ``None`` for a lookup table.
        ``once``: no factor of a Hessian is kept for another run.
        ``sensitivities`` (R,) by name (``golf.quantize.sensitivity``) for ``config.gptq.row_exponent``.
        Raises ``GolfError`` naming the tensor for missing or surplus names, wrong shapes, NaN, infinity, broken ties.
        """
        self.model, self.aliases = model, _aliases(model)
        _check_names(state, model)
        for alias, name in self.aliases.items():
            if not np.array_equal(state[alias], state[name], equal_nan=True):
                raise GolfError(f"{alias} is tied to {name} in the model but differs in the file; re-run `average`")
        self.state, self.hessians = state, {} if hessians is None else hessians
        self.config, self.meta = config, meta
        parameters = dict(model.named_parameters(remove_duplicate=False))
        unique = [name for name in sorted(state) if name not in self.aliases]
        self.roles = {name: model.role(name) if name in parameters else "control" for name in unique}
        self._factors: dict[str, Factor | None] = {}  # by the name that the Hessian is stored under
        self._kept = _KEPT if once else len(unique)
        self._row_factors: dict[str, NDArray[np.float64]] = {}
        if config.needs_sensitivities:
            if sensitivities is None:
                raise GolfError("quantize.gptq.row_exponent: expected sensitivities of rows, found none")
            self._row_factors = self._by_damage(sensitivities)

    @classmethod
    def load(cls, root: Path, config: QuantizeConfig, *, once: bool = False) -> Quantizer:
        """Of what the stages before it left below ``root``; only what ``config`` needs is read.

        ``once``: for a single run; a large model is then described but has no weights of its own.
        """
        from golf.models.registry import StoredWeights, empty_model, load_weights

        path, made_by = root / WEIGHTS, "`average`"
        bare = once and require(path, made_by=made_by).stat().st_size > 4 * LARGE
        state: Mapping[str, NDArray[np.float32]]
        if bare:
            state = StoredWeights(path, made_by=made_by)
            meta = state.meta
        else:
            weights, meta = load_weights(path, made_by=made_by)
            state = {name: tensor.numpy() for name, tensor in weights.items()}
        model = empty_model(meta, path=path, made_by=made_by, device="meta" if bare else "cpu")
        hessians = hessians_or_none(root) if config.needs_hessians else None
        found = sensitivities(root) if config.needs_sensitivities else None
        return cls(state, model, config, meta=meta, hessians=hessians, sensitivities=found, once=once)

    def quantized_names(self) -> list[str]:
        """Names that become integers, sorted."""
        return [name for name, role in self.roles.items() if role in QUANTIZED_ROLES]

    def run(self, scales: Mapping[str, float] | None = None) -> QuantizeResult:
        """Quantize; steps of tensor NAME are ``scales[NAME]`` (default 1) times those of the parameters."""
        scales = scales or {}
        tensors: dict[str, QuantizedTensor] = {}
        plain: dict[str, NDArray[Any]] = {}
        rows = []
        for name in progress(list(self.roles), what="quantize", unit="tensor"):
            role, weights = self.roles[name], self.state[name]
            if role in QUANTIZED_ROLES:
                recipe = self.config.recipe(role, scale=scales.get(name, 1.0))
                tensors[name] = self._quantize(name, weights, role, recipe)
            else:
                plain[name] = stored_control(name, weights, step=self.config.control_step)
            rows.append(_row(name, role, weights, tensors.get(name), plain.get(name), self.hessians.get(name)))
        result = QuantizedModel(self.meta["model"], self.meta["vocab_size"], tensors, plain, self.aliases)
        return QuantizeResult(result, rows, _metrics(rows))

    def _quantize(self, name: str, weights: NDArray[np.float32], role: str, recipe: Recipe) -> QuantizedTensor:
        levels, clip, config = recipe.levels, recipe.scaled_clip, self.config
        if recipe.method == "sdclip":
            return quantize_sdclip(name, weights, role=role, levels=levels, clip=clip)
        if recipe.method == "gptq_lite":
            scaled, percentiles = recipe.scaled_levels, config.percentiles
            return quantize_gptq_lite(name, weights, role=role, levels=scaled, percentiles=percentiles)
        trellis = recipe.method == "gptq_trellis"
        return quantize_gptq(
            name,
            weights,
            self._factor(name, weights, trellis),
            role=role,
            levels=levels,
            clip=clip,
            config=config.gptq,
            trellis=trellis,
            factors=self._row_factors.get(name),
        )

    def _factor(self, name: str, weights: NDArray[np.float32], trellis: bool) -> Factor | None:
        if name not in self.hessians:
            raise GolfError(f"{name}: has no Hessian and no reason for none; re-run `calibrate`")
        shared = self._shared(name)
        if shared not in self._factors or self._factors[shared] is None:
            columns, hessian = weights.shape[-1], self.hessians[name]
            while len(self._factors) >= self._kept:
                del self._factors[next(iter(self._factors))]
            self._factors[shared] = factor_of(name, columns, hessian, config=self.config.gptq, trellis=trellis)
        return self._factors[shared]

    def _shared(self, name: str) -> str:
        """The name that the Hessian of ``name`` is stored under."""
        return self.hessians.leader(name) if isinstance(self.hessians, StoredHessians) else name

    def _loss_of_steps(self, name: str, weights: NDArray[np.float32], trellis: bool) -> float:
        """GPTQ's loss of one squared row step in all columns, as a share of tr H; all of it for a lookup table.

        Of a factor that is not kept until it is used, only the pivots are computed.
        """
        hessian, config = self.hessians.get(name), self.config.gptq
        if hessian is None:
            return 1.0
        if self._kept > _KEPT:
            factor = self._factor(name, weights, trellis)
            assert factor is not None
            importance = factor.importance_in_storage_order()
        else:
            importance = importance_for(name, weights.shape[-1], hessian, config=config, trellis=trellis)
        steps = column_steps(column_codes(importance, exponent=config.column_exponent, name=name))
        loss = float(np.square(steps * importance, dtype=np.float64).sum())
        return loss / float(np.trace(hessian, dtype=np.float64))

    def _by_damage(self, sensitivities: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
        """Factors (R,) on the row steps of every matrix that a method of GPTQ quantizes, by name."""
        damages: dict[str, NDArray[np.floating]] = {}
        losses: dict[tuple[str, bool], float] = {}  # of a Hessian, for all matrices that share it
        for name in self.quantized_names():
            method, weights = self.config.recipe(self.roles[name]).method, self.state[name]
            if method not in ("gptq", "gptq_trellis"):
                continue
            key = (self._shared(name), method == "gptq_trellis")
            if key not in losses:
                losses[key] = self._loss_of_steps(name, weights, key[1])
            found = sensitivities.get(name)
            if found is None or found.shape != weights.shape[:1] or not (np.isfinite(found) & (found >= 0)).all():
                raise GolfError(f"{name}: expected the sensitivity of each of {len(weights)} rows; re-run `calibrate`")
            damages[name] = found * losses[key]
        return row_factors(damages, self.state, exponent=self.config.gptq.row_exponent)


def _aliases(model: LanguageModel) -> dict[str, str]:
    """Names of the state dict that share storage with an earlier name, and that name."""
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in model.state_dict().items():
        storage = tensor.untyped_storage()
        key = (storage.data_ptr() or storage._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        first.setdefault(key, name)
    return aliases


def _check_names(state: Mapping[str, NDArray[np.float32]], model: LanguageModel) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    odd = sorted(set(shapes) ^ set(state))
    if odd:
        where = "the weights" if odd[0] in state else "the model config"
        raise GolfError(f"{odd[0]} is only in {where}; weights and config do not belong together, re-run `average`")
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise GolfError(f"{name}: weights have shape {state[name].shape}, the model config says {shape}")


def _row(
    name: str,
    role: str,
    weights: NDArray[np.float32],
    tensor: QuantizedTensor | None,
    plain: NDArray[Any] | None,
    hessian: NDArray[np.float32] | None,
) -> dict[str, Any]:
    rebuilt = tensor.dequantize() if tensor is not None else plain
    assert rebuilt is not None
    squared_error, squared_norm = _squares(weights, rebuilt)
    stored_bits = entropy_bits(tensor.values) if tensor is not None else 8.0 * rebuilt.nbytes
    scale_bits = 8 * tensor.row_scale.nbytes if tensor is not None else 0
    return {
        "tensor": name,
        "role": role,
        "shape": "x".join(map(str, weights.shape)) or "1",
        "weights": weights.size,
        "relative_error": squared_error / squared_norm if squared_norm else 0.0,
        "output_error": output_error(weights, rebuilt, hessian) if tensor is not None else 0.0,
        "bits_per_weight": stored_bits / max(1, weights.size),
        "largest_integer": max(int(tensor.values.max()), -int(tensor.values.min())) if tensor is not None else 0,
        "squared_error": squared_error,
        "squared_norm": squared_norm,
        "scale_bits": scale_bits,
    }


def _squares(weights: NDArray[np.float32], rebuilt: NDArray[Any]) -> tuple[float, float]:
    """Sums of (weights - rebuilt)^2 and weights^2, float64; of large tensors in parts."""
    sums = [0.0, 0.0]
    flat, found = weights.reshape(-1), rebuilt.reshape(-1)
    for start in range(0, max(1, flat.size), LARGE):
        exact = flat[start : start + LARGE].astype(np.float64)
        if flat.size <= LARGE:
            exact = exact.reshape(weights.shape)
        sums[0] += float(np.square(exact - found[start : start + LARGE].reshape(exact.shape)).sum())
        sums[1] += float(np.square(exact).sum())
    return sums[0], sums[1]


def output_error(weights: NDArray[np.float32], rebuilt: NDArray[Any], hessian: NDArray[np.float32] | None) -> float:
    """tr(E H E^T) / tr(W H W^T) with E = W - rebuilt: squared error of the outputs; of the weights without ``hessian``.

    In float32 blocks of rows: 7 digits are plenty for a share, and the products are as many as in GPTQ itself.
    """
    exact, found = weights.reshape(-1, weights.shape[-1]), rebuilt.reshape(-1, weights.shape[-1])
    sums = [0.0, 0.0]
    for start in range(0, len(exact), 4096):
        rows = slice(start, start + 4096)
        for i, matrix in enumerate(((exact[rows] - found[rows]).astype(np.float32), exact[rows].astype(np.float32))):
            sums[i] += float(np.vdot(matrix if hessian is None else matrix @ hessian, matrix))
    return sums[0] / sums[1] if sums[1] else 0.0


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
        weighted = sum(row["output_error"] * row["weights"] for row in members)
        metrics[f"{group}_output_error"] = weighted / count if count else 0.0
    scale_bits = sum(row["scale_bits"] for row in rows)
    metrics["scale_bits_per_weight"] = scale_bits / max(1, metrics["quantized_weights"])
    return metrics
