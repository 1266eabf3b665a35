"""Token shards: one folder of safetensors files per split, written in a stream and read through a memory map.

Shapes: N tokens in a shard (or split), D documents in it.

    shard_000000.safetensors: tokens uint16 (N,), doc_starts int64 (D,), doc_bytes int64 (D,)

``doc_starts`` counts from the shard's own first token. A document begins with BOS and never straddles shards, so
``doc_starts[0] == 0`` and the documents tile the shard. ``doc_bytes`` is the UTF-8 length of a document's text. Tokens
are uint32 where the vocabulary has more than 65,536 pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from golf.base.files import FileError, load_numpy, read_meta, require, save_numpy
from golf.base.params import quoted

__all__ = ["MADE_BY", "ShardWriter", "Split", "SplitReader", "documents_of", "load_split", "open_split"]

MADE_BY = "`python -m stages.tokenize`"
TOKENS_PER_SHARD = 100_000_000  # as in the competition's shards: 200 MB a file
_META_KEYS = {"vocab_size": int, "bos_id": int, "tokenizer_sha256": str}


@dataclass(frozen=True)
class Split:
    """One split in memory: ``tokens`` uint16 or uint32 (N,), ``doc_starts`` int64 (D,), ``doc_bytes`` int64 (D,)."""

    tokens: np.ndarray
    doc_starts: np.ndarray
    doc_bytes: np.ndarray
    vocab_size: int
    bos_id: int
    tokenizer_sha256: str

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self.doc_bytes.sum())


class ShardWriter:
    """Write documents one after another into shards of at most ``tokens_per_shard`` tokens.

    Use ``add`` for each document, or ``extend`` for many, and ``close`` once; memory holds one shard. Raises
    ``FileError`` for a token outside the vocabulary, a document without BOS in front, or one longer than a shard.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        vocab_size: int,
        bos_id: int,
        tokenizer_sha256: str,
        tokens_per_shard: int = TOKENS_PER_SHARD,
    ) -> None:
        self._folder = Path(folder)
        self._meta: dict[str, Any] = {"vocab_size": vocab_size, "bos_id": bos_id, "tokenizer_sha256": tokenizer_sha256}
        self._limit = tokens_per_shard
        self._tokens: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        self._bytes: list[np.ndarray] = []
        self._filled = 0
        self.num_shards = 0
        self.num_documents = 0
        self.num_tokens = 0
        self.num_bytes = 0

    def add(self, tokens: Sequence[int] | np.ndarray, num_bytes: int) -> None:
        """Append one document: its ids with BOS in front, and the UTF-8 bytes of its text."""
        self.extend(np.asarray(tokens), np.zeros(1, np.int64), np.array([num_bytes]))

    def extend(self, tokens: np.ndarray, starts: np.ndarray, num_bytes: np.ndarray) -> None:
        """Append documents that lie end to end in ``tokens`` (N,), BOS at each of ``starts`` (D,), and their bytes."""
        ends = np.append(starts[1:], len(tokens))
        self._check(tokens, starts, ends)
        tokens = tokens.astype(_id_type(self._meta["vocab_size"]), copy=False)
        first = 0
        while first < len(starts):
            last = int(np.searchsorted(ends, starts[first] + self._limit - self._filled, "right"))
            if last == first:
                self._flush()
                continue
            self._tokens.append(tokens[starts[first] : ends[last - 1]])
            self._starts.append(starts[first:last] - starts[first] + self._filled)
            self._bytes.append(num_bytes[first:last])
            self._filled += int(ends[last - 1] - starts[first])
            first = last
        self.num_documents += len(starts)
        self.num_tokens += len(tokens)
        self.num_bytes += int(num_bytes.sum())

    def _check(self, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        vocab_size, bos_id = self._meta["vocab_size"], self._meta["bos_id"]
        begun = len(tokens) > 0 and bool((tokens[starts] == bos_id).all())
        if begun and _in_range(tokens, vocab_size) and int((ends - starts).max()) <= self._limit:
            return
        for number, ids in enumerate(np.split(tokens, starts[1:]), start=self.num_documents):
            where = f"{self._folder}: document {number}"
            _check_range(ids, vocab_size, where)
            if len(ids) == 0 or ids[0] != bos_id:
                raise FileError(f"{where}: found no BOS ({bos_id}) in front, expected one")
            if len(ids) > self._limit:
                raise FileError(f"{where}: found {len(ids)} tokens, expected at most {self._limit} in one document")

    def close(self) -> None:
        """Write the last shard."""
        if self._tokens:
            self._flush()

    def _flush(self) -> None:
        tensors = {
            "tokens": np.concatenate(self._tokens),
            "doc_starts": np.concatenate(self._starts).astype(np.int64, copy=False),
            "doc_bytes": np.concatenate(self._bytes).astype(np.int64, copy=False),
        }
        save_numpy(self._folder / f"shard_{self.num_shards:06d}.safetensors", tensors, self._meta)
        self.num_shards += 1
        self._tokens, self._starts, self._bytes, self._filled = [], [], [], 0


class SplitReader:
    """A split as one stream of ``num_tokens`` tokens, read through memory maps: nothing is copied until ``read``."""

    def __init__(self, folder: str | Path) -> None:
        paths = _shard_paths(folder)
        self.meta = _common_meta(paths)
        self.vocab_size = self.meta["vocab_size"]
        self.bos_id = self.meta["bos_id"]
        self.tokenizer_sha256 = self.meta["tokenizer_sha256"]
        self._shards = [_open_tokens(path, _id_type(self.vocab_size)) for path in paths]
        lengths = [shard.get_shape()[0] for shard in self._shards]
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.num_tokens = int(self._starts[-1])

    def read(self, start: int, length: int) -> np.ndarray:
        """Tokens ``[start, start + length)`` of the whole stream, uint16 or uint32 (length,), across shards.

        Raises ``FileError`` when the range leaves the stream or a token is outside the vocabulary.
        """
        if start < 0 or length < 0 or start + length > self.num_tokens:
            raise FileError(f"tokens {start}:{start + length} asked for, the split has {self.num_tokens}")
        out = np.empty(length, dtype=_id_type(self.vocab_size))
        done = 0
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        while done < length:
            first, last = (int(value) for value in self._starts[index : index + 2])
            stop = min(start + length, last)
            out[done : stop - start] = self._shards[index][start + done - first : stop - first]
            done = stop - start
            index += 1
        _check_range(out, self.vocab_size, f"tokens {start}:{start + length}")
        return out


def open_split(folder: str | Path) -> SplitReader:
    """Open the split in ``folder`` for reading by position; ``FileError`` when shards are missing or damaged."""
    return SplitReader(folder)


def load_split(folder: str | Path) -> Split:
    """Load a (small) split whole, checked: ids in range, BOS at each document start, byte counts not negative."""
    paths = _shard_paths(folder)
    meta = _common_meta(paths)
    tokens, starts, num_bytes, offset = [], [], [], 0
    for path in paths:
        tensors, _ = load_numpy(path, made_by=MADE_BY)
        _check_shard(tensors, meta, path)
        tokens.append(tensors["tokens"])
        starts.append(tensors["doc_starts"] + offset)
        num_bytes.append(tensors["doc_bytes"])
        offset += len(tensors["tokens"])
    return Split(
        tokens=np.concatenate(tokens),
        doc_starts=np.concatenate(starts),
        doc_bytes=np.concatenate(num_bytes),
        vocab_size=meta["vocab_size"],
        bos_id=meta["bos_id"],
        tokenizer_sha256=meta["tokenizer_sha256"],
    )


def documents_of(folder: str | Path) -> Iterator[np.ndarray]:
    """The documents of a split, BOS in front, checked as in ``load_split``; one shard in memory at a time."""
    paths = _shard_paths(folder)
    meta = _common_meta(paths)
    for path in paths:
        tensors, _ = load_numpy(path, made_by=MADE_BY)
        _check_shard(tensors, meta, path)
        tokens, starts = tensors["tokens"], tensors["doc_starts"]
        yield from (tokens[a:b] for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True))


