"""Streaming score: each token passes through the model once, keys and values of the last ``window`` tokens are kept.

Shapes: n targets, K segments, S streams of one pass, t tokens in a chunk, R rows, D width.

The text is cut into ``K = ceil(n / segment)`` equal segments, of which ``streams`` run side by side as one batch.
Every segment but the first reads ``warmup`` tokens before its first target, unscored. A token's hidden state depends on
at most ``layers * (window - 1)`` tokens before it, so from that warm-up on the score of an attention model is that of
one unbroken pass, wherever it is cut; less warm-up is cheaper and costs a little score (``docs/scores.md``).
``segment`` and ``warmup`` belong to the definition of the score; ``streams`` and ``chunk`` change speed and memory:
their product is the rows of a pass, also where the text has fewer segments.

Rows come out in reading order, whatever the batch: what learns from the text (golf.scoring.record_stream) needs that
order. Of several processes rank 0 gets the rows; the others run their share of the passes (``serve_stream``) and send
it the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from golf.base.distributed import ALONE, Ranks
from golf.base.params import Count, Ge, Le, Natural, Size
from golf.scoring.network import HEAD_ROWS, MIN_ROWS, Precision, Rows, check_window, head_rows, inference, score_rows
from golf.scoring.text import ScoringError, ValidationText

if TYPE_CHECKING:
    import torch

__all__ = [
    "PassConfig",
    "StreamPlan",
    "iterate_stream_rows",
    "plan_streams",
    "serve_stream",
    "streaming_nats",
]

Attention = Literal["ring", "band"]
BAND_TOKENS = 1 << 18  # of all streams in one band pass: at 832 channels in bf16 one tensor of 0.4 GB


@dataclass(frozen=True)
class PassConfig:
    """``window`` keys kept (the training length or less), ``chunk`` tokens of each stream in a forward pass,
    ``segment``, ``warmup`` and ``streams`` as above, ``precision`` of the matrix products. ``attention`` ``ring`` goes
    through a segment chunk by chunk and keeps keys, ``band`` takes whole segments in one pass (``chunk`` idle; no more
    of them than have ``BAND_TOKENS`` tokens), which ``compile`` turns into a graph; the score is the same up to
    rounding."""

    window: Size = 256
    chunk: Size = 128
    segment: Count = 32768
    warmup: Natural = 3072
    streams: Annotated[int, Ge(1), Le(4096)] = 8
    precision: Precision = "fp32"
    attention: Attention = field(default="ring", kw_only=True)
    compile: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.compile and self.attention != "band":
            raise ScoringError("compile: found true with attention: ring, expected attention: band or compile: false")


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
    model: Any,
    text: ValidationText,
    config: PassConfig,
    *,
    sizes: Iterator[int] | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Rows]:
    """Yield the logits of every target once, in reading order, in pieces of ``sizes`` rows (default ``HEAD_ROWS``).

    ``sizes`` must add up to the number of targets. With several ``ranks`` this is rank 0's part, while the others are
    in ``serve_stream``. Raises ``ScoringError`` when the window does not fit.
    """
    assert ranks.rank == 0
    plan = _plan(text, config)
    with inference(model, precision=config.precision) as device, ranks.shown("streaming", text.num_targets) as shown:
        begin, blocks = 0, _hidden_blocks(model, text, plan, config, device, ranks)
        for hidden in _regroup(blocks, sizes or _even(text.num_targets)):
            targets = np.arange(begin, begin + len(hidden))
            yield from head_rows(model, hidden, targets, text, most=len(hidden))
            begin += len(hidden)
            shown.update(len(hidden))


def serve_stream(model: Any, text: ValidationText, config: PassConfig, ranks: Ranks) -> None:
    """The part of every rank but 0: run this rank's passes and send their hidden states to rank 0."""
    assert ranks.rank > 0
    plan = _plan(text, config)
    with inference(model, precision=config.precision) as device:
        pending = None
        for block in _hidden_blocks(model, text, plan, config, device, ranks):
            if pending is not None:
                pending.wait()
            pending = ranks.send(block)
        if pending is not None:
            pending.wait()


def streaming_nats(model: Any, text: ValidationText, config: PassConfig) -> np.ndarray:
    """Nats of every target, float64 (n,)."""
    return score_rows(iterate_stream_rows(model, text, config), text)


def _even(num_rows: int) -> Iterator[int]:
    for begin in range(0, num_rows, HEAD_ROWS):
        yield min(HEAD_ROWS, num_rows - begin)


