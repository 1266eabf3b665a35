"""Documents of a corpus of ids to token shards: bytes by the table, a sample of documents by SentencePiece too.

A billion tokens are 800,000 documents, so what each of them needs is done for a whole stream of them where it can be.
Nothing is decoded to be counted: SentencePiece is asked for the text of all held-out documents and of the first one of
each stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

import numpy as np

from golf.base.jit import kernel
from golf.data.competition import Stream
from golf.data.documents import CorpusError
from golf.data.shards import ShardWriter
from golf.data.splitter import Splitter
from golf.data.tokenizer import Tokenizer, TokenizerError

__all__ = ["document_bytes", "encode_ids"]

_RECODED = 50  # first documents of each side that are coded again
_DIFFERING = 0.1  # share of them whose ids may differ (a text with a literal U+2581 is coded otherwise, for one)


def encode_ids(
    streams: Iterator[Stream],
    tokenizer: Tokenizer,
    splitter: Splitter,
    writers: dict[str, ShardWriter],
    *,
    max_bytes: int,
) -> Iterator[None]:
    """Write the documents of ``streams`` into the shards of their splits; yields after each stream.

    ``max_bytes`` > 0 ends the corpus there. Raises ``CorpusError`` for ids whose bytes cannot be proved, and for ids
    that the tokenizer did not make.
    """
    table = tokenizer.table
    tables = table.with_space.astype(np.int64), table.has_leading_space, table.is_boundary
    recoded: dict[str, list[bool]] = {"train": [], "val": []}
    read = 0
    for stream in streams:
        num_bytes = document_bytes(stream.ids, stream.starts, *tables)
        kept = len(num_bytes) if not max_bytes else int(np.searchsorted(read + num_bytes.cumsum(), max_bytes, "right"))
        bounds, data = stream.bounds, stream.ids.data
        splits = [
            splitter.assign(data[start + 1 : end], side=stream.side, num_bytes=size)
            for (start, end), size in zip(pairwise(bounds[: kept + 1]), num_bytes.tolist(), strict=False)
        ]
        _check(stream, bounds, splits, num_bytes, tokenizer, recoded[stream.side])
        first = 0
        for split, equal in groupby(splits):
            last = first + len(list(equal))
            if split is not None:
                tokens, starts = stream.ids[bounds[first] : bounds[last]], stream.starts[first:last] - bounds[first]
                writers[split].extend(tokens, starts, num_bytes[first:last])
            first = last
        yield
        if kept < len(num_bytes):
            break
        read += int(num_bytes.sum())
    tried = [made for side in recoded.values() for made in side]
    if tried.count(False) > _DIFFERING * len(tried):
        raise CorpusError(
            f"{tokenizer.name}: did not make these ids: of the first {len(tried)} documents {tried.count(False)} are "
            "coded otherwise when decoded and coded again; give the tokenizer these shards were made with as "
            "tokenize.tokenizer"
        )


@kernel
def document_bytes(
    ids: np.ndarray,
    starts: np.ndarray,
    with_space: np.ndarray,
    has_leading_space: np.ndarray,
    is_boundary: np.ndarray,
) -> np.ndarray:
    """``ByteTable.num_bytes`` of each of the documents that begin at ``starts``, int64 (D,)."""
    counted = np.zeros(len(starts), np.int64)
    for document in range(len(starts)):
        end = starts[document + 1] if document + 1 < len(starts) else len(ids)
        total, behind = 0, False
        for at in range(starts[document], end):
            token = ids[at]
            total += with_space[token] - (behind & has_leading_space[token])
            behind = is_boundary[token]
        counted[document] = total
    return counted


def _check(
    stream: Stream,
    bounds: list[int],
    splits: list[str | None],
    num_bytes: np.ndarray,
    tokenizer: Tokenizer,
    recoded: list[bool],
) -> None:
    """Of the documents that are kept: no unknown piece, bytes proved of a sample, and not above what a sidecar states.

    ``recoded`` grows by whether the tokenizer makes the same ids of the texts of the side's first documents.
    """
    asked = bool((stream.ids == tokenizer.unk_id).any())  # then of all documents, to name the one
    for index, split in enumerate(splits):
        if split is None:
            continue
        if split != "train" or asked or index == 0 or len(recoded) < _RECODED:
            ids = stream.ids[bounds[index] + 1 : bounds[index + 1]]
            try:
                proved = tokenizer.imported_document(ids)[1]
            except TokenizerError as error:
                raise CorpusError(f"{stream.name(index)}: {error}") from error
            if num_bytes[index] != proved:  # what is written, not only what the table says
                found = f"{num_bytes[index]} bytes were counted, its ids decode to {proved}"
                raise CorpusError(f"{stream.name(index)}: {found}; a fault of this program or its compiled code")
            if len(recoded) < _RECODED:
                recoded.append(tokenizer.made(ids))
        if stream.stated_bytes is not None and num_bytes[index] > stream.stated_bytes[index]:
            raise CorpusError(
                f"{stream.name(index)}: the pieces decode to {num_bytes[index]} bytes, the sidecar states "
                f"{stream.stated_bytes[index]} of text; ids of transformed text (CaseOps) are not supported, as their "
                "bytes are not the text's"
            )
