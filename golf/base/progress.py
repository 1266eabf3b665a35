"""Progress bars that stay quiet when nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")

__all__ = ["bar", "progress"]


def progress(items: Iterable[T], *, what: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """Iterate over ``items`` showing a bar labeled ``what`` on stderr; silent when stderr is no terminal."""
    if not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, unit=unit, leave=False)


def bar(*, what: str, total: int, unit: str = "it", unit_scale: bool = True, quiet: bool = False) -> Any:
    """A manual bar (``update(n)``, ``close()``, context manager); silent when ``quiet`` or stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        return _Quiet()
    from tqdm import tqdm  # 0.1 s, which who sees no bar need not wait for

    return tqdm(desc=what, total=total, unit=unit, unit_scale=unit_scale, leave=False)


class _Quiet:
    """A bar that nobody sees."""

    n = 0

    def update(self, n: float = 1) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *error: object) -> None: ...