def _plan(text: ValidationText, config: PassConfig) -> StreamPlan:
    check_window(text.num_targets, config.window)
    plan = plan_streams(text.num_targets, segment=config.segment, warmup=config.warmup)
    longest = int((plan.last - plan.begin).max())
    if config.attention == "band" and longest > BAND_TOKENS:
        raise ScoringError(
            f"segment + warmup: found {longest} tokens in one pass, expected at most {BAND_TOKENS} with attention: "
            "band, which holds whole segments on the device; lower segment or take attention: ring"
        )
    return plan


def _hidden_blocks(
    model: Any, text: ValidationText, plan: StreamPlan, config: PassConfig, device: torch.device, ranks: Ranks
) -> Iterator[torch.Tensor]:
    """Hidden states (R, D) of the targets of some segments at a time: on rank 0 all of them in reading order, its own
    and what it receives, elsewhere those of the rank's own passes."""
    size, block = ranks.streams(len(plan.first), _most_streams(plan, config)), None
    chunk = _chunk(plan, config, size)
    for index, start in enumerate(range(0, len(plan.first), size)):
        part, owner = plan.part(start, start + size), index % ranks.world
        if owner == ranks.rank:
            block = _run_block(model, text, part, config, device, chunk)
            yield block
        elif ranks.rank == 0:
            assert block is not None, "rank 0 runs the first pass"
            yield ranks.receive(block, int(part.last[-1] - part.first[0]), owner)


def _most_streams(plan: StreamPlan, config: PassConfig) -> int:
    """Streams of one pass at most: those configured; with band attention no more than fit into ``BAND_TOKENS``."""
    if config.attention == "ring":
        return config.streams
    return max(1, min(config.streams, BAND_TOKENS // int((plan.last - plan.begin).max())))


def _chunk(plan: StreamPlan, config: PassConfig, streams: int) -> int:
    """Tokens of each of ``streams`` in a pass: ``config.chunk``, or as many more as fill the place of absent streams.

    Whole blocks of queries, which are the same wherever chunks end: so the wider chunk gives the same bits.
    """
    from golf.models.stream import BLOCK

    longest = int((plan.last - plan.begin).max())  # of the plan, not of one pass: it must not matter who runs beside
    if config.attention == "band" or config.chunk % BLOCK:
        return min(config.chunk, longest)
    return min(config.chunk * max(1, config.streams // streams), -(-longest // BLOCK) * BLOCK)


def _run_block(
    model: Any, text: ValidationText, plan: StreamPlan, config: PassConfig, device: torch.device, chunk: int
) -> torch.Tensor:
    """Run the segments of ``plan`` side by side; idle streams pad passes to ``MIN_ROWS`` rows, see ``network``."""
    import torch

    from golf.models.stream import BLOCK

    longest, real = int((plan.last - plan.begin).max()), len(plan.first)
    chunk = chunk if config.attention == "ring" else longest
    begin = np.append(plan.begin, np.repeat(plan.begin[:1], max(-(-MIN_ROWS // chunk) - real, 0)))
    step = _stepper(model, config, len(begin), chunk)
    block: torch.Tensor | None = None
    for offset in range(0, longest, chunk):
        size = chunk if chunk % BLOCK else min(chunk, -(-(longest - offset) // BLOCK) * BLOCK)  # no half blocks
        positions = begin[:, None] + np.arange(offset, offset + size)
        ids = text.tokens[np.minimum(positions, text.num_targets - 1)]
        hidden = step(torch.from_numpy(ids).to(device))[:real]
        if block is None:
            block = hidden.new_empty(int(plan.last[-1] - plan.first[0]), hidden.shape[2])
        for rows, start, first, last in zip(hidden, positions[:real, 0], plan.first, plan.last, strict=True):
            low, high = max(first, start), min(last, start + size)  # targets of this segment in this pass
            if low < high:
                block[low - plan.first[0] : high - plan.first[0]] = rows[low - start : high - start]
    assert block is not None
    return block


def _stepper(model: Any, config: PassConfig, batch: int, chunk: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from the next ids (S, t) of each stream to their hidden states (S, t, D)."""
    if config.attention == "ring":
        state = model.new_state(batch, config.window, chunk)
        return lambda ids: model.step(ids, state)
    import torch

    run = getattr(model, "band_hidden", None) or _band_pass(model)  # stand-ins of a network bring their own
    if config.compile:
        run = torch.compile(run, dynamic=False)
    return lambda ids: run(ids, config.window)


def _band_pass(model: Any) -> Callable[[torch.Tensor, int], torch.Tensor]:
    from golf.models.block import AttentionModel, band_hidden

    if not isinstance(model, AttentionModel):
        raise ScoringError(
            f"attention is band, which {type(model).__name__} has no pass for: it keeps more than keys; expected ring"
        )
    return lambda ids, window: band_hidden(model, ids, window)


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
