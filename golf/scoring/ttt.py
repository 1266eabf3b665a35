"""Score-first test-time training: each document has low-rank weights of its own, which learn from what was scored.

A document is read in pieces of ``update_tokens`` tokens by the streaming pass. The logits of a piece are its score;
then the document's weights take one step of Adam (no momentum, no decay) on the mean nats of the very targets just
scored. Keys of earlier tokens stay as the weights of their time made them, and gradients stop at the piece, so a token
costs one forward and one backward pass however long the window is. Beside the matrix W (out, in) of every *application*
(each pass of a loop apart), and beside the head, stands ``up @ down``: ``down`` (r, in) begins as the same draw for
every document, ``up`` (out, r) at zero, so the first piece has the artifact's own score. W itself never changes.

Documents are independent: none learns from another, pieces end at places that depend on nothing, and who ends early is
padded to a whole piece. So neither the order of documents nor who shares a batch with whom is in a score (to the last
digit on a CPU), and batches of documents of like length give nothing away: a decoder that knows no lengths reads one
document until the BOS behind it. That BOS is the document's last target; the last piece teaches nothing.

Source: openai/parameter-golf #1855 and its lineage; score-first as #1017 demands. docs/scores.md says what differs.
Shapes: n targets, D documents of a batch, t tokens of a piece, W width, V vocabulary, r rank.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from golf.base.distributed import ALONE, Ranks
from golf.base.params import NonNegative, Size
from golf.scoring.network import MIN_ROWS, Precision, Rows, inference, score_rows
from golf.scoring.results import Score, Scored, make_score
from golf.scoring.text import ScoringError, ValidationText

if TYPE_CHECKING:
    import torch

__all__ = ["DocumentWeights", "TttConfig", "iterate_ttt", "plan_documents", "score_mode", "score_ttt"]

BETA2, EPS = 0.99, 1e-8  # of Adam; its other beta is 0


@dataclass(frozen=True)
class TttConfig:
    """``enabled`` (read by the stage); ``window`` keys that attention keeps; ``update_tokens`` of a document scored
    before its weights learn from them; ``rank`` and ``learning_rate`` (0 learns nothing) of these; ``batch`` documents
    side by side; ``precision`` of the products."""

    enabled: bool
    window: Size
    update_tokens: Size
    rank: Size
    learning_rate: NonNegative
    batch: Size
    precision: Precision


class DocumentWeights:
    """The weights of a batch of documents, what Adam remembers of them, and the hooks that add them to the model."""

    def __init__(self, model: Any, config: TttConfig) -> None:
        import torch

        self._model, self._config = model, config
        self._linears = [
            module
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and model.role(f"{name}.weight") in ("attention", "mlp")
        ]
        if not self._linears:
            raise ScoringError("the model has no nn.Linear of role attention or mlp, so nothing can learn")
        self._table = getattr(model, "head_table", model.token_embedding)
        calls: list[Any] = []
        with torch.no_grad(), self._hooked(lambda linear, *_: calls.append(linear)):
            model.step(torch.zeros(1, 1, dtype=torch.int64, device=self._table.device), model.new_state(1, 1, 1))
        self._shapes = [tuple(linear.weight.shape) for linear in calls] + [tuple(self._table.shape)]
        self._next = 0
        self.reset(1)

    def reset(self, documents: int) -> None:
        """Start anew with a batch of ``documents``."""
        import torch

        generator = torch.Generator().manual_seed(0)
        self.weights: list[torch.Tensor] = []  # down (D, r, in), up (D, out, r) of each application, then of the head
        for width_out, width_in in self._shapes:
            down = (2 * torch.rand(self._config.rank, width_in, generator=generator) - 1) / width_in**0.5
            for part in (down, torch.zeros(width_out, self._config.rank)):
                self.weights.append(part.to(self._table.device).repeat(documents, 1, 1).requires_grad_())
        self._squares = [torch.zeros_like(weight) for weight in self.weights]
        self._steps = 0

    def keep(self, documents: int) -> None:
        """Go on with the first ``documents`` of the batch alone."""
        self.weights = [weight.detach()[:documents].requires_grad_() for weight in self.weights]
        self._squares = [square[:documents] for square in self._squares]

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """The model computes with these weights added; the hooks are removed at the end."""
        with self._hooked(self._add):
            yield

    @contextlib.contextmanager
    def _hooked(self, hook: Any) -> Iterator[None]:
        handles = [linear.register_forward_hook(hook) for linear in self._linears]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Hook of all matrices: a looped one is called several times a pass, and the weights come in call order."""
        return output + self._product(inputs[0])

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        down, up = self.weights[self._next : self._next + 2]
        self._next += 2
        return (x @ down.mT) @ up.mT

    def logits(self, ids: torch.Tensor, state: Any) -> torch.Tensor:
        """Float32 logits (D, t, V) behind ``ids`` (D, t), with gradients; advances ``state``, which must be taped."""
        import torch

        self._next = 0
        hidden = self._model._step(ids, state)  # what `step` does, with gradients
        logits = (torch.nn.functional.linear(hidden, self._table) + self._product(hidden)).float()
        cap = self._model.softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def learn(self, loss: torch.Tensor) -> None:
        """One step down ``loss``, the sum over the documents of their mean nats of targets scored already."""
        import torch

        self._steps += 1
        correction = 1 - BETA2**self._steps
        gradients = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            for weight, square, gradient in zip(self.weights, self._squares, gradients, strict=True):
                square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
                root = (square / correction).sqrt_().add_(EPS)
                weight.addcdiv_(gradient, root, value=-self._config.learning_rate)

    def digest(self) -> str:
        """SHA-256 of the weights and of what the optimizer remembers of earlier text."""
        hashed = hashlib.sha256(str(self._steps).encode())
        for tensor in (*self.weights, *self._squares):
            hashed.update(tensor.detach().cpu().numpy().tobytes())
        return hashed.hexdigest()


