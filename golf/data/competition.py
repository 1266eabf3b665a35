"""The competition's token shards ``fineweb_{train,val}_NNNNNN.bin``.

256 little-endian int32 (20240520, 1, count, zeros), then ``count`` little-endian uint16 ids. Each document is BOS and
its pieces; a document may straddle shards. Facts: openai/parameter-golf, PR #895. Beside them may lie sidecars
``fineweb_val_bytes_NNNNNN.bin`` with the same header (PR #1729): how many bytes of the original text each token stands
for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from golf.data.documents import MAX_DOCUMENT_BYTES, CorpusError, Document, Files, Position, find_files, too_long

__all__ = ["CompetitionShards", "Stream", "map_shard"]

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
_SHARD = re.compile(r"fineweb_(train|val)_([0-9]+)\.bin")
_BLOCK = 1 << 19  # tokens looked at in one go
_GPT2_END = 50256  # what begins a document in shards with the ids of GPT-2


@dataclass(frozen=True)
class Stream:
    """Documents laid end to end: ``ids`` uint16 (N,), BOS at each of ``starts`` int64 (D,), side "train" or "val".

    ``stated_bytes`` int64 (D,) are the sizes of their texts where a sidecar states them; ``numbers`` int64 (D,) count
    the documents of ``source`` from 1.
    """

    ids: np.ndarray
    starts: np.ndarray
    side: str
    source: str
    numbers: np.ndarray
    stated_bytes: np.ndarray | None

    @property
    def bounds(self) -> list[int]:
        """Where each document begins, and where the last one ends."""
        return [*self.starts.tolist(), len(self.ids)]

    def name(self, index: int) -> str:
        """Names one of the documents in messages."""
        return f"{self.source} {self.numbers[index]}"


@dataclass(frozen=True)
class CompetitionShards:
    """Documents as ids; the side is in the file name. Validation comes first, to be kept out of training."""

    path: Path
    vocab_size: int
    bos_id: int
    license: str = "ODC-By 1.0"
    attribution: str = "FineWeb, HuggingFaceFW; Common Crawl terms of use"

    def files(self) -> Files:
        """Validation shards, then training shards, each in the order of their numbers, of which none may be missing."""
        if not self.path.is_dir():
            raise CorpusError(f"{self.path}: not found; it is the folder of fineweb_train_*.bin and fineweb_val_*.bin")
        listed = find_files(self.path, (".bin",))
        skipped = {reason: list(names) for reason, names in listed.skipped.items()}
        sides: dict[str, dict[int, Path]] = {"val": {}, "train": {}}
        for path in listed.paths:
            if path.parent != self.path or not (match := _SHARD.fullmatch(path.name)):
                skipped.setdefault("named otherwise than a shard", []).append(str(path.relative_to(self.path)))
                continue
            side, number = match[1], int(match[2])
            if number in sides[side]:
                raise CorpusError(f"{path}: a second shard {number}, beside {sides[side][number].name}; remove one")
            sides[side][number] = path
        for side, shards in sides.items():
            if not shards:
                raise CorpusError(f"{self.path}: found no fineweb_{side}_NNNNNN.bin; set tokenize.path")
            missing = next((n for n in range(min(shards), max(shards)) if n not in shards), None)
            if missing is not None:
                raise CorpusError(
                    f"{self.path}: fineweb_{side}_{missing:06d}.bin is missing, shards {min(shards)} to {max(shards)} "
                    "are here; a document can go on from one to the next, so get it"
                )
        return Files([shards[n] for shards in sides.values() for n in sorted(shards)], skipped)

    def documents(self, position: Position) -> Iterator[Document]:
        """Documents without their BOS; empty ones are skipped."""
        for part in self.streams(position):
            for index, (start, end) in enumerate(pairwise(part.bounds)):
                yield Document(part.name(index), ids=part.ids[start + 1 : end], side=part.side)

    def streams(self, position: Position) -> Iterator[Stream]:
        """The documents, laid end to end some hundred at a time; empty ones are skipped."""
        files = self.files().paths
        for side in ("val", "train"):
            paths = [path for path in files if path.name.startswith(f"fineweb_{side}_")]
            before = 0
            for rows in self._split(paths, position):
                starts = np.flatnonzero(rows[0] == self.bos_id)
                empty = np.diff(starts, append=rows.shape[1]) == 1
                numbers = before + 1 + np.flatnonzero(~empty)
                before += len(starts)
                if empty.any():
                    position.skipped["without text"] += int(empty.sum())
                    rows = np.delete(rows, starts[empty], axis=1)
                    starts = np.flatnonzero(rows[0] == self.bos_id)
                if len(starts):
                    stated = np.add.reduceat(rows[1], starts, dtype=np.int64) if len(rows) == 2 else None
                    yield Stream(rows[0], starts, side, f"{self.path}/fineweb_{side}, document", numbers, stated)

    def _split(self, paths: list[Path], position: Position) -> Iterator[np.ndarray]:
        """Cut the stream of one side before the last BOS of each block; what is open goes on, over shards too.

        Yields ids (1, T), or ids and stated bytes (2, T), of whole documents.
        """
        pending: list[np.ndarray] = []
        for path in paths:
            rows = self._map(path)
            position.before += HEADER_BYTES
            for start in range(0, rows[0].size, _BLOCK):
                block = np.stack([row[start : start + _BLOCK] for row in rows])
                self._check(block[0], start, path)
                cuts = np.flatnonzero(block[0] == self.bos_id)
                if not pending and (len(cuts) == 0 or cuts[0] != 0):
                    raise CorpusError(
                        f"{path}: token 0 is {block[0, 0]}, expected BOS ({self.bos_id}) before a document; is "
                        "an earlier shard missing?"
                    )
                if len(cuts):
                    pending.append(block[:, : cuts[-1]])
                    yield np.concatenate(pending, axis=1)
                    pending, block = [], block[:, cuts[-1] :]
                pending.append(block)
                if sum(part.shape[1] for part in pending) > MAX_DOCUMENT_BYTES:  # a token may stand for no byte
                    raise too_long(f"{path}: the document that is open at token {start + block.shape[1]}")
                position.before += block[0].nbytes
        yield np.concatenate(pending, axis=1)

    def _map(self, path: Path) -> list[np.ndarray]:
        """The ids of a shard, and the bytes of its sidecar where there is one."""
        sidecar = path.with_name(re.sub(r"_(\d+)\.bin$", r"_bytes_\1.bin", path.name))
        rows = [map_shard(one) for one in (path, sidecar) if one == path or one.exists()]
        if len(rows) == 2 and rows[0].size != rows[1].size:
            raise CorpusError(f"{sidecar}: states the bytes of {rows[1].size} tokens, the shard has {rows[0].size}")
        return rows

    def _check(self, block: np.ndarray, start: int, path: Path) -> None:
        if int(block.max()) >= self.vocab_size:
            at = int(np.argmax(block >= self.vocab_size))
            if start == 0 and block[0] == _GPT2_END:
                raise CorpusError(f"{path}: begins with id 50256 as GPT-2 shards do, which are not supported")
            raise CorpusError(
                f"{path}: token {start + at} has id {block[at]}, outside the vocabulary of {self.vocab_size}; "
                "give the tokenizer these shards were made with as tokenize.tokenizer"
            )


def map_shard(path: Path) -> np.ndarray:
    """Memory map of a shard's ids, uint16 (N,), after its header was checked; raises ``CorpusError``."""
    try:
        size = path.stat().st_size
        header = np.fromfile(path, dtype="<i4", count=3)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error})") from error
    if size < HEADER_BYTES:
        raise CorpusError(f"{path}: found {size} bytes, expected at least the header of {HEADER_BYTES}; get it again")
    magic, version, count = (int(value) for value in header)
    if magic != MAGIC:
        raise CorpusError(f"{path}: magic number is {magic}, expected {MAGIC}; this is no shard of the competition")
    if version != VERSION:
        raise CorpusError(f"{path}: version is {version}, expected {VERSION}")
    if size != HEADER_BYTES + 2 * count:
        raise CorpusError(
            f"{path}: found {size} bytes, its header of {count} tokens wants {HEADER_BYTES + 2 * count}; get it again"
        )
    if count == 0:
        raise CorpusError(f"{path}: holds no token")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
