"""Second moments of the inputs of every quantized matrix, for GPTQ: what the `calibrate` stage computes.

Shapes: ``B`` windows, ``T`` tokens of a window, ``C`` input channels of a matrix. A matrix that is used several times
(repeats of a shared block, a projection borrowed by another layer) has one Hessian, summed over all its uses. The tied
token table gets that of its use as output head, the final hidden states; other lookup tables have none: their input is
one-hot, so the error of one row never meets that of another column and rounding is already best.
Source: Frantar et al., GPTQ, arXiv 2210.17323.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from golf.progress import bar
from golf.quantize.hessian import HessianError, HessianSums

if TYPE_CHECKING:
    from golf.models.base import LanguageModel

__all__ = ["LOOKUP_REASON", "CalibrateConfig", "Calibration", "calibrate", "calibration_windows"]

LOOKUP_REASON = "lookup table: its input is one-hot, so rounding is already best"


class TokenSource(Protocol):
    """Random access to a token stream (``golf.tokens.shards.SplitReader``)."""

    @property
    def num_tokens(self) -> int: ...
    def read(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True)
class CalibrateConfig:
    """Section `calibrate` of the parameters; units and meaning stand beside the keys in conf/config.yaml."""

    tokens: int
    window: int
    batch: int

    def __post_init__(self) -> None:
        for key in ("tokens", "window", "batch"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: found {getattr(self, key)}, wanted 1 or more")


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
        raise ValueError(f"the training split has {source.num_tokens} tokens, wanted calibrate.window={config.window}")
    count = max(1, min(most, config.tokens // config.window))
    starts = [i * most // count * config.window for i in range(count)]
    return np.stack([source.read(start, config.window) for start in starts]).astype(np.int64)


def calibrate(model: LanguageModel, windows: np.ndarray, config: CalibrateConfig) -> Calibration:
    """Run ``windows`` (B, T) int64 through ``model`` at full depth; H of every name of ``quantizable_names``.

    Raises ``HessianError`` for a matrix that is neither used by an ``nn.Linear`` nor a lookup table, or never used.
    """
    import torch

    names = {id(parameter): name for name, parameter in model.unique_parameters().items()}
    sums = HessianSums()

    def watch(name: str) -> Any:
        return lambda module, inputs: sums.add(name, inputs[0].detach().float().cpu().numpy())

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [m.register_forward_pre_hook(watch(names[id(m.weight)])) for m in linear if id(m.weight) in names]
    model.set_depth(model.max_depth)
    device = model.token_embedding.device
    try:
        with torch.no_grad(), bar(what="calibrate", total=windows.size, unit="tok") as shown:
            for start in range(0, len(windows), config.batch):
                hidden = model.hidden(torch.from_numpy(windows[start : start + config.batch]).to(device))
                sums.add(names[id(model.token_embedding)], hidden.float().cpu().numpy())
                shown.update(windows[start : start + config.batch].size)
    finally:
        for hook in hooks:
            hook.remove()
    wanted = model.quantizable_names()
    hessians = {name: h for name, h in sums.means().items() if name in wanted}
    without = {name: LOOKUP_REASON for name in wanted if name not in hessians and model.role(name) == "embedding"}
    missing = [name for name in wanted if name not in hessians and name not in without]
    if missing:
        raise HessianError(f"{missing[0]}: no linear layer ever used it, so it has no Hessian and no reason for none")
    return Calibration(hessians, {n: s for n, s in sums.samples().items() if n in hessians}, without, windows.size)
