"""The real scorers behind the interface of the checks.

Shapes: N tokens, n = N-1 targets, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from golf.base.distributed import ALONE, Ranks
from golf.mixture.config import MixtureConfig
from golf.mixture.stream import MixtureState
from golf.scoring.modes import run_mode
from golf.scoring.network import Rows, iterate_rows, target_nats
from golf.scoring.record_stream import record_stream
from golf.scoring.results import Score
from golf.scoring.text import ValidationText
from golf.scoring.ttt import DocumentWeights, iterate_ttt
from golf.verify.checks import Commit
from golf.verify.fakes import EchoModel, MemoModel

__all__ = ["HedgeScorer", "ModeScorer", "NeuralScorer", "TttScorer", "config_value", "mode_scorer", "with_values"]


def config_value(config: Any, key: str) -> Any:
    """The value of ``key`` in a scorer's parameters or, failing that, in a section of them; else None."""
    if hasattr(config, key):
        return getattr(config, key)
    nested = (getattr(config, field.name) for field in dataclasses.fields(config))
    return next((getattr(part, key) for part in nested if dataclasses.is_dataclass(part) and hasattr(part, key)), None)


def with_values(config: Any, **values: Any) -> Any:
    """``config`` with the given values where it, or a section in it, has such a key."""
    names = {field.name for field in dataclasses.fields(config)}
    for name in names:
        part = getattr(config, name)
        if dataclasses.is_dataclass(part):
            config = dataclasses.replace(config, **{name: with_values(part, **values)})
    return dataclasses.replace(config, **{key: value for key, value in values.items() if key in names})


@dataclasses.dataclass(frozen=True)
class ModeScorer:
    """A mode of evaluation as the checks see it: the functions that the stages run, on tokens given as an array.

    Documents begin at each ``bos_id`` and at the stream's first token, as in the shards.
    """

    name: str
    model: Any
    config: Any
    vocab_size: int
    bos_id: int
    crosses_documents: bool = True
    ranks: Ranks = ALONE

    def text(self, tokens: np.ndarray) -> ValidationText:
        """The stream as scorers take it; its bytes are of no interest here (one for each document)."""
        starts = np.unique(np.concatenate([[0], np.flatnonzero(tokens == self.bos_id)])).astype(np.int64)
        return ValidationText(tokens.astype(np.int64), starts, np.ones(len(starts), dtype=np.int64), self.vocab_size)

    def run(self, tokens: np.ndarray) -> Score:
        """The whole result of the mode."""
        return run_mode(self.name, self.model, self.text(tokens), self.config, self.ranks).score

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Nats of every target, float64 (N-1,)."""
        return self.run(tokens).nats

    def total_nats(self, tokens: np.ndarray) -> float:
        """The sum that the mode's bits per byte is made of."""
        return self.run(tokens).total_nats

    def coverage(self, num_targets: int) -> np.ndarray:
        """How often each target's nats enter the documents' sums; -1 where they enter no whole number of times.

        Measured on a stream in which each token is a document of its own, so that sums come back singly.
        """
        starts = np.arange(num_targets + 1, dtype=np.int64)
        text = ValidationText(starts % self.vocab_size, starts, np.ones_like(starts), self.vocab_size)
        score = run_mode(self.name, self.model, text, self.config).score
        return _multiples(score.doc_nats[1:], score.nats)

    def changed(self, **values: Any) -> ModeScorer:
        """The same scorer with other values of its parameters."""
        return dataclasses.replace(self, config=with_values(self.config, **values))

    def memoized(self) -> ModeScorer:
        """The same scorer over a network that computes equal inputs once."""
        return dataclasses.replace(self, model=MemoModel(self.model))


@dataclasses.dataclass(frozen=True)
class NeuralScorer(ModeScorer):
    """A mode whose score is the network's own: it shows its distribution, and its windows can be traced."""

    def distribution(self, prefix: np.ndarray) -> np.ndarray:
        """Softmax float64 (V,) of the logits that the mode itself would score the token behind ``prefix`` with."""
        text = self.text(np.append(prefix, prefix[-1]))
        if self.name == "streaming":  # of two sampled rows or more, one is the last target's
            config = with_values(self.config, sampled_rows=2)
            return np.asarray(np.exp(record_stream(self.model, text, config).sample_log_probs[-1]))
        logits = next(rows.logits[-1] for rows in self._rows(text) if rows.targets[-1] == text.num_targets - 1)
        return np.asarray(logits.double().softmax(-1).cpu().numpy())

    def coverage(self, num_targets: int) -> np.ndarray:
        """How often each target enters the mode's sum, measured: an ``EchoModel`` gives each its own known nats.

        -1 stands for nats that are no multiple of the target's own (a row scored against another target).
        """
        echo = EchoModel(num_targets + 1)
        starts = np.arange(num_targets + 1, dtype=np.int64)  # each token a document, so that nats come back singly
        text = ValidationText(starts.copy(), starts, np.ones_like(starts), num_targets + 1)
        config = with_values(self.config, sampled_rows=1)
        return _multiples(run_mode(self.name, echo, text, config).score.doc_nats[1:], echo.nats())

    def _rows(self, text: ValidationText) -> Iterator[Rows]:
        config = self.config
        plan = config.plan(text.num_targets)
        return iterate_rows(self.model, text, plan, batch=config.batch, precision=config.precision)


