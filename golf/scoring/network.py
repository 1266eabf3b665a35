"""The model's own code length of every target, from windows of the stream, each target scored once.

The round trip (``final_roundtrip`` of openai/parameter-golf) has windows that do not overlap. In the sliding score each
window after the first scores its last ``stride`` targets only, so that they have at least ``window - stride`` tokens of
context: the score comparable with the public leaderboard's sliding rows, see ``docs/scores.md``.

Shapes: n targets, B windows in a forward pass, W tokens in a window, R scored rows, V vocabulary.

Only scored rows pass through the output head, at most ``HEAD_ROWS`` at a time. The log-partition function is taken
in float64, so a row is normalized to 1e-15 whatever the precision of the logits. Every forward pass has whole
windows (short ones are padded behind their last token, which a causal model cannot see) and at least ``MIN_ROWS``
rows: with that, matrix products on a CPU give each row the same bits in a batch of any size.

A plan of K windows scores every target exactly once. Target i is token i+1; a window at ``start`` of ``length`` reads
tokens ``start .. start+length-1`` and scores targets ``start+score_from .. start+length-1``.

Sliding evaluation is that of openai/parameter-golf (sliding window records) without its tail quirk: there every start
below n gets a window, so windows near the end are cut short and score the last ``stride`` targets again. With
n = 62,021,632, window 1024 and stride 256 that makes 242,272 windows, of which the last three score 768 targets a
second time; the plan here has 242,269.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from golf.base.distributed import ALONE, Ranks
from golf.base.params import Size
from golf.scoring.results import Scored, make_score
from golf.scoring.text import ScoringError, ValidationText

if TYPE_CHECKING:
    import torch

__all__ = [
    "HEAD_ROWS", "MIN_ROWS", "Precision", "RoundtripConfig", "Rows", "SlidingConfig", "WindowPlan", "checked_nats",
    "head_rows", "inference", "iterate_rows", "plan_roundtrip", "plan_sliding", "score_rows", "target_nats",
    "window_batch", "window_nats",
]  # fmt: skip


@dataclass(frozen=True)
class WindowPlan:
    """Windows in stream order: ``starts``, ``lengths`` and ``score_from``, all int64 (K,), and the full ``window``."""

    starts: np.ndarray
    lengths: np.ndarray
    score_from: np.ndarray
    window: int

    def __len__(self) -> int:
        return len(self.starts)


def plan_roundtrip(num_targets: int, window: int) -> WindowPlan:
    """Non-overlapping windows; the last one is as short as the text leaves it and is scored like the others."""
    return plan_sliding(num_targets, window, window)


def plan_sliding(num_targets: int, window: int, stride: int) -> WindowPlan:
    """Overlapping windows, ``stride`` apart.

    The first scores all its targets, every later one only the ``stride`` behind the last scored target, so that each
    sees at least ``window - stride`` tokens of context; the last scores what is left. Raises ``ScoringError`` when
    the window is longer than the text or the stride is not in 1..window.
    """
    check_window(num_targets, window)
    if not 1 <= stride <= window:
        raise ScoringError(f"stride is {stride}, expected 1 to {window} (the window): else targets would be left out")
    later = -(-(num_targets - window) // stride)
    starts = np.arange(later + 1, dtype=np.int64) * stride
    lengths = np.minimum(window, num_targets - starts)
    score_from = np.full(later + 1, window - stride, dtype=np.int64)
    score_from[0] = 0
    return WindowPlan(starts=starts, lengths=lengths, score_from=score_from, window=window)


def check_window(num_targets: int, window: int) -> None:
    """Raise ``ScoringError`` unless one whole window fits into the text."""
    if not 1 <= window <= num_targets:
        raise ScoringError(
            f"window is {window} tokens, the validation stream has {num_targets} targets: expected 1 to {num_targets}; "
            f"lower evaluate.*.window or give the split more text (tokenize.val_fraction, tokenize.val_max_bytes)"
        )


HEAD_ROWS = 2048
MIN_ROWS = 64
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Rows:
    """Scored rows in one piece: ``targets`` int64 (R,) target numbers, ``logits`` (R, V), ``ids`` (R,) of the truth."""

    targets: np.ndarray
    logits: torch.Tensor
    ids: torch.Tensor


@dataclass(frozen=True)
class RoundtripConfig:
    """``window`` tokens, ``batch`` windows in a forward pass, ``precision`` of its matrix products."""

    window: Size = 256
    batch: Size = 8
    precision: Precision = "fp32"

    def plan(self, num_targets: int) -> WindowPlan:
        """Windows that do not overlap; raises ``ScoringError`` when none fits."""
        return plan_roundtrip(num_targets, self.window)


@dataclass(frozen=True)
class SlidingConfig:
    """``window`` tokens, of which each window after the first scores the last ``stride``; ``batch`` windows in a
    forward pass; ``precision`` of its matrix products."""

    window: Size = 256
    stride: Size = 128
    batch: Size = 8
    precision: Precision = "fp32"

    def plan(self, num_targets: int) -> WindowPlan:
        """Windows ``stride`` apart; raises ``ScoringError`` when window or stride do not fit."""
        return plan_sliding(num_targets, self.window, self.stride)


@contextlib.contextmanager
def inference(model: Any, *, precision: str, gradients: bool = False) -> Iterator[torch.device]:
    """Evaluation mode, no gradients (unless asked for), and bf16 autocast when ``precision`` is ``bf16`` and the device
    computes in it; yields the model's device."""
    import torch

    device = next(iter(model.parameters())).device
    was_training = model.training
    model.eval()
    bf16 = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16" and _has_bf16(device))
    try:
        with torch.enable_grad() if gradients else torch.inference_mode(), bf16:
            yield device
    finally:
        model.train(was_training)


