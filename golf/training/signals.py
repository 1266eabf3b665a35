"""Stop requests as a flag the training loop reads between two steps, and no orphans."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopFlag", "TrainingInterrupted", "end_with_parent", "stop_on_signals"]

_PR_SET_PDEATHSIG = 1


class TrainingInterrupted(Exception):
    """A signal ended training after the checkpoint was saved; ``exit_code`` is 128 + its number."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"{signal.Signals(signum).name} after step {step}: checkpoint saved, run again to continue")
        self.exit_code = 128 + signum


class StopFlag:
    """``signum`` is the signal that asked to stop, 0 before."""

    def __init__(self) -> None:
        self.signum = 0


@contextmanager
def stop_on_signals(*, grace_seconds: int = 0) -> Iterator[StopFlag]:
    """Turn SIGTERM and SIGINT into a flag; a second one ends the process at once. Main thread only.

    With ``grace_seconds`` above 0 the process ends by SIGALRM when it has not stopped by then: one that waits for a
    process that no longer exists would wait for ever.
    """
    flag = StopFlag()

    def handle(signum: int, frame: FrameType | None) -> None:
        if flag.signum:
            raise SystemExit(128 + signum)
        flag.signum = signum
        signal.alarm(grace_seconds)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        signal.alarm(0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_with_parent(parent: int) -> None:
    """Ask Linux to send SIGTERM when the parent (dvc, torchrun) dies, so that no trainer is left running.

    ``parent`` is its process id, read at the start of the process: when it is already gone, leave at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            raise SystemExit(128 + signal.SIGTERM)
