"""Files that are written beside training: it copies what they hold and goes on, a thread writes.

Jobs run one after another in the order in which they came, so the disk holds at every moment what a run without the
thread held a little earlier, and a kill loses at most the jobs that had not ended. After an error no later job runs:
none may tell of a file that is not there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["Writer", "on_host"]

_WAITING = 1  # jobs that may wait, each with its copies, while one runs; at the next, training waits


def on_host(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """Copies of ``tensors`` as they are now in the host's memory, and what waits until they are there.

    From a GPU they go to pinned memory behind the work that it was given; whoever calls this waits for nothing.
    """
    copies = {
        name: torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor, non_blocking=True)
        for name, tensor in ((name, tensor.detach()) for name, tensor in tensors.items())
    }
    if not any(tensor.is_cuda for tensor in tensors.values()):
        return copies, lambda: None
    arrived = torch.cuda.Event()
    arrived.record()
    return copies, arrived.synchronize


class Writer:
    """A thread that runs jobs, within ``with``, whose end waits for them; a signal's or an exit's waits for nothing.

    The error of a job is raised by the next call, or by the end unless another error ends it.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue(_WAITING)
        self._error: Exception | None = None
        self._started = False

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        elif issubclass(kind, Exception):
            self._jobs.join()

    def write(self, job: Callable[[Mapping[str, Tensor]], None], tensors: Mapping[str, Tensor]) -> None:
        """Run ``job`` on copies of ``tensors``, in the thread."""
        self.check()
        copies, arrive = on_host(tensors)

        def run() -> None:
            arrive()
            job(copies)

        if not self._started:
            threading.Thread(target=self._work, name="golf-writer", daemon=True).start()
            self._started = True
        self._jobs.put(run)

    def check(self) -> None:
        """Raise the error of a job, if there was one."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until every job has ended, and raise the error of one, if there was one."""
        self._jobs.join()
        self.check()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if self._error is None:
                    job()
            except Exception as error:
                self._error = error
            finally:
                del job  # and the copies it holds
                self._jobs.task_done()
