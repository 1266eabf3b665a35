"""Documents to token shards, in worker processes, each document's bytes proved; the order stays that of the corpus.

Which split a document belongs to is decided by its content, so that equal documents never part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from golf.base.progress import bar
from golf.data.documents import Corpus, CorpusError, Document, Position, ordered_map
from golf.data.shards import ShardWriter
from golf.data.tokenizer import Tokenizer, TokenizerError

__all__ = ["Encoded", "SPLITS", "Splitter", "digest", "encode_corpus"]

SPLITS = ("train", "holdout", "val")


def digest(text: bytes, seed: int) -> bytes:
    """SHA-256 of the document's bytes and the split seed."""
    return hashlib.sha256(b"%d:" % seed + text).digest()


def _counts() -> dict[str, int]:
    return dict.fromkeys(SPLITS, 0)


@dataclass
class Splitter:
    """Assign documents to train, holdout and val, and leave out a second copy of a document that is held out.

    Without a given side, the hash as a number in [0, 1) below ``val_fraction`` means val, below
    ``val_fraction + holdout_fraction`` holdout, else train. With a given side, val is val and only train is cut by the
    hash. Once a cap is reached, further documents of that split are dropped, not moved to train: a second copy of
    a scored document must not become training text. Where the corpus gives the sides, its validation documents come
    first, and a training document that equals one of them is dropped.

    ``held`` maps the hashes of all val and holdout documents to their split; its size is bounded by the caps.
    ``seen`` counts the documents of each split, ``taken`` the bytes assigned to it, ``dropped`` the documents over its
    cap and ``shortest`` the bytes of the shortest of those; ``copies`` counts the dropped copies.
    """

    val_fraction: float
    holdout_fraction: float
    val_max_bytes: int
    holdout_max_bytes: int
    seed: int
    held: dict[bytes, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=_counts)
    taken: dict[str, int] = field(default_factory=_counts)
    dropped: dict[str, int] = field(default_factory=_counts)
    shortest: dict[str, int] = field(default_factory=dict)
    copies: int = 0

    def assign(self, text: bytes, *, side: str | None = None, num_bytes: int | None = None) -> str | None:
        """The split of the document with these bytes; None when its split is full or the other side holds a copy.

        ``num_bytes``: of its text, where ``text`` is not that but the document's ids.
        """
        size = len(text) if num_bytes is None else num_bytes
        key = digest(text, self.seed)
        split = self._choose(int.from_bytes(key[:8], "big") / 2.0**64, side)
        if self.held.get(key, split) != split:
            self.copies += 1
            return None
        self.seen[split] += 1
        cap = {"val": self.val_max_bytes, "holdout": self.holdout_max_bytes}.get(split, 0)
        if cap and self.taken[split] + size > cap:
            self.dropped[split] += 1
            self.shortest[split] = min(size, self.shortest.get(split, size))
            return None
        if split != "train":
            self.held[key] = split
        self.taken[split] += size
        return split

    def _choose(self, share: float, side: str | None) -> str:
        if side == "val":
            return "val"
        if side is None and share < self.val_fraction:
            return "val"
        first = self.val_fraction if side is None else 0.0
        return "holdout" if share < first + self.holdout_fraction else "train"


_BATCH_BYTES = 400_000
_RECODED = 50  # first documents of each side of an already tokenized corpus that are coded again
_DIFFERING = 0.1  # share of them whose ids may differ (a text with a literal U+2581 is coded otherwise, for one)


@dataclass
class Encoded:
    """What was written of each split, and how it was read.

    ``raw_bytes`` and ``text_sha256`` are of the texts as the corpus gives them, before the tokenizer sees them; an
    already tokenized corpus has none. ``verify`` decodes the tokens and compares.
    """

    writers: dict[str, ShardWriter]
    position: Position
    raw_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    text_sha256: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(SPLITS))


@dataclass(frozen=True)
class _Item:
    """A document with its split; ``recode`` asks whether the tokenizer makes its ids out of its text."""

    split: str
    document: Document
    official: bool
    recode: bool


@dataclass(frozen=True)
class _Job:
    """A batch of documents, and the tokenizer they are encoded with."""

    items: list[_Item]
    model: bytes
    name: str


@dataclass(frozen=True)
class _Result:
    """Tokens with BOS, counted bytes; ``recoded`` is None where it was not tried."""

    split: str
    tokens: np.ndarray
    num_bytes: int
    recoded: bool | None


