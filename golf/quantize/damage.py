"""Damage of a quantization, measured: KL divergence of the quantized model's next-token distributions from the float's.

Shapes: B windows, T tokens of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from golf.quantize.calibrate import TokenSource, spread_windows

if TYPE_CHECKING:
    import torch

    from golf.models.base import LanguageModel

__all__ = ["Divergence", "training_windows"]

_BATCH = 4
State = Mapping[str, NDArray[np.floating]]


def training_windows(source: TokenSource, *, tokens: int, window: int) -> NDArray[np.int64]:
    """Ids (B, T) of windows of ``window`` tokens spread evenly over ``source``, at most ``tokens`` in all.

    They begin half a window off those of `calibrate`, on which the Hessians were fitted. Raises ``GolfError`` when the
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
                torch.log_softmax(self._model.logits(self._model.hidden(ids)), -1) for ids in self._ids.split(_BATCH)
            ]
