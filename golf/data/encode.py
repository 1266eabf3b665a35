"""Documents to token shards, in worker processes, each document's bytes proved; the order stays that of the corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from golf.base.progress import bar
from golf.data.competition import CompetitionShards
from golf.data.documents import Corpus, CorpusError, Position, ordered_map
from golf.data.shards import ShardWriter
from golf.data.splitter import SPLITS, Splitter
from golf.data.tokenizer import Tokenizer, TokenizerError

__all__ = ["Encoded", "encode_corpus"]

_BATCH_BYTES = 400_000


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
    """A document with its split; ``official`` asks SentencePiece's own decoder too."""

    split: str
    where: str
    text: str
    official: bool


@dataclass(frozen=True)
class _Job:
    """A batch of documents, and the tokenizer they are encoded with."""

    items: list[_Item]
    model: bytes
    name: str


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
    total = sum(path.stat().st_size for path in corpus.files().paths)
    with bar(what="tokenize", total=total, unit="B") as shown:
        if isinstance(corpus, CompetitionShards):
            from golf.data.encode_ids import encode_ids  # imports numba

            batches = encode_ids(corpus.streams(encoded.position), tokenizer, splitter, writers, max_bytes=max_bytes)
        else:
            batches = _encode_texts(corpus, tokenizer, splitter, encoded, max_bytes, pool)
        for _ in batches:
            shown.update(encoded.position.num_bytes - shown.n)
    for writer in writers.values():
        writer.close()
    return encoded


def _encode_texts(
    corpus: Corpus,
    tokenizer: Tokenizer,
    splitter: Splitter,
    encoded: Encoded,
    max_bytes: int,
    pool: ProcessPoolExecutor | None,
) -> Iterator[None]:
    for results in ordered_map(_encode_job, _jobs(corpus, tokenizer, splitter, max_bytes, encoded), pool):
        for split, tokens, num_bytes in results:
            encoded.writers[split].add(tokens, num_bytes)
        yield


def _jobs(corpus: Corpus, tokenizer: Tokenizer, splitter: Splitter, max_bytes: int, encoded: Encoded) -> Iterator[_Job]:
    batch: list[_Item] = []
    size = read = 0
    digests = {split: hashlib.sha256() for split in SPLITS}
    for document in corpus.documents(encoded.position):
        text = document.text or ""
        data = text.encode()
        read += len(data)
        if max_bytes and read > max_bytes:
            break
        split = splitter.assign(data, side=document.side)
        if split is None:
            continue
        digests[split].update(len(data).to_bytes(8, "little") + data)
        encoded.raw_bytes[split] += len(data)
        encoded.text_sha256[split] = digests[split].hexdigest()
        batch.append(_Item(split, document.where, text, official=split != "train" or not batch))
        size += len(data)
        if size >= _BATCH_BYTES:
            yield _Job(batch, tokenizer.model, tokenizer.name)
            batch, size = [], 0
    if batch:
        yield _Job(batch, tokenizer.model, tokenizer.name)


@lru_cache(maxsize=2)
def _tokenizer(model: bytes, name: str) -> Tokenizer:
    """Each worker builds the tokenizer once."""
    return Tokenizer(model, name=name)


def _encode_job(job: _Job) -> list[tuple[str, np.ndarray, int]]:
    """Of each document its split, its tokens with BOS, and their bytes."""
    tokenizer = _tokenizer(job.model, job.name)
    results = []
    for item in job.items:
        try:
            results.append((item.split, *tokenizer.document(item.text, official=item.official)))
        except TokenizerError as error:
            raise CorpusError(f"{item.where}: {error}") from error
    return results
