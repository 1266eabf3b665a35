"""What one streaming pass leaves for the mixture: per target a few numbers of the neural distribution, cached on disk.

Shapes: n targets, N = n + 1 tokens, K temperatures, J candidates, R rows, S sampled rows, V vocabulary.

One pass over the logits, in reading order, gives the plain score, its tempered copies, and the ``NeuralRecord`` of the
distribution that the mixture lies over: the plain one, or that under the document bias (golf.mixture.bias), which
learns from each chunk after it was scored. Everything that needs whole rows happens here; the mixture then runs from
the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from golf.base.distributed import ALONE, Ranks
from golf.base.params import Count, Gt, Le
from golf.mixture.bias import DocumentBias, chunk_bounds
from golf.mixture.config import RecordConfig
from golf.mixture.counts import Contexts, candidates
from golf.mixture.record import NeuralRecord, StreamRecord, pieces
from golf.scoring.likeliest import LikeliestRows
from golf.scoring.network import HEAD_ROWS, Rows, checked_nats
from golf.scoring.results import Scored, make_score
from golf.scoring.streaming import PassConfig, iterate_stream_rows, serve_stream
from golf.scoring.text import ValidationText

if TYPE_CHECKING:
    import torch

__all__ = ["StreamingConfig", "probe_targets", "record_stream", "score_mode"]


@dataclass(frozen=True, kw_only=True)
class StreamingConfig(PassConfig, RecordConfig):
    """The pass, and what must be taken from its logits while they exist: what the mixture asks for, the
    ``temperatures`` of the tempered copies, and ``sampled_rows`` targets whose whole row is recorded, on which the
    mixture proves its sum."""

    temperatures: tuple[Annotated[float, Gt(0), Le(1000)], ...] = (0.8, 1.25)
    sampled_rows: Count = 256

    def __post_init__(self) -> None:
        PassConfig.__post_init__(self)
        RecordConfig.__post_init__(self)


def record_stream(
    model: Any,
    text: ValidationText,
    config: StreamingConfig,
    *,
    ranks: Ranks = ALONE,
    likeliest: LikeliestRows | None = None,
) -> StreamRecord:
    """One neural pass over the text; raises ``ScoringError`` when the window does not fit or weights are broken.

    ``likeliest`` is filled on the way. With several ``ranks`` rank 0 calls this while the others are in
    ``serve_stream``.
    """
    known = Contexts(text.tokens, text.doc_starts, orders=config.candidate_orders, vocab_size=text.vocab_size)
    counts = (known.read(piece.start, piece.stop) for piece in pieces(known.num_tokens))
    ids = np.concatenate([candidates(c, count=config.candidates, orders=config.candidate_orders) for c in counts])
    del known
    chunks = [
        (begin - 1, end - 1, starts)
        for begin, end, starts in chunk_bounds(text.doc_starts, len(text.tokens), config.bias_chunk_tokens)
    ]
    groups = list(_groups(chunks))
    sizes = (group[-1][1] - group[0][0] for group in groups)
    base, nats = _Gatherer(text, ids, config), np.zeros((1 + len(config.temperatures), text.num_targets))
    sampled = np.zeros((len(base.samples), text.vocab_size))
    bias: DocumentBias | None = None
    for rows, group in zip(iterate_stream_rows(model, text, config, sizes=sizes, ranks=ranks), groups, strict=True):
        logits = rows.logits.double()
        truth = logits.gather(1, rows.ids[:, None])[:, 0]
        tempered = [(logits / t).logsumexp(1) - truth / t for t in config.temperatures]
        log_probs = logits.sub_(logits.logsumexp(1, keepdim=True))
        taken = [-log_probs.gather(1, rows.ids[:, None])[:, 0], *tempered]
        base.sample(rows, log_probs, sampled)
        mixed = log_probs
        if config.bias:
            bias = bias or DocumentBias(text.vocab_size, config, log_probs.device)
            mixed = bias.apply(log_probs, rows.ids, group)
        taken += base.take(rows, mixed)
        first = int(rows.targets[0])
        taken += likeliest.take(first, log_probs) if likeliest is not None else []
        columns = _fetched(taken)
        for k in range(len(nats)):
            nats[k, rows.targets] = checked_nats(columns[k], rows.targets)
        columns = base.store(rows.targets, columns[len(nats) :])
        if likeliest is not None:
            likeliest.store(first, columns, mixed)
    return StreamRecord(base.record(), nats[0], nats[1:], sampled)


def probe_targets(num_targets: int, samples: int) -> np.ndarray:
    """int64 (S,): at most ``samples`` targets spread evenly from the first to the last."""
    return np.unique(np.linspace(0, num_targets - 1, num=min(samples, num_targets)).astype(np.int64))


def _groups(chunks: list[tuple[int, int, bool]]) -> Iterator[list[tuple[int, int, bool]]]:
    """Whole bias chunks, together at most ``HEAD_ROWS`` targets (or one chunk, if that is longer)."""
    group: list[tuple[int, int, bool]] = []
    for chunk in chunks:
        if group and chunk[1] - group[0][0] > HEAD_ROWS:
            yield group
            group = []
        group.append(chunk)
    if group:
        yield group


def _fetched(columns: list[torch.Tensor]) -> np.ndarray:
    """``columns`` (R,) of one group of rows as float64 (C, R): one wait for the GPU instead of one for each."""
    import torch

    return np.asarray(torch.stack([column.double() for column in columns]).cpu().numpy())


class _Gatherer:
    """Fills the arrays of one ``NeuralRecord`` from pieces of normalized rows."""

    def __init__(self, text: ValidationText, ids: np.ndarray, config: StreamingConfig) -> None:
        num, self._ids = len(text.tokens), ids
        self._nll, self._entropy, self._top = np.zeros(num), np.zeros(num), np.zeros(num)
        self._argmax, self._chosen = np.zeros(num, np.int32), np.zeros(ids.shape)
        self.samples = probe_targets(text.num_targets, config.sampled_rows) + 1  # positions
        self._rows = np.zeros((len(self.samples), text.vocab_size))

    def sample(self, rows: Rows, log_probs: torch.Tensor, into: np.ndarray) -> None:
        """Those of ``log_probs`` (R, V) that are of sampled positions ``into`` (S, V)."""
        import torch

        at = rows.targets + 1
        here = np.flatnonzero((self.samples >= at[0]) & (self.samples <= at[-1]))
        if len(here):
            into[here] = log_probs[torch.from_numpy(self.samples[here] - at[0])].cpu().numpy()

    def take(self, rows: Rows, log_probs: torch.Tensor) -> list[torch.Tensor]:
        """What is needed of ``log_probs`` (R, V), float64, as columns (R,); sampled rows are stored at once."""
        import torch

        at = rows.targets + 1
        top, argmax = log_probs.max(dim=1)
        entropy = torch.einsum("rv,rv->r", log_probs.exp(), log_probs).neg()
        ids = torch.from_numpy(np.maximum(self._ids[at], 0).astype(np.int64)).to(log_probs.device)
        self.sample(rows, log_probs, self._rows)
        nats = -log_probs.gather(1, rows.ids[:, None])[:, 0]
        return [nats, top, argmax, entropy, *log_probs.gather(1, ids).unbind(1)]

    def store(self, targets: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Store the ``columns`` (C, R) of ``take`` for ``targets``; returns the columns behind them."""
        at, used = targets + 1, 4 + self._ids.shape[1]
        self._nll[at] = checked_nats(columns[0], targets)
        self._top[at], self._argmax[at], self._entropy[at] = columns[1], columns[2].astype(np.int32), columns[3]
        self._chosen[at] = columns[4:used].T
        return columns[used:]

    def record(self) -> NeuralRecord:
        """The finished record; the stream's first token is not scored."""
        scored = np.arange(len(self._nll)) > 0
        return NeuralRecord(
            nll=self._nll,
            entropy=self._entropy,
            argmax=self._argmax,
            argmax_log_prob=self._top,
            candidate_log_prob=self._chosen,
            scored=scored,
            sample_positions=self.samples,
            sample_log_probs=self._rows,
        )


def score_mode(name: str, model: Any, text: ValidationText, config: StreamingConfig, ranks: Ranks) -> Scored | None:
    """Each token once, and from the same logits the record for the mixture and the likeliest tokens, for the report;
    rank 0 gathers them."""
    if ranks.rank:
        serve_stream(model, text, config, ranks)
        return None
    likeliest = LikeliestRows(text)
    record = record_stream(model, text, config, ranks=ranks, likeliest=likeliest)
    return Scored(make_score(name, text, record.nats), record.tensors() | likeliest.tensors())