@dataclasses.dataclass(frozen=True)
class HedgeScorer(ModeScorer):
    """The online mixture: it can be replayed one token at a time from the rows of its neural pass."""

    def replay(self, tokens: np.ndarray) -> Iterator[Commit]:
        """``MixtureState`` fed with the whole rows that the streaming pass scores the tokens with.

        The state's hash is that of its answer to an even distribution, which shows counts, gates and weights at once.
        """
        rows, state, starts = self._start(tokens)
        even = np.full(self.vocab_size, -np.log(self.vocab_size))
        for target in range(len(tokens) - 1):
            before = _digest(state.distribution(even))
            row = state.distribution(rows[target])
            scored = _digest(state.distribution(even))
            again = state.distribution(rows[target])  # what the state learns against, equal to what was scored
            token = int(tokens[target + 1])
            state.update(token, starts_document=target + 1 in starts)
            nats = float(-np.log(row[token])) if np.array_equal(row, again) else np.inf
            yield Commit(nats, before, scored, _digest(state.distribution(even)))

    def distribution(self, prefix: np.ndarray) -> np.ndarray:
        """The mixture's whole row (V,) for the token behind ``prefix``, by the one-token form of its kernels."""
        rows, state, starts = self._start(np.append(prefix, prefix[-1]))
        for target in range(len(prefix) - 1):
            state.distribution(rows[target])
            state.update(int(prefix[target + 1]), starts_document=target + 1 in starts)
        return state.distribution(rows[-1])

    def _start(self, tokens: np.ndarray) -> tuple[np.ndarray, MixtureState, set[int]]:
        """Neural rows (n,V) of all targets, the state behind the first token, and where documents start."""
        streaming, hedge = self.config.streaming, self.config.hedge
        text = self.text(tokens)
        record = record_stream(self.model, text, with_values(streaming, sampled_rows=text.num_targets))
        rows = record.base.sample_log_probs
        state = MixtureState(MixtureConfig(streaming, hedge), vocab_size=self.vocab_size)
        state.update(int(tokens[0]), starts_document=True)
        return rows, state, set(text.doc_starts.tolist())


@dataclasses.dataclass(frozen=True)
class TttScorer(NeuralScorer):
    """Test-time training: the network's own rows, and the weights that learn as the state that is hashed."""

    crosses_documents: bool = False

    def distribution(self, prefix: np.ndarray) -> np.ndarray:
        """Softmax float64 (V,) of the row that scores the token behind ``prefix``, after all learning before it."""
        text = self.text(np.append(prefix, prefix[-1]))
        last = text.num_targets - 1
        found = (rows.logits[rows.targets == last] for rows in iterate_ttt(self.model, text, self.config))
        row = next(logits[0] for logits in found if len(logits))
        return np.asarray(row.double().softmax(-1).cpu().numpy())

    def coverage(self, num_targets: int) -> np.ndarray:
        """As of any network, on the plan in use; the stand-in network has nothing that could learn."""
        return NeuralScorer.coverage(self.changed(learning_rate=0.0), num_targets)  # type: ignore[arg-type]

    def memoized(self) -> ModeScorer:
        """Itself: a network that learns is no function of its inputs."""
        return self

    def replay(self, tokens: np.ndarray) -> Iterator[Commit]:
        """Document by document: hashes of weights and optimizer around each token's score. What a piece taught, and
        that the next document begins anew, shows behind its last token."""
        weights, config = DocumentWeights(self.model, self.config), with_values(self.config, batch=1)
        last = None
        for rows in iterate_ttt(self.model, self.text(tokens), config, weights=weights):
            before = weights.digest()
            if last is not None:  # the piece before has taught its weights by now
                yield dataclasses.replace(last, learnt=before)
            nats = target_nats(rows)
            scored = weights.digest()
            commits = [Commit(float(value), before, scored, scored) for value in nats]
            yield from commits[:-1]
            last = commits[-1]
        if last is not None:
            yield last


def mode_scorer(name: str, model: Any, config: Any, *, vocab_size: int, bos_id: int) -> ModeScorer:
    """The scorer of mode ``name`` with its parameters, as ``golf.scoring.modes.load_modes`` gives them."""
    kind: type[ModeScorer] = {"hedge": HedgeScorer, "ttt": TttScorer}.get(name, NeuralScorer)
    return kind(name, model, config, vocab_size, bos_id)


def _digest(row: np.ndarray) -> str:
    return hashlib.sha256(row.tobytes()).hexdigest()


def _multiples(found: np.ndarray, single: np.ndarray) -> np.ndarray:
    counts = found / np.maximum(single, 1e-300)
    whole = np.round(counts)
    return np.where(np.abs(counts - whole) < 1e-3, whole, -1.0).astype(np.int64)
