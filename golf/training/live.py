"""DVCLive as an optional place for the run's curves; the run log and the history file need none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from golf.base.errors import GolfError

__all__ = ["Sink", "live_sink"]

Sink = Callable[[int, Mapping[str, float]], None]


def _nothing(step: int, values: Mapping[str, float]) -> None:
    """Where points go when nobody collects them."""


@contextmanager
def live_sink(folder: str | Path, *, enabled: bool) -> Iterator[Sink]:
    """A function ``(step, values)`` that logs a point into DVCLive's ``folder``; one that does nothing when disabled.

    A resumed run appends to the folder. Raises ``GolfError`` when DVCLive is wanted and not installed.
    """
    if not enabled:
        yield _nothing
        return
    try:
        from dvclive import Live
    except ModuleNotFoundError as error:
        raise GolfError("train.live is true, but dvclive is not installed; install it or set live to false") from error

    with Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=Path(folder).exists()) as live:

        def point(step: int, values: Mapping[str, float]) -> None:
            live.step = step
            for name, value in values.items():
                live.log_metric(name, value)
            live.sync()

        yield point
