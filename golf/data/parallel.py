"""Map over a stream with worker processes, in order, holding only a few items at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import TypeVar

from golf.data.documents import CorpusError

S = TypeVar("S")
T = TypeVar("T")

__all__ = ["ordered_map"]

_IN_FLIGHT = 64  # items waiting or running; bounds memory, keeps any number of cores we meet busy


def ordered_map(function: Callable[[S], T], items: Iterable[S], pool: ProcessPoolExecutor | None) -> Iterator[T]:
    """Yield ``function(item)`` in the order of ``items``; without a pool it runs here.

    Unlike ``multiprocessing.Pool.imap`` it does not read the whole of ``items`` ahead, so a corpus can be a stream.
    Raises ``CorpusError`` when a worker process dies.
    """
    if pool is None:
        yield from map(function, items)
        return
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenExecutor as error:
        raise CorpusError("a worker process died, perhaps for want of memory; lower GOLF_PROCESSES") from error
    finally:
        for future in waiting:
            future.cancel()