def _has_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are hardware instructions: a CPU without them is slower, not faster."""
    import torch

    if device.type != "cpu":
        return True
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(probe is not None and probe() for probe in probes)


def iterate_rows(
    model: Any,
    text: ValidationText,
    plan: WindowPlan,
    *,
    batch: int,
    precision: str = "fp32",
    ranks: Ranks = ALONE,
) -> Iterator[Rows]:
    """Yield the logits of every scored row of ``plan``, in stream order; see ``golf.models.base`` for ``model``.

    Of several ``ranks`` each yields the rows of its own passes.
    """
    import torch

    if batch < 1:
        raise ScoringError(f"batch is {batch} windows, expected at least 1")
    windows_per_pass = max(batch, -(-MIN_ROWS // plan.window))
    with inference(model, precision=precision) as device, ranks.shown("score", text.num_targets) as shown:
        for index in ranks.mine(-(-len(plan) // windows_per_pass)):
            first = index * windows_per_pass
            inputs, flat, targets = window_batch(text, plan, first, min(first + windows_per_pass, len(plan)))
            hidden = model.hidden(torch.from_numpy(inputs).to(device)).flatten(0, 1)
            yield from head_rows(model, hidden[torch.from_numpy(flat).to(device)], targets, text)
            shown.update(len(targets) * ranks.world)


def head_rows(
    model: Any, hidden: torch.Tensor, targets: np.ndarray, text: ValidationText, *, most: int = HEAD_ROWS
) -> Iterator[Rows]:
    """Logits of the hidden states (R, D) that predict ``targets`` (R,), in pieces of at most ``most`` rows."""
    import torch

    for first in range(0, len(targets), most):
        piece = targets[first : first + most]
        rows = hidden[first : first + most]
        missing = MIN_ROWS - len(piece)  # few rows take another matrix kernel with other rounding
        if missing > 0:
            rows = torch.cat([rows, rows[:1].expand(missing, -1)])
        logits = model.logits(rows)[: len(piece)]
        yield Rows(targets=piece, logits=logits, ids=torch.from_numpy(text.tokens[piece + 1]).to(hidden.device))


def target_nats(rows: Rows) -> np.ndarray:
    """Negative log-likelihood (nats) of each row's truth, float64 (R,). Raises ``ScoringError`` when not finite."""
    import torch

    logits = rows.logits.double()
    nats = torch.logsumexp(logits, dim=1) - logits.gather(1, rows.ids[:, None])[:, 0]
    return checked_nats(np.asarray(nats.cpu().numpy()), rows.targets)


def checked_nats(nats: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """``nats`` (R,) float64, at least 0; names the first of ``targets`` whose score is not finite."""
    finite = np.isfinite(nats)
    if not finite.all():
        at = int(targets[int(np.argmin(finite))])
        raise ScoringError(f"the model's score of target {at} is not finite; the artifact's weights are broken")
    return np.maximum(nats, 0.0)


def score_rows(
    pieces: Iterator[Rows], text: ValidationText, *, ranks: Ranks = ALONE, device: torch.device | None = None
) -> np.ndarray:
    """Gather the nats of all targets, float64 (n,), from row pieces, in whatever order they come.

    Every target must come exactly once, on one of ``ranks``: anything else is a fault of the plan and stops here.
    ``device`` is the one that ranks talk over.
    """
    nats = np.zeros(text.num_targets)
    seen = np.zeros(text.num_targets, dtype=np.uint8)
    for rows in pieces:
        nats[rows.targets] = target_nats(rows)
        np.add.at(seen, rows.targets, 1)  # plain += would count a target twice in one piece once
    if ranks.world > 1:
        assert device is not None
        nats, seen = ranks.sum(nats, device), ranks.sum(seen, device)
    if not bool((seen == 1).all()):
        raise RuntimeError(f"every target is scored exactly once, {int((seen != 1).sum())} of {len(seen)} were not")
    return nats


def window_batch(
    text: ValidationText, plan: WindowPlan, first: int, last: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input ids (B, W), flat indices (R,) of the scored positions in B*W, and their target numbers (R,)."""
    offsets = np.arange(plan.window)
    rows = max(last - first, -(-MIN_ROWS // plan.window))
    inputs = np.zeros((rows, plan.window), dtype=np.int64)
    starts, lengths = plan.starts[first:last, None], plan.lengths[first:last, None]
    positions = np.minimum(starts + offsets, len(text.tokens) - 1)
    inputs[: last - first] = text.tokens[positions]
    scored = (offsets >= plan.score_from[first:last, None]) & (offsets < lengths)
    return inputs, np.flatnonzero(scored), (starts + offsets)[scored]


def window_nats(
    model: Any, text: ValidationText, config: RoundtripConfig | SlidingConfig, *, ranks: Ranks = ALONE
) -> tuple[np.ndarray, int]:
    """Nats of every target, float64 (n,), on every rank, and the number of windows.

    Raises ``ScoringError`` when the windows do not fit.
    """
    plan = config.plan(text.num_targets)
    rows = iterate_rows(model, text, plan, batch=config.batch, precision=config.precision, ranks=ranks)
    return score_rows(rows, text, ranks=ranks, device=next(iter(model.parameters())).device), len(plan)


def score_mode(name: str, model: Any, text: ValidationText, config: Any, ranks: Ranks) -> Scored:
    """Round trip and sliding window as modes of evaluation."""
    nats, windows = window_nats(model, text, config, ranks=ranks)
    return Scored(make_score(name, text, nats, windows=windows), {"nats": nats})
