"""Streaming score: each token passes through the model once, keys and values of the last ``window`` tokens are kept.

Shapes: n targets, S streams, t tokens in a chunk, V vocabulary.

The stream of targets is cut into ``streams`` contiguous segments that run side by side as one batch. Every segment
but the first begins ``warmup`` tokens early, unscored, so that its first targets have context; with ``warmup = 0`` it
begins cold, as a decoder of parallel streams must. ``streams`` and ``warmup`` belong to the definition of the score;
``chunk`` changes only its speed (and float rounding). Against a re-encoded window, a token's keys were themselves
computed with older context, so the two scores are close but not the same function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from golf.progress import bar
from golf.scoring.neural import NeuralScores, Rows, head_rows, inference, score_rows
from golf.scoring.results import Score, make_score
from golf.scoring.text import ScoringError, ValidationText
from golf.scoring.windows import check_window

__all__ = [
    "StreamPlan",
    "StreamingConfig",
    "iterate_stream_rows",
    "plan_streams",
    "score_streaming",
    "streaming_scores",
]


@dataclass(frozen=True)
class StreamingConfig:
    """``window`` keys kept (the training length or less), ``chunk`` tokens of each stream in a forward pass,
    ``streams`` and ``warmup`` as above, ``precision`` of the matrix products."""

    window: int
    chunk: int
    streams: int
    warmup: int
    precision: Literal["fp32", "bf16"]

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ScoringError(f"chunk is {self.chunk} tokens, wanted at least 1")


@dataclass(frozen=True)
class StreamPlan:
    """Segments: targets ``first[s]..last[s]-1`` are scored by stream s, which reads tokens from ``begin[s]`` on."""

    begin: np.ndarray
    first: np.ndarray
    last: np.ndarray


def plan_streams(num_targets: int, *, streams: int, warmup: int) -> StreamPlan:
    """Cut the targets into ``streams`` segments of equal length (the last may be shorter), each target in one.

    Raises ``ScoringError`` for fewer targets than streams or a negative warm-up.
    """
    if not 1 <= streams <= num_targets:
        raise ScoringError(f"streams is {streams}, wanted 1 to {num_targets} (the targets of the validation stream)")
    if warmup < 0:
        raise ScoringError(f"warmup is {warmup} tokens, wanted 0 or more")
    length = -(-num_targets // streams)
    first = np.arange(0, num_targets, length, dtype=np.int64)
    last = np.minimum(first + length, num_targets)
    return StreamPlan(begin=np.maximum(first - warmup, 0), first=first, last=last)


def iterate_stream_rows(model: Any, text: ValidationText, config: StreamingConfig) -> Iterator[Rows]:
    """Yield the logits of every target, chunk after chunk over all streams; each target comes once."""
    import torch

    chunk = config.chunk
    plan = plan_streams(text.num_targets, streams=config.streams, warmup=config.warmup)
    longest = int((plan.last - plan.begin).max())
    with inference(model, precision=config.precision) as device, bar(what="streaming", total=text.num_targets) as shown:
        state = model.new_state(len(plan.first), config.window, chunk)
        for offset in range(0, longest, chunk):
            positions = plan.begin[:, None] + np.arange(offset, min(offset + chunk, longest))
            ids = text.tokens[np.minimum(positions, text.num_targets - 1)]
            hidden = model.step(torch.from_numpy(ids).to(device), state).flatten(0, 1)
            scored = (positions >= plan.first[:, None]) & (positions < plan.last[:, None])
            flat, targets = np.flatnonzero(scored), positions[scored]
            yield from head_rows(model, hidden[torch.from_numpy(flat).to(device)], targets, text)
            shown.update(len(targets))


def score_streaming(model: Any, text: ValidationText, config: StreamingConfig) -> Score:
    """Score every target with attention over the last ``config.window`` keys; see ``StreamingConfig``."""
    return make_score("streaming", text, streaming_scores(model, text, config).nats)


def streaming_scores(
    model: Any,
    text: ValidationText,
    config: StreamingConfig,
    *,
    temperatures: tuple[float, ...] = (),
    probe: np.ndarray | None = None,
) -> NeuralScores:
    """Per-target scores; ``temperatures`` and ``probe`` as in ``golf.scoring.neural.score_rows``."""
    check_window(text.num_targets, config.window)
    return score_rows(iterate_stream_rows(model, text, config), text, temperatures=temperatures, probe=probe)
