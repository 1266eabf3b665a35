"""Arrays that stay in their safetensors file until they are read: for records as large as memory."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from golf.base.files import NUMPY_KINDS, FileError, read_meta

__all__ = ["forget", "map_numpy"]


def map_numpy(path: str | Path, *, made_by: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """As ``golf.base.files.load_numpy``, except that the numbers come from the file where they are used. What is
    written into the arrays stays in memory. Raises ``FileError``."""
    meta = read_meta(path, made_by=made_by)  # which refuses a damaged file
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    begin = 8 + int.from_bytes(mapped[:8], "little")
    tensors = {}
    for name, entry in json.loads(mapped[8:begin]).items():
        if name == "__metadata__":
            continue
        kind = entry["dtype"]
        if kind not in NUMPY_KINDS:
            raise FileError(f"{path}: tensor `{name}` is {kind}, expected a type of numpy; re-run {made_by}")
        tensors[name] = np.ndarray(entry["shape"], NUMPY_KINDS[kind], mapped, begin + entry["data_offsets"][0])
    return tensors, meta


def forget(array: np.ndarray) -> None:
    """Have what was read of the mapped file of ``array`` leave the memory, until it is read again; nothing for arrays
    of no such file. What was written into them is lost."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)
