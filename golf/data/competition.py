"""The competition's token shards ``fineweb_{train,val}_*.bin``.

256 little-endian int32 (20240520, 1, count, zeros), then ``count`` little-endian uint16 ids. Each document is BOS and
its pieces; a document may straddle shards. Facts: openai/parameter-golf, PR #895.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.data.documents import CorpusError, Document, Position

__all__ = ["CompetitionShards", "map_shard"]

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
_BLOCK = 1 << 22  # tokens looked at in one go


@dataclass(frozen=True)
class CompetitionShards:
    """Documents as ids; the side is in the file name. Validation comes first, to be kept out of training."""

    path: Path
    vocab_size: int
    bos_id: int
    license: str = "ODC-By 1.0"
    attribution: str = "FineWeb, HuggingFaceFW; Common Crawl terms of use"

    def files(self) -> list[Path]:
        """``fineweb_val_*.bin``, then ``fineweb_train_*.bin``, each in name order."""
        if not self.path.is_dir():
            raise CorpusError(f"{self.path}: not found; it is the folder of fineweb_train_*.bin and fineweb_val_*.bin")
        files = [path for side in ("val", "train") for path in sorted(self.path.glob(f"fineweb_{side}_*.bin"))]
        if not files:
            raise CorpusError(f"{self.path}: found no fineweb_train_*.bin or fineweb_val_*.bin; set tokenize.path")
        return files

    def documents(self, position: Position) -> Iterator[Document]:
        """Documents without their BOS; empty ones are skipped."""
        files = self.files()
        for side in ("val", "train"):
            paths = [path for path in files if path.name.startswith(f"fineweb_{side}_")]
            for number, ids in enumerate(self._split(paths, position), start=1):
                if len(ids):
                    yield Document(where=f"{self.path}/fineweb_{side}, document {number}", ids=ids, side=side)

    def _split(self, paths: list[Path], position: Position) -> Iterator[np.ndarray]:
        """Cut the stream of one side at each BOS; what is open at the end of a shard goes on in the next."""
        pending: list[np.ndarray] = []
        begun = False
        for path in paths:
            tokens = map_shard(path)
            for start in range(0, len(tokens), _BLOCK):
                block = np.array(tokens[start : start + _BLOCK])
                self._check(block, start, path)
                cuts = np.flatnonzero(block == self.bos_id)
                if not begun and (len(cuts) == 0 or cuts[0] != 0):
                    raise CorpusError(f"{path}: token 0 is {block[0]}, wanted BOS ({self.bos_id}) before a document")
                begun, previous = True, 0
                for cut in cuts.tolist():
                    pending.append(block[previous:cut])
                    if cut > 0 or start > 0 or path != paths[0]:
                        yield np.concatenate(pending)
                    pending, previous = [], cut + 1
                pending.append(block[previous:])
            position.before += path.stat().st_size
        if begun:
            yield np.concatenate(pending)

    def _check(self, block: np.ndarray, start: int, path: Path) -> None:
        if int(block.max()) >= self.vocab_size:
            at = int(np.argmax(block >= self.vocab_size))
            raise CorpusError(
                f"{path}: token {start + at} has id {block[at]}, outside the vocabulary of {self.vocab_size}; "
                "give the tokenizer these shards were made with as tokenize.tokenizer"
            )


def map_shard(path: Path) -> np.ndarray:
    """Memory map of a shard's ids, uint16 (N,), after its header was checked; raises ``CorpusError``."""
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise CorpusError(f"{path}: found {size} bytes, wanted at least the header of {HEADER_BYTES}; get it again")
    magic, version, count = (int(value) for value in np.fromfile(path, dtype="<i4", count=3))
    if magic != MAGIC:
        raise CorpusError(f"{path}: magic number is {magic}, wanted {MAGIC}; this is no shard of the competition")
    if version != VERSION:
        raise CorpusError(f"{path}: version is {version}, wanted {VERSION}")
    if size != HEADER_BYTES + 2 * count:
        raise CorpusError(
            f"{path}: found {size} bytes, its header of {count} tokens wants {HEADER_BYTES + 2 * count}; get it again"
        )
    if count == 0:
        raise CorpusError(f"{path}: holds no token")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
