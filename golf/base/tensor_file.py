"""Safetensors written and read one tensor at a time, for what does not fit memory twice.

The bytes are those of the format: eight bytes of header size, a JSON header, the numbers in the order of their names.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf.base.files import atomic_file

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LARGE", "own_metadata", "tensor_file"]

LARGE = 1 << 24  # weights beyond which nobody keeps a copy of a model, or a second one of a tensor
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}


@contextlib.contextmanager
def tensor_file(
    path: str | Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], *, kind: str = "F32"
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Yield ``put(name, array)``; the file appears at ``path`` when every tensor of ``shapes`` was put once.

    They may be put in any order, by several threads, as numbers of the safetensors type ``kind`` (``BF16`` as uint16).
    ``metadata`` is the header's; that of golf's own files is ``own_metadata(meta)``.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + math.prod(shapes[name]) * _SIZES[kind]
        header[name] = {"dtype": kind, "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    missing, turn = set(shapes), threading.Lock()
    with atomic_file(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)

            def put(name: str, array: np.ndarray) -> None:
                if array.shape != tuple(shapes[name]) or array.dtype.itemsize != _SIZES[kind] or name not in missing:
                    raise RuntimeError(f"{name}: {array.shape} {array.dtype} is not what the header says, or twice")
                with turn:
                    missing.remove(name)
                    file.seek(8 + len(text) + header[name]["data_offsets"][0])
                    file.write(array.ravel().view("u1").data)  # C order whatever the layout; no copy of most

            yield put
        if missing:
            raise RuntimeError(f"never put: {sorted(missing)}")


def own_metadata(meta: Mapping[str, Any]) -> dict[str, str]:
    """``meta`` as ``golf.base.files`` keeps it in a header."""
    return {"meta": json.dumps(meta, sort_keys=True, allow_nan=False)}