@dataclass(frozen=True)
class _Batch:
    """Documents side by side, the longest first: ``starts`` and ``lengths`` int64 (D,), of no targets in idle rows."""

    starts: np.ndarray
    lengths: np.ndarray

    def piece(self, text: ValidationText, begin: int, size: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Target numbers (rows, size) from place ``begin`` on, and which of them are there; others are 0."""
        places = begin + np.arange(size)
        there = places < self.lengths[:rows, None]
        return np.where(there, self.starts[:rows, None] + places, 0), there


def plan_documents(text: ValidationText, config: TttConfig) -> list[_Batch]:
    """Batches of documents of like length; alone, in reading order, as a decoder reads. Each has ``MIN_ROWS`` rows."""
    lengths = np.diff(np.append(text.doc_starts, text.num_targets))  # the last token is no input
    order = np.argsort(-lengths, kind="stable") if config.batch > 1 else np.arange(len(lengths))
    order = order[lengths[order] > 0]
    least = -(-MIN_ROWS // config.update_tokens)
    batches = []
    for first in range(0, len(order), config.batch):
        chosen = order[first : first + config.batch]
        idle = (0, max(0, least - len(chosen)))
        batches.append(_Batch(np.pad(text.doc_starts[chosen], idle), np.pad(lengths[chosen], idle)))
    return batches


def iterate_ttt(
    model: Any,
    text: ValidationText,
    config: TttConfig,
    *,
    weights: DocumentWeights | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Rows]:
    """Yield the logits of each piece, every target once; the weights learn when the next one is asked for, so after the
    caller has scored it. Of several ``ranks`` each yields the pieces of its own batches.

    Raises ``ScoringError`` when the model has no matrix that could learn.
    """
    learns = config.learning_rate > 0.0
    if learns and weights is None:
        weights = DocumentWeights(model, config)
    batches = plan_documents(text, config)
    with (
        inference(model, precision=config.precision, gradients=learns) as device,
        weights.attached() if weights is not None else contextlib.nullcontext(),
        ranks.shown("test-time training", text.num_targets) as shown,
    ):
        for index in ranks.mine(len(batches)):
            for rows in _read_batch(model, text, batches[index], config, weights, device):
                yield rows
                shown.update(len(rows.targets) * ranks.world)


def _read_batch(
    model: Any,
    text: ValidationText,
    batch: _Batch,
    config: TttConfig,
    weights: DocumentWeights | None,
    device: torch.device,
) -> Iterator[Rows]:
    import torch

    from golf.scoring.tape import first_streams, taped

    size, rows, longest = config.update_tokens, len(batch.starts), int(batch.lengths.max())
    least = min(rows, -(-MIN_ROWS // size))
    state = taped(model.new_state(rows, config.window, size))
    if weights is not None:
        weights.reset(rows)
    for begin in range(0, longest, size):
        rows = max(least, int((batch.lengths > begin).sum()))
        state = first_streams(state, rows)
        if weights is not None:
            weights.keep(rows)
        targets, there = batch.piece(text, begin, size, rows)
        arrays = np.where(there, text.tokens[targets], 0), text.tokens[targets + 1], there, np.flatnonzero(there)
        ids, truth, mask, live = (torch.from_numpy(array).to(device) for array in arrays)
        logits = model.logits(model.step(ids, state)) if weights is None else weights.logits(ids, state)
        yield Rows(targets=targets[there], logits=logits.detach().flatten(0, 1)[live], ids=truth.flatten()[live])
        if weights is not None and begin + size < longest:
            nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), truth, reduction="none") * mask
            weights.learn((nats.sum(1) / mask.sum(1).clamp_min(1)).sum())


def score_ttt(model: Any, text: ValidationText, config: TttConfig, *, ranks: Ranks = ALONE) -> Score:
    """Score every target once, each before its document's weights learn from it."""
    pieces = iterate_ttt(model, text, config, ranks=ranks)
    nats = score_rows(pieces, text, ranks=ranks, device=next(iter(model.parameters())).device)
    return make_score("ttt", text, nats)


def score_mode(name: str, model: Any, text: ValidationText, config: TttConfig, ranks: Ranks) -> Scored:
    """Test-time training as a mode of evaluation."""
    return Scored(score_ttt(model, text, config, ranks=ranks), {})