def _shard_paths(folder: str | Path) -> list[Path]:
    paths = sorted(require(folder, made_by=MADE_BY).glob("shard_*.safetensors"))
    if not paths:
        raise FileError(f"{folder}: found no shard_*.safetensors; they are made by {MADE_BY}")
    return paths


def _common_meta(paths: list[Path]) -> dict[str, Any]:
    first = read_meta(paths[0], made_by=MADE_BY)
    for path in paths:
        meta = read_meta(path, made_by=MADE_BY)
        for key, kind in _META_KEYS.items():
            if key not in meta:
                raise FileError(f"{path}: metadata has no `{key}`; re-run {MADE_BY}")
            if type(meta[key]) is not kind:
                raise FileError(f"{path}: {key} is {quoted(meta[key])}, expected {kind.__name__}; re-run {MADE_BY}")
            if meta[key] != first[key]:
                raise FileError(
                    f"{path}: {key} is {quoted(meta[key])}, {paths[0].name} has {quoted(first[key])}; re-run {MADE_BY}"
                )
    if not 0 <= first["bos_id"] < first["vocab_size"] <= 1 << 18:
        raise FileError(
            f"{paths[0]}: bos_id is {first['bos_id']} and vocab_size {first['vocab_size']}, expected the first below "
            f"the second, and that at most 262144; re-run {MADE_BY}"
        )
    return first


