"""The text that is scored: one token stream, its documents, and the bytes by which code lengths are divided.

Shapes: N tokens in the stream, D documents. A *target* is every token but the stream's first: target i is token i+1,
predicted from tokens 0..i, so there are N-1 targets. The BOS in front of each later document is a target too: its
nats are paid and it adds 0 bytes (openai/parameter-golf counts the same way).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.base.errors import GolfError
from golf.data.shards import MADE_BY, load_split

__all__ = ["ScoringError", "ValidationText", "decode_documents", "load_text"]


class ScoringError(GolfError):
    """Text, model and parameters do not fit together; the message says which and what to change."""


@dataclass(frozen=True)
class ValidationText:
    """A checked token stream.

    ``tokens`` int64 (N,), ``doc_starts`` int64 (D,) position of each document's BOS, ``doc_bytes`` int64 (D,) UTF-8
    bytes of each document's text. Raises ``ScoringError`` for ids outside the vocabulary, a stream with no target, or
    documents that do not tile the stream.
    """

    tokens: np.ndarray
    doc_starts: np.ndarray
    doc_bytes: np.ndarray
    vocab_size: int

    def __post_init__(self) -> None:
        if self.num_targets < 1:
            raise ScoringError(f"the token stream has {len(self.tokens)} tokens, expected at least 2 to score one")
        outside = (self.tokens < 0) | (self.tokens >= self.vocab_size)
        if bool(outside.any()):
            at = int(np.argmax(outside))
            raise ScoringError(
                f"token {at} of the stream has id {int(self.tokens[at])}, outside the model's vocabulary of "
                f"{self.vocab_size}; the artifact and the tokens are of different runs: re-run `dvc repro`"
            )
        starts = self.doc_starts
        ordered = len(starts) > 0 and starts[0] == 0 and bool((np.diff(starts) > 0).all())
        if not ordered or starts[-1] >= len(self.tokens) or len(starts) != len(self.doc_bytes):
            raise ScoringError(f"document starts or byte counts do not tile the token stream; re-run {MADE_BY}")

    @property
    def num_targets(self) -> int:
        """Tokens that are scored, N-1."""
        return len(self.tokens) - 1

    @property
    def num_bytes(self) -> int:
        """The divisor of bits per byte: UTF-8 bytes of all documents."""
        return int(self.doc_bytes.sum())

    @property
    def target_bounds(self) -> np.ndarray:
        """int64 (D+1,): targets ``[bounds[d], bounds[d+1])`` belong to document d (the first BOS is no target)."""
        return np.concatenate([[0], self.doc_starts[1:] - 1, [self.num_targets]]).astype(np.int64)

    @property
    def doc_tokens(self) -> np.ndarray:
        """int64 (D,): scored tokens of each document, its BOS included except the stream's first."""
        return np.diff(self.target_bounds)


def load_text(folder: str | Path, *, vocab_size: int, tokenizer_sha256: str) -> ValidationText:
    """Load a token split and check that it was made with the artifact's own tokenizer.

    Raises ``FileError`` for missing or damaged shards and ``ScoringError`` when tokenizer or vocabulary differ.
    """
    split = load_split(folder)
    if split.tokenizer_sha256 != tokenizer_sha256:
        raise ScoringError(
            f"{folder}: made with tokenizer {split.tokenizer_sha256[:16]}, the artifact carries tokenizer "
            f"{tokenizer_sha256[:16]} (SHA-256); a score would be of no text: re-run `dvc repro`"
        )
    return ValidationText(
        tokens=split.tokens.astype(np.int64),
        doc_starts=split.doc_starts,
        doc_bytes=split.doc_bytes,
        vocab_size=vocab_size,
    )


def decode_documents(text: ValidationText, decode: Callable[[list[int]], bytes]) -> bytes:
    """The bytes that the stream decodes to, asserting the divisor on the way.

    ``decode`` turns the ids of one document without its BOS into UTF-8 bytes. Raises ``ScoringError`` when a document
    decodes to another number of bytes than the one its nats are divided by.
    """
    ends = np.append(text.doc_starts[1:], len(text.tokens))
    documents = []
    for index, (start, end) in enumerate(zip(text.doc_starts, ends, strict=True)):
        document = decode(text.tokens[start + 1 : end].tolist())
        if len(document) != int(text.doc_bytes[index]):
            raise ScoringError(
                f"document {index} decodes to {len(document)} bytes, the split says {int(text.doc_bytes[index])}; "
                f"bits per byte would be wrong: re-run {MADE_BY}"
            )
        documents.append(document)
    return b"".join(documents)
