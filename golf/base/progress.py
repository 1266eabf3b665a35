"""Progress bars that stay quiet when nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

__all__ = ["bar", "progress"]


def progress(items: Iterable[T], *, what: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
    """Iterate over ``items`` showing a bar labeled ``what`` on stderr; silent when stderr is no terminal."""
    return tqdm(items, desc=what, total=total, unit=unit, disable=not sys.stderr.isatty(), leave=False)


def bar(*, what: str, total: int, unit: str = "it", unit_scale: bool = True, quiet: bool = False) -> Any:
    """A manual bar (``update(n)``, ``close()``, context manager); silent when ``quiet`` or stderr is no terminal."""
    quiet = quiet or not sys.stderr.isatty()
    return tqdm(desc=what, total=total, unit=unit, unit_scale=unit_scale, disable=quiet, leave=False)
