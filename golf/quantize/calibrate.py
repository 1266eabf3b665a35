"""Second moments of the inputs of every quantized matrix, for GPTQ: what the `calibrate` stage computes.

Shapes: ``B`` windows, ``T`` tokens of a window, ``C`` input channels of a matrix. A matrix that is used several times
(repeats of a shared block, a projection borrowed by another layer) has one Hessian, summed over all its uses. The tied
token table gets that of its use as output head, the final hidden states; other lookup tables have none: their input is
one-hot, so the error of one row never meets that of another column and rounding is already best.

The text is either the training split or the model's own samples, which need no text at all; never validation text, on
which calibrated weights would know what they are scored on. Sources: Frantar et al., GPTQ, arXiv 2210.17323;
calibration on own samples: parameter-golf PR #1019.

What the stages of quantization read is here too: Hessians, how often each token is met in training, and the damage on
such windows, the KL divergence of the quantized model's next-token distributions (``V`` vocabulary) from the float's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError
from golf.base.files import checked, load_numpy, read_meta
from golf.base.params import Count, Natural, Size
from golf.base.progress import bar
from golf.quantize.hessian import HessianError, HessianSums, StoredHessians, load_hessians

if TYPE_CHECKING:
    import torch

    from golf.models.base import LanguageModel

__all__ = [
    "CalibrateConfig", "Calibration", "Divergence", "LOOKUP_REASON", "TokenSource", "WEIGHTS", "calibrate",
    "calibration_windows", "hessians_or_none", "sampled_windows", "sensitivities", "spread_windows",
    "training_windows",
]  # fmt: skip

State = Mapping[str, NDArray[np.floating]]

WEIGHTS = "artifacts/average/model.safetensors"
LOOKUP_REASON = "lookup table: its input is one-hot, so rounding is already best"
_SAMPLED_AT_ONCE = 64  # texts sampled side by side
_TEMPERATURE = 0.8  # of the samples
_BATCH = 8  # windows in one forward pass
_COMPARED_AT_ONCE = 4  # windows in one comparison of two models


class TokenSource(Protocol):
    """Random access to a token stream (``golf.data.shards.SplitReader``)."""

    @property
    def num_tokens(self) -> int: ...
    def read(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True)
class CalibrateConfig:
    """Section `calibrate` of the parameters; units and meaning stand beside the keys in conf/config.yaml."""

    tokens: Count
    window: Size
    source: Literal["train", "samples"]
    sensitivity_tokens: Natural


@dataclass(frozen=True)
class Calibration:
    """One Hessian or one reason per quantized storage, by its first name."""

    hessians: dict[str, np.ndarray]  # name -> mean of x x^T, float32 (C, C)
    samples: dict[str, int]  # name -> inputs seen, all uses counted
    without: dict[str, str]  # name -> why there is no Hessian
    tokens: int


def spread_windows(source: TokenSource, *, tokens: int, window: int, offset: int = 0, key: str) -> np.ndarray:
    """Token ids (B, T) int64 of windows of ``window`` tokens spread evenly over ``source``, at most ``tokens`` in all.

    The first begins ``offset`` tokens in. Raises ``GolfError`` naming the parameter ``key`` when not one window fits.
    """
    fitting = (source.num_tokens - offset) // window
    if fitting < 1:
        found = f"the training split has {source.num_tokens} tokens"
        raise GolfError(f"{key}: {found}, expected at least {window + offset} for a window of {window}")
    count = max(1, min(fitting, tokens // window))
    starts = [i * fitting // count * window + offset for i in range(count)]
    return np.stack([source.read(start, window) for start in starts]).astype(np.int64)


def calibration_windows(source: TokenSource, config: CalibrateConfig) -> np.ndarray:
    """``spread_windows`` of the training split as ``config`` says."""
    return spread_windows(source, tokens=config.tokens, window=config.window, key="calibrate.window")


def sampled_windows(model: LanguageModel, config: CalibrateConfig, *, bos_id: int) -> np.ndarray:
    """Token ids (B, T) int64 of texts that ``model`` writes itself at full depth, each begun with ``bos_id``.

    Every token is drawn from softmax(logits / ``_TEMPERATURE``); the draws are the same in every run.
    """
    import torch

    count, length = max(1, config.tokens // config.window), config.window
    draws = np.random.default_rng(0).random((count, length))
    model.set_depth(model.max_depth)
    device = model.token_embedding.device
    parts = []
    with torch.no_grad(), bar(what="sample", total=count * length, unit="tok") as shown:
        for start in range(0, count, _SAMPLED_AT_ONCE):
            part = torch.from_numpy(draws[start : start + _SAMPLED_AT_ONCE])
            state = model.new_state(len(part), length, chunk=1)
            ids = [torch.full((len(part), 1), bos_id, dtype=torch.int64)]
            for position in range(1, length):
                logits = model.logits(model.step(ids[-1].to(device), state)[:, -1]).double().cpu()
                upto = torch.softmax(logits / _TEMPERATURE, dim=-1).cumsum(-1)
                drawn = part[:, position : position + 1] * upto[:, -1:]
                ids.append(torch.searchsorted(upto, drawn, right=True).clamp_max(upto.size(1) - 1))
                shown.update(len(part))
            parts.append(torch.cat(ids, dim=1).numpy())
    return np.concatenate(parts)


def calibrate(model: LanguageModel, windows: np.ndarray, config: CalibrateConfig) -> Calibration:
    """Run ``windows`` (B, T) int64 through ``model`` at full depth; H of every name of ``quantizable_names``.

    Raises ``HessianError`` for a matrix that is neither used by an ``nn.Linear`` nor a lookup table, or never used.
    """
    sums = _second_moments(model, windows)
    names = model.quantizable_names()
    hessians = {name: h for name, h in sums.means().items() if name in names}
    without = {name: LOOKUP_REASON for name in names if name not in hessians and model.role(name) == "embedding"}
    missing = [name for name in names if name not in hessians and name not in without]
    if missing:
        raise HessianError(f"{missing[0]}: no linear layer ever used it, so it has no Hessian and no reason for none")
    return Calibration(hessians, {n: s for n, s in sums.samples().items() if n in hessians}, without, windows.size)


def _second_moments(model: LanguageModel, windows: np.ndarray) -> HessianSums:
    """Sums of x x^T over ``windows`` (B, T) int64 at full depth, for every matrix and, at the head, its table."""
    import torch

    names = {id(parameter): name for name, parameter in model.unique_parameters().items()}
    head = names[id(getattr(model, "head_table", model.token_embedding))]
    sums = HessianSums()
    products: dict[str, torch.Tensor] = {}  # on a GPU, float64: there the inputs stay

    def add(name: str, inputs: torch.Tensor) -> None:
        flat = inputs.detach().float().flatten(0, -2)
        if not flat.is_cuda:
            sums.add(name, flat.numpy())
            return
        product = (flat.T @ flat).double()
        products[name] = products[name] + product if name in products else product
        sums.count(name, len(flat))

    def watch(name: str) -> Any:
        return lambda module, inputs: add(name, inputs[0])

    linear = [(names.get(id(m.weight)), m) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linear if name is not None]
    model.set_depth(model.max_depth)
    device = model.token_embedding.device
    try:
        with torch.no_grad(), bar(what="calibrate", total=windows.size, unit="tok") as shown:
            for start in range(0, len(windows), _BATCH):
                part = windows[start : start + _BATCH]
                hidden = model.hidden(torch.from_numpy(part).to(device))
                add(head, hidden)
                shown.update(part.size)
    finally:
        for hook in hooks:
            hook.remove()
    for name, product in products.items():
        sums.add_product(name, product.cpu().numpy())
    return sums


@dataclass(frozen=True)
class _Calibrated:
    """What is read of the metadata of Hessians."""

    without: dict[str, str]  # tensors that have none, and why


@dataclass(frozen=True)
class _Shared:
    """The same of Hessians that were written layer by layer."""

    leaders: dict[str, str]  # the name under which that of a name is stored


def hessians_or_none(root: Path) -> Mapping[str, NDArray[np.float32] | None]:
    """What `calibrate` wrote: H (C, C) of every quantized name, ``None`` for a lookup table, which has none.

    Those that were written layer by layer are read when they are asked for.
    """
    path, made_by = root / "artifacts/calibrate/hessians.safetensors", "`calibrate`"
    meta = read_meta(path, made_by=made_by)
    without = checked(_Calibrated, meta, path=path, made_by=made_by).without
    if "leaders" in meta:
        leaders = checked(_Shared, meta, path=path, made_by=made_by).leaders
        return StoredHessians(path, without=without, leaders=leaders, made_by=made_by)
    found, _ = load_hessians(path, made_by=made_by)
    return {**found, **dict.fromkeys(without)}


def sensitivities(root: Path) -> dict[str, NDArray[np.float32]]:
    """What `calibrate` wrote: the sensitivity (R,) of every row of a matrix or table, by name."""
    remedy = "`calibrate` with calibrate.sensitivity_tokens above 0"
    return load_numpy(root / "artifacts/calibrate/rows.safetensors", made_by=remedy)[0]


def training_windows(source: TokenSource, *, tokens: int, window: int) -> NDArray[np.int64]:
    """Ids (B, T) of windows of ``window`` tokens spread evenly over ``source``, at most ``tokens`` in all.

    They begin half a window off those of `calibrate`, on which the Hessians were fitted. Raises ``ValueError`` when the
    stream is too short.
    """
    return spread_windows(source, tokens=tokens, window=window, offset=window // 2, key="fit.window")


class Divergence:
    """KL(float || quantized) in nats per token over fixed windows of training text."""

    def __init__(self, model: LanguageModel, exact: State, windows: NDArray[np.int64]) -> None:
        """``exact`` float weights by state-dict name, ``windows`` (B, T) ids. The weights of ``model`` are overwritten.

        Keeps B * T * V float32 log-probabilities.
        """
        import torch

        self._model = model.eval()
        self._model.set_depth(model.max_depth)
        self._ids = torch.from_numpy(windows)
        self._exact = self._log_probabilities(exact)

    def __call__(self, state: State) -> float:
        """Mean nats per token by which ``state``, all names of the state dict, is worse than the exact weights."""
        total = sum(
            float((exact.exp() * (exact - found)).sum(dtype=exact.dtype))
            for exact, found in zip(self._exact, self._log_probabilities(state), strict=True)
        )
        return total / self._ids.numel()

    def _log_probabilities(self, state: State) -> list[torch.Tensor]:
        import torch

        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in state.items()}
        self._model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        with torch.no_grad():
            return [
                torch.log_softmax(self._model.logits(self._model.hidden(ids)), -1)
                for ids in self._ids.split(_COMPARED_AT_ONCE)
            ]
