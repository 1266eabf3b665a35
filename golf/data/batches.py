"""Which tokens the model sees at which step: a pure function of (seed, step, shards).

The stream is cut into ``num_sequences`` windows of ``sequence_length + 1`` tokens (neighbors share one token, so that
every token but the first is a target once per epoch). Draw ``k`` of the run takes window ``permute(k mod n)`` with a
permutation keyed by the seed and the epoch ``k // n``; step ``s`` takes draws ``s B`` to ``(s + 1) B - 1``. Nothing
depends on the number of processes, the micro batch or a resume. The permutation is a Feistel network with cycle
walking, so no table of the windows is needed, however many there are.

Shapes: ``B`` sequences in the global batch, ``L`` tokens in a sequence.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from golf.base.errors import GolfError

__all__ = ["Batches", "TokenSource", "permute", "prefetch"]

_ROUNDS = 4
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # SplitMix64


class TokenSource(Protocol):
    """Random access to a token stream (``golf.data.shards`` gives memory-mapped ones)."""

    @property
    def num_tokens(self) -> int:
        """Tokens in the stream."""
        ...

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens ``start`` to ``start + length - 1`` as uint16."""
        ...


def _hash(values: np.ndarray, key: int) -> np.ndarray:
    """SplitMix64 finalizer of ``values + key * golden``, uint64 in and out (arithmetic modulo 2**64)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64((key * int(_MIX[0])) & 0xFFFFFFFFFFFFFFFF)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[1]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[2]
    return mixed ^ (mixed >> np.uint64(31))


def permute(values: np.ndarray, size: int, key: int) -> np.ndarray:
    """Map integers of [0, ``size``) one to one onto [0, ``size``), in a random-looking order that depends on ``key``.

    A balanced Feistel network on the next even number of bits, applied again to results beyond ``size`` (cycle
    walking; at most 4 rounds on average). ``values`` int64, any shape; returns int64.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    out = values.astype(np.uint64).reshape(-1)
    pending = np.arange(out.size)
    while pending.size:
        left, right = out[pending] >> np.uint64(half), out[pending] & mask
        for round_number in range(_ROUNDS):
            left, right = right, left ^ (_hash(right, key * _ROUNDS + round_number + 1) & mask)
        out[pending] = (left << np.uint64(half)) | right
        pending = pending[out[pending] >= np.uint64(size)]
    return out.astype(np.int64).reshape(values.shape)


@dataclass(frozen=True)
class Batches:
    """Global batches over a token stream. Raises ``GolfError`` when the stream is shorter than one sequence."""

    source: TokenSource
    sequence_length: int  # L, tokens in a sequence
    sequences_per_step: int  # B, sequences in the global batch
    seed: int
    vocab_size: int

    def __post_init__(self) -> None:
        """Check sizes."""
        if self.sequence_length < 1 or self.sequences_per_step < 1:
            raise GolfError(f"found {self.sequences_per_step} sequences of {self.sequence_length}, expected 1 or more")
        if self.source.num_tokens < self.sequence_length + 1:
            raise GolfError(
                f"the training split has {self.source.num_tokens} tokens, one sequence needs "
                f"{self.sequence_length + 1}; lower train.sequence_length or give `tokenize` more text"
            )

    @property
    def num_sequences(self) -> int:
        """Windows in one epoch."""
        return (self.source.num_tokens - 1) // self.sequence_length

    def windows(self, step: int) -> np.ndarray:
        """Window numbers (B,) int64 of the global batch at ``step`` (from 0)."""
        draws = step * self.sequences_per_step + np.arange(self.sequences_per_step, dtype=np.int64)
        epochs, places = np.divmod(draws, self.num_sequences)
        out = np.empty_like(places)
        for epoch in np.unique(epochs):
            digest = hashlib.sha256(f"golf batches {self.seed} {epoch}".encode()).digest()
            chosen = epochs == epoch
            out[chosen] = permute(places[chosen], self.num_sequences, int.from_bytes(digest[:6], "little"))
        return out

    def rows(self, windows: np.ndarray) -> np.ndarray:
        """Tokens (len(windows), L + 1) int64: inputs are ``[:, :-1]``, targets ``[:, 1:]``.

        Raises ``GolfError`` for a token id outside the vocabulary.
        """
        length = self.sequence_length
        out = np.empty((len(windows), length + 1), dtype=np.int64)
        for row, window in enumerate(windows):
            out[row] = self.source.read(int(window) * length, length + 1)
        if out.size and int(out.max()) >= self.vocab_size:
            raise GolfError(
                f"training split: token id {int(out.max())} is outside the vocabulary of {self.vocab_size}; "
                "re-run tokenize, the shards and the tokenizer do not belong together"
            )
        return out

    def share(self, step: int, rank: int = 0, world: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """``(windows (B,), rows (B / world, L + 1))``: the whole batch's window numbers, and this rank's tokens."""
        if self.sequences_per_step % world:
            total = self.sequences_per_step
            valid = [n for n in range(1, total + 1) if total % n == 0]
            raise GolfError(f"{total} sequences do not divide over {world} processes; use one of {valid}")
        windows = self.windows(step)
        local = self.sequences_per_step // world
        return windows, self.rows(windows[rank * local : (rank + 1) * local])


def prefetch(
    batches: Batches,
    first: int,
    stop: int,
    *,
    rank: int = 0,
    world: int = 1,
    ahead: int = 4,
    prepare: Callable[[np.ndarray], Any] = lambda rows: rows,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield ``batches.share(step)`` for steps ``first`` to ``stop - 1``, read ``ahead`` by a background thread.

    That thread also calls ``prepare`` on the rows (to move them into pinned memory), so the consumer never waits for
    it. An error of the thread is raised here; closing the iterator ends the thread.
    """
    ready: queue.Queue[tuple[np.ndarray, Any] | BaseException] = queue.Queue(maxsize=ahead)
    closed = threading.Event()

    def put(item: tuple[np.ndarray, Any] | BaseException) -> None:
        while not closed.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        for step in range(first, stop):
            if closed.is_set():
                return
            try:
                windows, rows = batches.share(step, rank, world)
                item = windows, prepare(rows)
            except Exception as error:  # handed to the consumer, which raises it
                return put(error)
            put(item)

    thread = threading.Thread(target=work, name="golf-prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(first, stop):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
