"""Second moments of the inputs of every quantized matrix, for GPTQ: what the `calibrate` stage computes.

Shapes: ``B`` windows, ``T`` tokens of a window, ``C`` input channels of a matrix. A matrix that is used several times
(repeats of a shared block, a projection borrowed by another layer) has one Hessian, summed over all its uses. The tied
token table gets that of its use as output head, the final hidden states; other lookup tables have none: their input is
one-hot, so the error of one row never meets that of another column and rounding is already best.

The text is either the training split or the model's own samples, which need no text at all; never validation text, on
which calibrated weights would know what they are scored on. Sources: Frantar et al., GPTQ, arXiv 2210.17323;
calibration on own samples: parameter-golf PR #1019.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from golf.errors import GolfError
from golf.files import load_numpy, save_numpy
from golf.progress import bar
from golf.quantize.hessian import HessianError, HessianSums

if TYPE_CHECKING:
    from pathlib import Path

    from golf.models.base import LanguageModel

__all__ = [
    "LOOKUP_REASON",
    "CalibrateConfig",
    "Calibration",
    "calibrate",
    "calibration_windows",
    "load_windows",
    "second_moments",
    "sampled_windows",
    "save_windows",
]

LOOKUP_REASON = "lookup table: its input is one-hot, so rounding is already best"
_SAMPLED_AT_ONCE = 64  # texts sampled side by side


class TokenSource(Protocol):
    """Random access to a token stream (``golf.data.shards.SplitReader``)."""

    @property
    def num_tokens(self) -> int: ...
    def read(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True)
class CalibrateConfig:
    """Section `calibrate` of the parameters; units and meaning stand beside the keys in conf/config.yaml."""

    tokens: int
    window: int
    batch: int
    source: Literal["train", "samples"] = "train"
    temperature: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("tokens", "window", "batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: found {getattr(self, key)}, wanted 1 or more")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature: found {self.temperature}, wanted above 0 (1 samples the model as it is)")
        if self.seed < 0:
            raise ValueError(f"seed: found {self.seed}, wanted 0 or more")


@dataclass(frozen=True)
class Calibration:
    """One Hessian or one reason per quantized storage, by its first name."""

    hessians: dict[str, np.ndarray]  # name -> mean of x x^T, float32 (C, C)
    samples: dict[str, int]  # name -> inputs seen, all uses counted
    without: dict[str, str]  # name -> why there is no Hessian
    tokens: int


def calibration_windows(source: TokenSource, config: CalibrateConfig) -> np.ndarray:
    """Token ids (B, T) int64 of windows spread evenly over ``source``, at most ``config.tokens`` in all.

    Raises ``ValueError`` when the stream is shorter than one window.
    """
    most = source.num_tokens // config.window
    if most < 1:
        raise GolfError(f"the training split has {source.num_tokens} tokens, wanted calibrate.window={config.window}")
    count = max(1, min(most, config.tokens // config.window))
    starts = [i * most // count * config.window for i in range(count)]
    return np.stack([source.read(start, config.window) for start in starts]).astype(np.int64)


def sampled_windows(model: LanguageModel, config: CalibrateConfig, *, bos_id: int) -> np.ndarray:
    """Token ids (B, T) int64 of texts that ``model`` writes itself at full depth, each begun with ``bos_id``.

    Every token is drawn from softmax(logits / ``config.temperature``); the draws depend on ``config.seed`` alone.
    """
    import torch

    count, length = max(1, config.tokens // config.window), config.window
    draws = np.random.default_rng(config.seed).random((count, length))
    model.set_depth(model.max_depth)
    device = model.token_embedding.device
    parts = []
    with torch.no_grad(), bar(what="sample", total=count * length, unit="tok") as shown:
        for start in range(0, count, _SAMPLED_AT_ONCE):
            part = torch.from_numpy(draws[start : start + _SAMPLED_AT_ONCE])
            state = model.new_state(len(part), length, chunk=1)
            ids = [torch.full((len(part), 1), bos_id, dtype=torch.int64)]
            for place in range(1, length):
                logits = model.logits(model.step(ids[-1].to(device), state)[:, -1]).double().cpu()
                upto = torch.softmax(logits / config.temperature, dim=-1).cumsum(-1)
                wanted = part[:, place : place + 1] * upto[:, -1:]
                ids.append(torch.searchsorted(upto, wanted, right=True).clamp_max(upto.size(1) - 1))
                shown.update(len(part))
            parts.append(torch.cat(ids, dim=1).numpy())
    return np.concatenate(parts)


def save_windows(path: str | Path, windows: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Save the text of a calibration, (B, T), so that `quantize` can run it again on half-quantized weights."""
    save_numpy(path, {"windows": windows.astype(np.int32)}, meta)


def load_windows(path: str | Path, *, made_by: str = "`calibrate`") -> np.ndarray:
    """Token ids (B, T) int64 that ``save_windows`` wrote; ``FileError`` when missing or damaged."""
    arrays, _ = load_numpy(path, made_by=made_by)
    return arrays["windows"].astype(np.int64)


class _Enough(Exception):
    """Every wanted input of this batch was seen: the rest of the forward pass is not needed."""


def second_moments(
    model: LanguageModel, windows: np.ndarray, *, batch: int, uses: Mapping[str, int] | None = None
) -> HessianSums:
    """Sums of x x^T over ``windows`` (B, T) int64 at full depth, for every matrix and, at the head, the token table.

    With ``uses`` (name of a matrix -> times that a forward pass uses it) only of these, and no further than needed.
    """
    import torch

    names = {id(parameter): name for name, parameter in model.unique_parameters().items()}
    sums, left = HessianSums(), Counter[str]()

    def watch(name: str) -> Any:
        def see(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            sums.add(name, inputs[0].detach().float().cpu().numpy())
            left.subtract((name,))
            if uses is not None and max(left.values()) <= 0:
                raise _Enough

        return see

    linear = [(names.get(id(m.weight)), m) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    wanted = [(n, m) for n, m in linear if n is not None and (uses is None or n in uses)]
    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in wanted]
    model.set_depth(model.max_depth)
    device = model.token_embedding.device
    try:
        with torch.no_grad(), bar(what="calibrate", total=windows.size, unit="tok") as shown:
            for start in range(0, len(windows), batch):
                part = windows[start : start + batch]
                left.update(uses or {})
                try:
                    hidden = model.hidden(torch.from_numpy(part).to(device))
                    if uses is None:
                        sums.add(names[id(model.token_embedding)], hidden.float().cpu().numpy())
                except _Enough:
                    left.clear()
                shown.update(part.size)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def calibrate(model: LanguageModel, windows: np.ndarray, config: CalibrateConfig) -> Calibration:
    """Run ``windows`` (B, T) int64 through ``model`` at full depth; H of every name of ``quantizable_names``.

    Raises ``HessianError`` for a matrix that is neither used by an ``nn.Linear`` nor a lookup table, or never used.
    """
    sums = second_moments(model, windows, batch=config.batch)
    wanted = model.quantizable_names()
    hessians = {name: h for name, h in sums.means().items() if name in wanted}
    without = {name: LOOKUP_REASON for name in wanted if name not in hessians and model.role(name) == "embedding"}
    missing = [name for name in wanted if name not in hessians and name not in without]
    if missing:
        raise HessianError(f"{missing[0]}: no linear layer ever used it, so it has no Hessian and no reason for none")
    return Calibration(hessians, {n: s for n, s in sums.samples().items() if n in hessians}, without, windows.size)
