"""Streaming score: each token passes through the model once, keys and values of the last ``window`` tokens are kept.

Shapes: n targets, K segments, S streams of one pass, t tokens in a chunk, R rows, D width.

The text is cut into ``K = ceil(n / segment)`` equal segments, of which ``streams`` run side by side as one batch.
Every segment but the first reads ``warmup`` tokens before its first target, unscored. A token's hidden state depends on
at most ``layers * (window - 1)`` tokens before it, so from that warm-up on the score of an attention model is that of
one unbroken pass, wherever it is cut; less warm-up is cheaper and costs a little score (``docs/scores.md``).
``segment`` and ``warmup`` belong to the definition of the score; ``streams`` and ``chunk`` change speed and memory.

Rows come out in reading order, whatever the batch: what learns from the text (golf.scoring.record) needs that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from golf.progress import bar
from golf.scoring.neural import HEAD_ROWS, MIN_ROWS, Precision, Rows, head_rows, inference, score_rows
from golf.scoring.results import Score, make_score
from golf.scoring.text import ScoringError, ValidationText
from golf.scoring.windows import check_window

if TYPE_CHECKING:
    import torch

__all__ = ["PassConfig", "StreamPlan", "iterate_stream_rows", "plan_streams", "score_streaming", "streaming_nats"]


@dataclass(frozen=True)
class PassConfig:
    """``window`` keys kept (the training length or less), ``chunk`` tokens of each stream in a forward pass,
    ``segment``, ``warmup`` and ``streams`` as above, ``precision`` of the matrix products."""

    window: int
    chunk: int
    segment: int
    warmup: int
    streams: int
    precision: Precision

    def __post_init__(self) -> None:
        for name in ("chunk", "segment", "streams"):
            if getattr(self, name) < 1:
                raise ScoringError(f"{name} is {getattr(self, name)}, wanted at least 1")
        if self.warmup < 0:
            raise ScoringError(f"warmup is {self.warmup} tokens, wanted 0 or more")


@dataclass(frozen=True)
class StreamPlan:
    """Segments: targets ``first[k]..last[k]-1`` are scored by segment k, which reads tokens from ``begin[k]`` on."""

    begin: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def part(self, start: int, stop: int) -> StreamPlan:
        """Segments ``start`` to ``stop - 1``."""
        return StreamPlan(self.begin[start:stop], self.first[start:stop], self.last[start:stop])


def plan_streams(num_targets: int, *, segment: int, warmup: int) -> StreamPlan:
    """Cut the targets into equal segments of at most ``segment`` targets (the last may be shorter), each in one."""
    count = -(-num_targets // segment)
    length = -(-num_targets // count)
    first = np.arange(0, num_targets, length, dtype=np.int64)
    last = np.minimum(first + length, num_targets)
    return StreamPlan(begin=np.maximum(first - warmup, 0), first=first, last=last)


def iterate_stream_rows(
    model: Any, text: ValidationText, config: PassConfig, *, sizes: Iterator[int] | None = None
) -> Iterator[Rows]:
    """Yield the logits of every target once, in reading order, in pieces of ``sizes`` rows (default ``HEAD_ROWS``).

    ``sizes`` must add up to the number of targets. Raises ``ScoringError`` when the window does not fit.
    """
    check_window(text.num_targets, config.window)
    plan = plan_streams(text.num_targets, segment=config.segment, warmup=config.warmup)
    with inference(model, precision=config.precision) as device, bar(what="streaming", total=text.num_targets) as shown:
        begin = 0
        for hidden in _regroup(_hidden_blocks(model, text, plan, config, device), sizes or _even(text.num_targets)):
            targets = np.arange(begin, begin + len(hidden))
            yield from head_rows(model, hidden, targets, text, most=len(hidden))
            begin += len(hidden)
            shown.update(len(hidden))


def score_streaming(model: Any, text: ValidationText, config: PassConfig) -> Score:
    """Score every target with attention over the last ``config.window`` keys; see ``PassConfig``."""
    return make_score("streaming", text, streaming_nats(model, text, config))


def streaming_nats(model: Any, text: ValidationText, config: PassConfig) -> np.ndarray:
    """Nats of every target, float64 (n,)."""
    return score_rows(iterate_stream_rows(model, text, config), text)


def _even(num_rows: int) -> Iterator[int]:
    for begin in range(0, num_rows, HEAD_ROWS):
        yield min(HEAD_ROWS, num_rows - begin)


def _hidden_blocks(
    model: Any, text: ValidationText, plan: StreamPlan, config: PassConfig, device: torch.device
) -> Iterator[torch.Tensor]:
    """Hidden states (R, D) of the targets of ``config.streams`` segments at a time, in reading order."""
    for start in range(0, len(plan.first), config.streams):
        yield _run_block(model, text, plan.part(start, start + config.streams), config, device)


def _run_block(
    model: Any, text: ValidationText, plan: StreamPlan, config: PassConfig, device: torch.device
) -> torch.Tensor:
    """Run the segments of ``plan`` side by side; idle streams pad passes to ``MIN_ROWS`` rows, see ``neural``."""
    import torch

    chunk, real = min(config.chunk, int((plan.last - plan.begin).max())), len(plan.first)
    begin = np.append(plan.begin, np.repeat(plan.begin[:1], max(-(-MIN_ROWS // chunk) - real, 0)))
    state = model.new_state(len(begin), config.window, chunk)
    block: torch.Tensor | None = None
    for offset in range(0, int((plan.last - plan.begin).max()), chunk):
        positions = begin[:, None] + np.arange(offset, offset + chunk)
        ids = text.tokens[np.minimum(positions, text.num_targets - 1)]
        hidden = model.step(torch.from_numpy(ids).to(device), state)[:real].flatten(0, 1)
        positions = positions[:real]
        scored = (positions >= plan.first[:, None]) & (positions < plan.last[:, None])
        if block is None:
            block = hidden.new_empty(int(plan.last[-1] - plan.first[0]), hidden.shape[1])
        places = torch.from_numpy(positions[scored] - plan.first[0]).to(device)
        block[places] = hidden[torch.from_numpy(np.flatnonzero(scored)).to(device)]
    assert block is not None
    return block


def _regroup(blocks: Iterator[torch.Tensor], sizes: Iterator[int]) -> Iterator[torch.Tensor]:
    """The same rows in order, cut into pieces of ``sizes`` rows."""
    import torch

    rest: torch.Tensor | None = None
    for size in sizes:
        while rest is None or len(rest) < size:
            block = next(blocks, None)
            assert block is not None, "the sizes add up to the rows"
            rest = block if rest is None or not len(rest) else torch.cat([rest, block])
        yield rest[:size]
        rest = rest[size:]
