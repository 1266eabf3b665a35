"""Score-first test-time training: low-rank weights learn from each piece of text after it was scored, in one pass.

Windows are those of the sliding score. A pass of ``update_windows`` windows is scored with the weights as they are;
then they take one Adam step on the nats of the very targets just scored. Beside every matrix W (out, in) of attention
and MLP stands ``up @ down`` with ``up`` (out, r) and ``down`` (r, in): W itself never changes, and ``up`` starts at
zero, so the first pass has the artifact's own score. Weights start anew for every group of documents. A pass begins
anew when the token in front of its first target lies in a later group: an input, never a target or what is behind it.

Source: openai/parameter-golf #77 (LoRA at test time, reset per document), score-first as #1017 demands.
Shapes: n targets, R rows, V vocabulary, r rank.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from golf.base.distributed import ALONE, Ranks
from golf.base.params import Natural, NonNegative, Size
from golf.scoring.network import (
    Precision,
    Rows,
    WindowPlan,
    head_rows,
    inference,
    plan_sliding,
    score_rows,
    window_batch,
)
from golf.scoring.results import Score, Scored, make_score
from golf.scoring.text import ScoringError, ValidationText

if TYPE_CHECKING:
    import torch

__all__ = ["LowRank", "TttConfig", "iterate_ttt", "score_mode", "score_ttt"]


@dataclass(frozen=True)
class TttConfig:
    """``enabled`` (read by the stage); ``window`` tokens of which ``stride`` are scored, ``update_windows`` scored
    before the weights learn from them; ``rank`` and ``learning_rate`` (0 learns nothing) of the low-rank weights;
    ``group_documents`` after which they start anew (0: never); ``precision`` of the products."""

    enabled: bool
    window: Size
    stride: Size
    update_windows: Size
    rank: Size
    learning_rate: NonNegative
    group_documents: Natural
    precision: Precision


class LowRank:
    """The weights that learn, their optimizer, and the hooks that add them to the model while ``attached``."""

    def __init__(self, model: Any, config: TttConfig) -> None:
        import torch

        self._config = config
        self._linears = [
            module
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and model.role(f"{name}.weight") in ("attention", "mlp")
        ]
        if not self._linears:
            raise ScoringError("the model has no nn.Linear of role attention or mlp, so nothing can learn")
        self.reset()

    def reset(self) -> None:
        """Start anew: ``up`` zero, ``down`` as drawn at first, the optimizer without memory."""
        import torch

        generator = torch.Generator().manual_seed(0)
        self._pairs = []
        for linear in self._linears:
            width_out, width_in = linear.weight.shape
            down = torch.randn(self._config.rank, width_in, generator=generator) / width_in**0.5
            up = torch.zeros(width_out, self._config.rank)
            self._pairs.append(tuple(part.to(linear.weight.device).requires_grad_() for part in (down, up)))
        self._optimizer = torch.optim.Adam(self.weights, lr=self._config.learning_rate)

    @property
    def weights(self) -> list[torch.Tensor]:
        """All that learns, ``down`` and ``up`` of each matrix."""
        return [part for pair in self._pairs for part in pair]

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """The model computes with these weights added; the hooks are removed at the end."""
        handles = [linear.register_forward_hook(self._hook(k)) for k, linear in enumerate(self._linears)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, index: int) -> Any:
        from torch.nn.functional import linear

        def add(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            down, up = self._pairs[index]
            return output + linear(linear(inputs[0], down), up)

        return add

    def learn(self, loss: torch.Tensor) -> None:
        """One step down the mean nats ``loss`` of targets that are scored already."""
        import torch

        weights = self.weights
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        self._optimizer.step()

    def digest(self) -> str:
        """SHA-256 of the weights and of what the optimizer remembers of earlier text."""
        state = self._optimizer.state
        known = [value for weight in self.weights for value in (weight, *state.get(weight, {}).values())]
        hashed = hashlib.sha256()
        for tensor in known:
            hashed.update(tensor.detach().cpu().numpy().tobytes())
        return hashed.hexdigest()


def iterate_ttt(
    model: Any, text: ValidationText, config: TttConfig, *, weights: LowRank | None = None
) -> Iterator[list[Rows]]:
    """Yield the logits of each pass, every target once, in reading order; the weights learn when the next one is asked
    for, so after the caller has scored them.

    Raises ``ScoringError`` when window or stride do not fit or the model has no matrix that could learn.
    """
    plan = plan_sliding(text.num_targets, config.window, config.stride)
    learns = config.learning_rate > 0.0
    if learns and weights is None:
        weights = LowRank(model, config)
    with inference(model, precision=config.precision, gradients=learns) as device, contextlib.ExitStack() as stack:
        if weights is not None:
            stack.enter_context(weights.attached())
        shown = stack.enter_context(ALONE.shown("test-time training", text.num_targets))
        group = 0
        for first in range(0, len(plan), config.update_windows):
            last = min(first + config.update_windows, len(plan))
            here = _group(text, plan, first, config)
            if weights is not None and here != group:
                weights.reset()
            group = here
            rows, loss = _forward(model, text, plan, first, last, device)
            yield rows
            if learns:
                assert weights is not None
                weights.learn(loss)
            shown.update(sum(len(piece.targets) for piece in rows))


def _forward(
    model: Any, text: ValidationText, plan: WindowPlan, first: int, last: int, device: torch.device
) -> tuple[list[Rows], torch.Tensor]:
    """Scored rows of windows ``first`` to ``last - 1``, cut off from gradients, and their mean nats, which is not."""
    import torch

    inputs, flat, targets = window_batch(text, plan, first, last)
    hidden = model.hidden(torch.from_numpy(inputs).to(device)).flatten(0, 1)[torch.from_numpy(flat).to(device)]
    live = list(head_rows(model, hidden, targets, text))
    nats = [torch.nn.functional.cross_entropy(rows.logits.float(), rows.ids, reduction="sum") for rows in live]
    rows = [Rows(targets=rows.targets, logits=rows.logits.detach(), ids=rows.ids) for rows in live]
    return rows, torch.stack(nats).sum() / len(targets)


def _group(text: ValidationText, plan: WindowPlan, window: int, config: TttConfig) -> int:
    """Group of documents that the input in front of the window's first scored target belongs to; 0 without groups."""
    if not config.group_documents:
        return 0
    position = int(plan.starts[window] + plan.score_from[window])
    return (int(np.searchsorted(text.doc_starts, position, side="right")) - 1) // config.group_documents


def score_ttt(model: Any, text: ValidationText, config: TttConfig) -> Score:
    """Score every target once, each before the weights learn from it."""
    pieces = (rows for rows_of_pass in iterate_ttt(model, text, config) for rows in rows_of_pass)
    windows = len(plan_sliding(text.num_targets, config.window, config.stride))
    return make_score("ttt", text, score_rows(pieces, text), windows=windows)


def score_mode(name: str, model: Any, text: ValidationText, config: TttConfig, ranks: Ranks) -> Scored:
    """Test-time training as a mode of evaluation; one process alone, since it learns in order."""
    return Scored(score_ttt(model, text, config), {})