def _in_range(ids: np.ndarray, vocab_size: int) -> bool:
    return len(ids) == 0 or (int(ids.max()) < vocab_size and (ids.dtype.kind == "u" or int(ids.min()) >= 0))


def _check_range(ids: np.ndarray, vocab_size: int, where: str) -> None:
    if not _in_range(ids, vocab_size):
        at = int(np.argmax((ids >= vocab_size) | (ids < 0)))
        raise FileError(
            f"{where}: token {at} has id {int(ids[at])}, outside the vocabulary of {vocab_size}; re-run {MADE_BY}"
        )


def _check_shard(tensors: dict[str, np.ndarray], meta: dict[str, Any], path: Path) -> None:
    expected = {"tokens": _id_type(meta["vocab_size"]), "doc_starts": np.int64, "doc_bytes": np.int64}
    for name, dtype in expected.items():
        if name not in tensors or tensors[name].dtype != dtype or tensors[name].ndim != 1:
            raise FileError(f"{path}: tensor `{name}` is not {np.dtype(dtype)} (n,); re-run {MADE_BY}")
    tokens, starts, num_bytes = tensors["tokens"], tensors["doc_starts"], tensors["doc_bytes"]
    _check_range(tokens, meta["vocab_size"], str(path))
    ordered = len(starts) > 0 and starts[0] == 0 and bool((np.diff(starts) > 0).all()) and starts[-1] < len(tokens)
    if not ordered or len(starts) != len(num_bytes) or bool((num_bytes < 0).any()):
        raise FileError(f"{path}: document starts or byte counts are inconsistent; re-run {MADE_BY}")
    if bool((tokens[starts] != meta["bos_id"]).any()):
        raise FileError(f"{path}: a document does not begin with BOS ({meta['bos_id']}); re-run {MADE_BY}")


def _id_type(vocab_size: int) -> type[np.uint16 | np.uint32]:
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def _open_tokens(path: Path, kind: type[np.uint16 | np.uint32]) -> Any:
    """The ``tokens`` tensor of a shard, read from the memory map range by range."""
    with safe_open(path, framework="numpy") as file:
        if "tokens" in file.keys():  # noqa: SIM118 (safe_open is no dict)
            tokens = file.get_slice("tokens")
            if tokens.get_dtype() == f"U{8 * np.dtype(kind).itemsize}" and len(tokens.get_shape()) == 1:
                return tokens
    raise FileError(f"{path}: tensor `tokens` is not {np.dtype(kind)} (n,); re-run {MADE_BY}")
