"""Text that a model writes: one token after another, drawn from its distribution.

Shapes: V vocabulary, T tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.base.errors import GolfError
from golf.models.base import LanguageModel

__all__ = ["Sampling", "draw_token", "generate"]


@dataclass(frozen=True)
class Sampling:
    """Logits are divided by ``temperature`` (0: always the likeliest token); then of the likeliest tokens the fewest
    whose probabilities reach ``top_p`` are kept (Holtzman et al., arXiv 1904.09751). ``seed`` fixes the draws,
    ``window`` is the number of keys that attention keeps. Raises ``GolfError`` naming the value out of its bounds."""

    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    window: int = 256

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise GolfError(f"temperature: found {self.temperature}, expected 0 (the likeliest token) to 100")
        if not 0.0 < self.top_p <= 1.0:
            raise GolfError(f"top-p: found {self.top_p}, expected more than 0, at most 1 (all tokens)")
        if not 0 <= self.seed < 1 << 63:
            raise GolfError(f"seed: found {self.seed}, expected a whole number, 0 or more")
        if not 1 <= self.window <= 1 << 20:
            raise GolfError(f"window: found {self.window}, expected 1 to {1 << 20} tokens")


def generate(
    model: LanguageModel, prompt: np.ndarray, sampling: Sampling, *, never: Sequence[int] = ()
) -> Iterator[int]:
    """Endless tokens behind ``prompt`` (T,) int64, which begins with BOS; those in ``never`` are not drawn.

    With the same threads of torch the same seed gives the same tokens, on one build and machine. Raises ``GolfError``
    when the weights give no finite logits.
    """
    import torch

    @torch.inference_mode()
    def logits(ids: np.ndarray) -> np.ndarray:
        hidden = model.step(torch.from_numpy(ids[None]).to(model.token_embedding.device), state)
        return np.asarray(model.logits(hidden[:, -1])[0].double().cpu())

    draws = np.random.default_rng(sampling.seed)
    with torch.inference_mode():
        state: Any = model.new_state(1, sampling.window)
    row = logits(np.asarray(prompt, dtype=np.int64))
    while True:
        if not np.isfinite(row).all():
            raise GolfError("the model's logits are not finite: the artifact's weights are broken")
        row[list(never)] = -np.inf
        token = draw_token(row, sampling, float(draws.random()))
        yield token
        row = logits(np.array([token]))


def draw_token(logits: np.ndarray, sampling: Sampling, draw: float) -> int:
    """The token of ``logits`` (V,) float64 that ``draw`` in [0, 1) falls on, likelier ones first, lower ids on ties."""
    order = np.argsort(-logits, kind="stable")
    if sampling.temperature == 0.0:
        return int(order[0])
    upto = np.exp((logits[order] - logits[order[0]]) / sampling.temperature).cumsum()
    kept = min(int(np.searchsorted(upto, sampling.top_p * upto[-1])) + 1, len(upto))
    return int(order[min(int(np.searchsorted(upto[:kept], draw * upto[kept - 1], side="right")), kept - 1)])
