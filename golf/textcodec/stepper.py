"""One token per stream through the model, the very same way on both sides.

Coding needs each probability to the last bit, and float32 sums depend on batch shape, thread count and kernel. So
encoder and decoder make the same calls: chunk 1, the same streams in the same batches, the same threads.

``fast`` runs one batch of all streams on torch's own threads: the result belongs to that thread count. ``portable``
cuts the streams into shards of ``SHARD`` and computes each shard on one thread, so the order of every sum is the same
for any number of workers. Both belong to one build of torch and one CPU instruction set, named by ``machine_name``.
``integer`` is another network (``golf.textcodec.integer``), whose bits do not depend on any of this: the encoder, who
knows the tokens, runs ``AHEAD`` steps in one pass, the decoder one. It needs no torch.

Shapes: S streams, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from golf.textcodec.integer.exact import LOGIT_STEPS
from golf.textcodec.integer.network import IntegerNetwork
from golf.textcodec.layout import Arithmetic, CodecError
from golf.textcodec.model import TextModel

__all__ = ["SHARD", "IntegerStepper", "Stepper", "machine_name", "open_stepper"]

AHEAD = 64  # steps of one pass of the integer network in coding: speed only, as long as a pass fits the cache
BROKEN = "the model's logits are not finite: the artifact's weights are broken"
SHARD = 64  # chosen on a busy 2-core machine, where 2 x 32 on two threads was slower; part of the format


def machine_name() -> str:
    """What the bits of the float network depend on besides the thread count: build, precision, instruction set."""
    import torch

    return f"torch {torch.__version__} float32 {torch.backends.cpu.get_cpu_capability()}"


class Stepper:
    """The model with ``streams`` empty contexts; ``step`` feeds each one token."""

    def __init__(self, model: Any, pool: ThreadPoolExecutor | None, *, streams: int, window: int) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._pool = pool
        size = streams if pool is None else SHARD
        self._shards = [slice(first, min(first + size, streams)) for first in range(0, streams, size)]
        with torch.inference_mode():
            self._states = [model.new_state(shard.stop - shard.start, window, 1) for shard in self._shards]

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Feed ``ids`` (S,) int64; logits (S, V) float64 of each stream's next token."""
        jobs = [(ids[shard], state) for shard, state in zip(self._shards, self._states, strict=True)]
        if self._pool is None:
            return self._rows(jobs[0])
        return np.concatenate(list(self._pool.map(self._rows, jobs)))

    def _rows(self, job: tuple[np.ndarray, Any]) -> np.ndarray:
        ids, state = job
        with self._torch.inference_mode():  # a setting of the thread that runs this
            hidden = self._model.step(self._torch.from_numpy(ids[:, None].copy()), state)
            logits = self._model.logits(hidden[:, -1]).double().numpy()
        if not np.isfinite(logits).all():
            raise CodecError(BROKEN)
        return np.asarray(logits)


class IntegerStepper:
    """The integer-exact network with ``streams`` empty contexts; ``step`` feeds each one token.

    With ``inputs`` (S, steps), all that will be fed, rows are computed ``AHEAD`` steps at a time. ``pool`` shares the
    streams among ``threads``.
    """

    def __init__(
        self, network: IntegerNetwork, pool: ThreadPoolExecutor, threads: int, inputs: np.ndarray | None, *,
        streams: int, window: int,
    ) -> None:  # fmt: skip
        self._inputs, self._pool = inputs, pool
        self._state = network.stream(streams, window, 1 if inputs is None else min(AHEAD, inputs.shape[1]))
        each = -(-streams // threads)
        self._shards = [slice(first, min(first + each, streams)) for first in range(0, streams, each)]
        self._step, self._ahead = 0, np.empty((0, 0, 0), np.int32)  # (S, steps, V)

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Feed ``ids`` (S,) int64; logits (S, V) float64 of each stream's next token."""
        place, self._step = self._step % AHEAD, self._step + 1
        if self._inputs is None:
            self._ahead, place = self._pass(ids[:, None]), 0
        else:
            if not np.array_equal(ids, self._inputs[:, self._step - 1]):
                raise RuntimeError("the tokens coded are not those announced")
            if place == 0:
                self._ahead = self._pass(self._inputs[:, self._step - 1 : self._step - 1 + AHEAD])
        return self._ahead[:, place] * (1.0 / LOGIT_STEPS)

    def _pass(self, ids: np.ndarray) -> np.ndarray:
        """Logits (S, t, V) in whole steps of ``ids`` (S, t)."""
        self._state.rotations(ids.shape[1])  # before threads share the tables
        jobs = [self._pool.submit(self._state.logits, ids[shard], shard.start) for shard in self._shards]
        parts = [job.result() for job in jobs]
        self._state.advance(ids.shape[1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@contextlib.contextmanager
def open_stepper(
    model: TextModel, *, arithmetic: Arithmetic, threads: int
) -> Iterator[Callable[[int, int, np.ndarray | None], Any]]:
    """Yield ``make(streams, window, inputs)``, a stepper, with the threads set; they are restored at the end.

    ``inputs`` (S, steps) are the tokens that will be fed, where they are known, else None. Raises ``IntegerError`` for
    a model that ``integer`` does not know.
    """
    if arithmetic != "integer":
        with _float_steppers(model.model, portable=arithmetic == "portable", threads=threads) as make:
            yield make
        return
    network = IntegerNetwork(model.config, model.arrays)
    with ThreadPoolExecutor(threads) as pool:
        yield lambda streams, window, inputs: IntegerStepper(
            network, pool, threads, inputs, streams=streams, window=window
        )


@contextlib.contextmanager
def _float_steppers(
    model: Any, *, portable: bool, threads: int
) -> Iterator[Callable[[int, int, np.ndarray | None], Stepper]]:
    """``model`` is copied into memory of torch's own alignment, because the matrix kernels of a CPU may sum unaligned
    data in another order."""
    import torch

    before, pool = torch.get_num_threads(), None
    aligned = copy.deepcopy(model).eval()
    try:
        torch.set_num_threads(1 if portable else threads)
        if portable:
            pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        yield lambda streams, window, inputs: Stepper(aligned, pool, streams=streams, window=window)
    finally:
        if pool is not None:
            pool.shutdown()
        torch.set_num_threads(before)
