"""One token per stream through the model, the very same way on both sides.

Coding needs each probability to the last bit, and float32 sums depend on batch shape, thread count and kernel. So
encoder and decoder make the same calls: chunk 1, the same streams in the same batches, the same threads.

``fast`` runs one batch of all streams on torch's own threads: the result belongs to that thread count. ``portable``
cuts the streams into shards of ``SHARD`` and computes each shard on one thread, so the order of every sum is the same
for any number of workers. Both belong to one build of torch and one CPU instruction set, named by ``machine_name``.
``integer`` is another network (``golf.textcodec.integer``), whose bits do not depend on any of this: the encoder, who
knows the tokens, runs ``AHEAD`` steps in one pass, the decoder one.

Shapes: S streams, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from golf.base.jit import kernel
from golf.textcodec.integer.exact import LOGIT_STEPS
from golf.textcodec.integer.network import IntegerNetwork
from golf.textcodec.integer.rows import probabilities
from golf.textcodec.layout import Arithmetic, CodecError

__all__ = ["SHARD", "IntegerStepper", "Stepper", "log_softmax_rows", "machine_name", "open_stepper"]

AHEAD = 16  # steps of one pass of the integer network in coding: speed only, as long as a pass fits the cache
BROKEN = "the model's logits are not finite: the artifact's weights are broken"
SHARD = 64  # chosen on a busy 2-core machine, where 2 x 32 on two threads was slower; part of the format


def machine_name() -> str:
    """What the bits of the probabilities depend on besides the thread count: builds, precision, instruction set."""
    import numba

    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__} numpy {np.__version__} numba {numba.__version__} float32 {capability}"


class Stepper:
    """The model with ``streams`` empty contexts; ``step`` feeds each one token."""

    def __init__(self, model: Any, pool: ThreadPoolExecutor | None, *, streams: int, window: int) -> None:
        self._model = model
        self._pool = pool
        size = streams if pool is None else SHARD
        self._shards = [slice(first, min(first + size, streams)) for first in range(0, streams, size)]
        with torch.inference_mode():
            self._states = [model.new_state(shard.stop - shard.start, window, 1) for shard in self._shards]

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Feed ``ids`` (S,) int64; log-probabilities (S, V) float64 of each stream's next token."""
        jobs = [(ids[shard], state) for shard, state in zip(self._shards, self._states, strict=True)]
        if self._pool is None:
            return self._rows(jobs[0])
        return np.concatenate(list(self._pool.map(self._rows, jobs)))

    def _rows(self, job: tuple[np.ndarray, Any]) -> np.ndarray:
        ids, state = job
        with torch.inference_mode():  # a setting of the thread that runs this
            logits = self._model.logits(self._model.step(torch.from_numpy(ids[:, None].copy()), state)[:, -1])
        rows = np.asarray(log_softmax_rows(logits.numpy()))
        if not np.isfinite(rows).all():
            raise CodecError(BROKEN)
        return rows


class IntegerStepper:
    """The integer-exact network with ``streams`` empty contexts; ``step`` feeds each one token.

    With ``inputs`` (S, steps), all that will be fed, rows are computed ``AHEAD`` steps at a time.
    """

    def __init__(
        self, network: IntegerNetwork, inputs: np.ndarray | None, *, streams: int, window: int, probabilities: bool
    ) -> None:
        self._network, self._inputs, self._probabilities = network, inputs, probabilities
        with torch.inference_mode():
            self._state = network.new_state(streams, window, 1 if inputs is None else AHEAD)
        self._step = 0
        self._rows = np.empty((0, 0, 0))  # (steps, S, V)

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Feed ``ids`` (S,) int64; log-probabilities or probabilities (S, V) float64 of each stream's next token."""
        if self._inputs is None:
            return self._pass(ids[:, None])[0]
        place, self._step = self._step % AHEAD, self._step + 1
        assert np.array_equal(ids, self._inputs[:, self._step - 1]), "the tokens coded are those announced"
        if place == 0:
            self._rows = self._pass(self._inputs[:, self._step - 1 : self._step - 1 + AHEAD])
        return np.asarray(self._rows[place])

    def _pass(self, ids: np.ndarray) -> np.ndarray:
        """Rows (t, S, V) of ``ids`` (S, t)."""
        with torch.inference_mode():
            hidden = self._network.step(torch.from_numpy(np.ascontiguousarray(ids)), self._state)
            logits = self._network.integer_logits(hidden.transpose(0, 1).contiguous()).numpy()
        if not np.isfinite(logits).all():
            raise CodecError(BROKEN)
        flat = logits.reshape(-1, logits.shape[-1])
        rows = probabilities(flat) if self._probabilities else log_softmax_rows(flat / LOGIT_STEPS)
        return np.asarray(rows).reshape(logits.shape)


@kernel
def log_softmax_rows(logits):  # type: ignore[no-untyped-def]
    """Normalized float64 log-probabilities (S, V), each row summed in index order."""
    rows = np.empty(logits.shape, np.float64)
    for s in range(logits.shape[0]):
        top = logits[s, 0]
        for v in range(logits.shape[1]):
            top = max(top, logits[s, v])
        total = 0.0
        for v in range(logits.shape[1]):
            rows[s, v] = np.float64(logits[s, v]) - np.float64(top)
            total += np.exp(rows[s, v])
        shift = np.log(total)
        for v in range(logits.shape[1]):
            rows[s, v] -= shift
    return rows


@contextlib.contextmanager
def open_stepper(
    model: Any, *, arithmetic: Arithmetic, threads: int, probabilities: bool = False
) -> Iterator[Callable[[int, int, np.ndarray | None], Any]]:
    """Yield ``make(streams, window, inputs)``, a stepper, with the threads set; they are restored at the end.

    ``inputs`` (S, steps) are the tokens that will be fed, where they are known, else None; ``probabilities`` wants
    those instead of their logarithms (``integer`` only). ``model`` is copied into memory of torch's own alignment,
    because the matrix kernels of a CPU may sum unaligned data in another order. It must be on the CPU. Raises
    ``IntegerError`` for a model that ``integer`` does not know.
    """
    if next(iter(model.parameters())).device.type != "cpu":
        raise CodecError("the text codec computes on the CPU; give it the model as it was decoded")
    before = torch.get_num_threads()
    pool = None
    try:
        if arithmetic == "integer":
            network = IntegerNetwork(model)
        else:
            aligned = copy.deepcopy(model).eval()
        if arithmetic == "portable":
            torch.set_num_threads(1)
            pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        else:
            torch.set_num_threads(threads)

        def make(streams: int, window: int, inputs: np.ndarray | None) -> Any:
            if arithmetic == "integer":
                return IntegerStepper(network, inputs, streams=streams, window=window, probabilities=probabilities)
            return Stepper(aligned, pool, streams=streams, window=window)

        yield make
    finally:
        if pool is not None:
            pool.shutdown()
        torch.set_num_threads(before)
