"""One token per stream through the model, the very same way on both sides.

Coding needs each probability to the last bit, and float32 sums depend on batch shape, thread count and kernel. So
encoder and decoder make the same calls: chunk 1, the same streams in the same batches, the same threads.

``fast`` runs one batch of all streams on torch's own threads: the result belongs to that thread count. ``portable``
cuts the streams into shards of ``SHARD`` and computes each shard on one thread, so the order of every sum is the same
for any number of workers. Both belong to one build of torch and one CPU instruction set, named by ``machine_name``.

Shapes: S streams, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit

from golf.textcodec.layout import Arithmetic, CodecError

__all__ = ["SHARD", "Stepper", "log_softmax_rows", "machine_name", "open_stepper"]

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
            raise CodecError("the model's logits are not finite: the artifact's weights are broken")
        return rows


@njit(cache=True, nogil=True)
def log_softmax_rows(logits):  # type: ignore[no-untyped-def]
    """Normalised float64 log-probabilities (S, V), each row summed in index order."""
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
def open_stepper(model: Any, *, arithmetic: Arithmetic, threads: int) -> Iterator[Any]:
    """Yield ``make(streams, window) -> Stepper`` with the threads set; they are restored at the end.

    ``model`` is copied into memory of torch's own alignment, because the matrix kernels of a CPU may sum unaligned
    data in another order. It must be on the CPU.
    """
    if next(iter(model.parameters())).device.type != "cpu":
        raise CodecError("the text codec computes on the CPU; give it the model as it was decoded")
    aligned = copy.deepcopy(model).eval()
    before = torch.get_num_threads()
    pool = None
    try:
        if arithmetic == "portable":
            torch.set_num_threads(1)
            pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        else:
            torch.set_num_threads(threads)

        def make(streams: int, window: int) -> Stepper:
            return Stepper(aligned, pool, streams=streams, window=window)

        yield make
    finally:
        if pool is not None:
            pool.shutdown()
        torch.set_num_threads(before)