def encode_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    splitter: Splitter,
    folder: Path,
    *,
    max_bytes: int,
    pool: ProcessPoolExecutor | None,
) -> Encoded:
    """Write the shards of each split below ``folder``; ``max_bytes`` > 0 ends the corpus there.

    Raises ``CorpusError`` for a document whose bytes cannot be proved, and for ids that the tokenizer did not make.
    """
    kind = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id}
    writers = {split: ShardWriter(folder / split, tokenizer_sha256=tokenizer.sha256, **kind) for split in SPLITS}
    encoded = Encoded(writers, Position())
    recoded: list[bool] = []
    total = sum(path.stat().st_size for path in corpus.files().paths)
    with bar(what="tokenize", total=total, unit="B") as shown:
        jobs = _jobs(corpus, tokenizer, splitter, max_bytes, encoded)
        for results in ordered_map(_encode_job, jobs, pool):
            for result in results:
                writers[result.split].add(result.tokens, result.num_bytes)
                recoded += [result.recoded] if result.recoded is not None else []
            shown.update(encoded.position.num_bytes - shown.n)
    differing = recoded.count(False)
    if differing > _DIFFERING * len(recoded):
        raise CorpusError(
            f"{tokenizer.name}: did not make these ids: of the first {len(recoded)} documents {differing} are coded "
            "otherwise when decoded and coded again; give the tokenizer these shards were made with as "
            "tokenize.tokenizer"
        )
    for writer in writers.values():
        writer.close()
    return encoded


def _jobs(corpus: Corpus, tokenizer: Tokenizer, splitter: Splitter, max_bytes: int, encoded: Encoded) -> Iterator[_Job]:
    batch: list[_Item] = []
    size = read = 0
    digests = {split: hashlib.sha256() for split in SPLITS}
    ids_seen = {"train": 0, "val": 0}
    for document in corpus.documents(encoded.position):
        data, length = _content(document, tokenizer)
        read += length
        if max_bytes and read > max_bytes:
            break
        split = splitter.assign(data, side=document.side, num_bytes=length)
        if split is None:
            continue
        recode = False
        if document.ids is None:
            digests[split].update(length.to_bytes(8, "little") + data)
            encoded.raw_bytes[split] += length
            encoded.text_sha256[split] = digests[split].hexdigest()
        else:
            side = document.side or "train"
            ids_seen[side] += 1
            recode = ids_seen[side] <= _RECODED
        batch.append(_Item(split, document, official=split != "train" or not batch, recode=recode))
        size += length
        if size >= _BATCH_BYTES:
            yield _Job(batch, tokenizer.model, tokenizer.name)
            batch, size = [], 0
    if batch:
        yield _Job(batch, tokenizer.model, tokenizer.name)


def _content(document: Document, tokenizer: Tokenizer) -> tuple[bytes, int]:
    """What the splitter hashes, and the bytes of text: of ids themselves, so that nothing is decoded for it."""
    if document.ids is None:
        data = (document.text or "").encode()
        return data, len(data)
    ids = np.concatenate([np.array([tokenizer.bos_id], np.uint16), document.ids])
    return ids[1:].astype("<u2").tobytes(), tokenizer.table.num_bytes(ids)


@lru_cache(maxsize=2)
def _tokenizer(model: bytes, name: str) -> Tokenizer:
    """Each worker builds the tokenizer once."""
    return Tokenizer(model, name=name)


def _encode_job(job: _Job) -> list[_Result]:
    tokenizer = _tokenizer(job.model, job.name)
    return [_encode(tokenizer, item) for item in job.items]


def _encode(tokenizer: Tokenizer, item: _Item) -> _Result:
    document, recoded = item.document, None
    try:
        if document.ids is None:
            tokens, num_bytes = tokenizer.document(document.text or "", official=item.official)
        else:
            tokens, num_bytes = tokenizer.imported_document(document.ids, official=item.official)
            recoded = tokenizer.made(document.ids) if item.recode else None
    except TokenizerError as error:
        raise CorpusError(f"{document.where}: {error}") from error
    if document.stated_bytes is not None and num_bytes > document.stated_bytes:
        raise CorpusError(
            f"{document.where}: the pieces decode to {num_bytes} bytes, the sidecar states {document.stated_bytes} of "
            "text; ids of transformed text (CaseOps) are not supported, as their bytes are not the text's"
        )
    return _Result(item.split, tokens, num_bytes, recoded)
