"""SentencePiece tokenizers: our own lossless BPE, or an existing model with what it does to the text declared.

The bytes of a tokenizer trained here depend on nothing but the text and the vocabulary size.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from golf.base.errors import GolfError
from golf.base.files import require
from golf.base.params import quoted
from golf.data.byte_table import SPACE, byte_table, count_pieces, piece_bytes
from golf.data.case import Case, apply_case, case_of, operator_bytes, options_of, restore_case, split_literals, tag

__all__ = ["MIN_VOCAB_SIZE", "PROBE", "Tokenizer", "TokenizerError", "train_tokenizer"]

MIN_VOCAB_SIZE = 261  # 4 control pieces, 256 byte pieces and one piece to learn
_LONGEST_PIECE = (1 << 15) - 1  # bytes; the table holds them as int16
_RESERVED = "\u2585"  # SentencePiece's own mark for what it cannot code: it drops a training text that holds one
_COVERAGE = 0.999  # share of the characters that get a piece of their own; the rest is coded by bytes

# Everything that a tokenizer for prose tends to change: NFKC letters, runs of spaces, newlines, edges, odd scripts.
PROBE = (
    " \ufeffTwo  spaces\tand tab\r\nnew\n\nlines\rNUL \0 \ufb01 \u2460 \uff21 e\u0301 \u00e9 \u00a0\u3000\u200b"
    f"\u00ad\u2028 {SPACE}lower {SPACE} block{SPACE} <s></s> <0x41> <unk> <pad> "
    "\U0001f600 \u10a0\u16a0 \u8a9e \u0645\u0631\u062d  "
)
_WORDS = re.compile(" *[^ ]+| +")
_CACHED_WORDS = 1 << 18
_LONGEST_CACHED = 64  # characters; longer "words" (other scripts, code) do not come back often


class TokenizerError(GolfError):
    """A tokenizer model is damaged, or cannot code a text; the message names it and the way out."""


class Tokenizer:
    """A SentencePiece model with its bytes-per-token table.

    ``lossless`` is found by trial on ``PROBE``: then ``decode(encode(text))`` is the text, byte for byte, and a text's
    bytes are the divisor of its score ("raw"). A model that normalizes has the divisor "decoded": the bytes of what
    its tokens decode to. ``encode`` proves its result on every text. ``token_bytes`` holds the bytes of each piece.
    ``case`` is the form of the case operators that the model carries: pieces then hold operators, texts never do.
    """

    def __init__(self, model: bytes, *, name: str = "tokenizer.model") -> None:
        self.name = name
        self.model = model
        self.sha256 = hashlib.sha256(model).hexdigest()
        if model[:1] in (b"{", b"["):
            raise TokenizerError(
                f"{name}: found JSON, expected a SentencePiece .model; byte-level, GPT-2 and Hugging Face tokenizers "
                "are not supported"
            )
        if count_pieces(model) > 1 << 16:  # before SentencePiece allocates for them
            raise TokenizerError(f"{name}: found more than 65,536 pieces, expected at most that (ids are uint16)")
        try:
            self._sp = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.vocab_size = int(self._sp.get_piece_size())
            pieces = [self._sp.id_to_piece(token) for token in range(self.vocab_size)]
            self.token_bytes = [piece_bytes(self._sp, token) for token in range(self.vocab_size)]
        except (RuntimeError, OSError, ValueError) as error:  # a piece that is no UTF-8 is a ValueError
            raise TokenizerError(f"{name}: not a readable SentencePiece model ({quoted(str(error))[1:-1]})") from error
        self.bos_id = int(self._sp.bos_id())
        self.unk_id = int(self._sp.unk_id())
        longest = max(map(len, self.token_bytes), default=0)
        if self.bos_id < 0 or longest > _LONGEST_PIECE:
            raise TokenizerError(
                f"{name}: found BOS {self.bos_id} and a piece of {longest} bytes, expected a BOS and at most "
                f"{_LONGEST_PIECE} bytes in a piece"
            )
        # A space is only ever at the front of a piece, so no merge crosses "x y" and words can be coded one by one.
        self._by_words = all(SPACE not in piece.lstrip(SPACE) for piece in pieces)
        self._cache: dict[str, list[int]] = {}
        self.case = case_of(model)
        self.lossless = self._joined(self._encode_exact(PROBE)) == PROBE.encode()
        if self.case != "none" and not self.lossless:
            raise TokenizerError(f"{name}: was trained with case operators, but it changes text; train another")
        table = byte_table(self._sp, lossless=self.lossless)
        self.table = replace(table, base_bytes=table.base_bytes - operator_bytes(self.token_bytes, self.case))

    @classmethod
    def from_file(cls, path: str | Path, *, made_by: str = "tokenize.tokenizer") -> Tokenizer:
        """Read a ``.model`` file."""
        return cls(require(path, made_by=made_by).read_bytes(), name=str(path))

    @property
    def divisor(self) -> str:
        """``raw`` or ``decoded``: whose bytes a score is divided by."""
        return "raw" if self.lossless else "decoded"

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` without BOS, proved to decode to it.

        Of a normalizing model it is only proved that no piece is unknown. Raises ``TokenizerError``.
        """
        if self.lossless:
            ids = self._encode_exact(text)
            if self.decode(ids) != text.encode():
                raise TokenizerError(
                    f"{self.name}: changes this text: {_difference(self.decode(ids), text.encode())}; "
                    "train a lossless one (tokenize.tokenizer: train)"
                )
            return ids
        ids = self._sp.encode(text)
        if self.unk_id in ids:
            raise TokenizerError(
                f"{self.name}: has no piece for a character of this text, so a score would be no code length of it; "
                "use a tokenizer with byte fallback (tokenize.tokenizer: train)"
            )
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """UTF-8 bytes of one document's ids; BOS in front may be there or not."""
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        if self.lossless:
            return self._joined(ids)
        parts, after_boundary = [], True
        for token in ids:
            piece = self.token_bytes[token]
            parts.append(piece[1:] if after_boundary and self.table.has_leading_space[token] else piece)
            after_boundary = bool(self.table.is_boundary[token])
        return b"".join(parts)

    def document(self, text: str, *, official: bool = True) -> tuple[np.ndarray, int]:
        """One document as shards hold it: ids uint16 (T,) with BOS in front, and its bytes.

        The bytes by the table are proved to be those of the decoded text. ``official`` asks SentencePiece's own
        decoder too where the model is lossless (one that normalizes is always asked). Raises ``TokenizerError``.
        """
        ids = self.encode(text)
        tokens = np.array([self.bos_id, *ids], dtype=np.uint16)
        actual = len(text.encode())
        if official or not self.lossless:
            decoded = self._official(ids)
            if self.lossless and decoded != text.encode():
                raise TokenizerError(
                    f"{self.name}: SentencePiece decodes the ids to another text: "
                    f"{_difference(decoded, text.encode())}; train a lossless tokenizer (tokenize.tokenizer: train)"
                )
            actual = len(decoded)
        counted = self.table.num_bytes(tokens)
        if counted != actual:
            raise TokenizerError(f"{self.name}: the byte table counts {counted} bytes, the text has {actual}")
        return tokens, counted

    def imported_document(self, ids: np.ndarray) -> tuple[np.ndarray, int]:
        """The same for ids that were made elsewhere; the bytes are proved to be those of the text they decode to."""
        if bool((ids == self.unk_id).any()):
            raise TokenizerError(f"{self.name}: unknown piece in the ids; a score would be no code length of the text")
        tokens = np.concatenate([np.array([self.bos_id]), ids]).astype(np.uint16)
        counted, decoded = self.table.num_bytes(tokens), len(self._official(ids.tolist()))
        if counted != decoded:
            raise TokenizerError(f"{self.name}: the byte table counts {counted} bytes, the ids decode to {decoded}")
        return tokens, counted

    def made(self, ids: np.ndarray) -> bool:
        """Whether this model codes the decoded text of ``ids`` (BOS not included) as these very ids."""
        expected = ids.tolist()
        text = self._sp.decode(expected)
        plain = restore_case(text.encode(), self.case).decode()
        return self._sp.encode(text) == expected or (self.lossless and self._encode_exact(plain) == expected)

    def _official(self, ids: list[int]) -> bytes:
        """UTF-8 bytes by SentencePiece's decoder; a space that became the three bytes of U+2581 is refused."""
        decoded = self._sp.decode(ids)
        if not self.lossless and SPACE in decoded:
            raise TokenizerError(
                f"{self.name}: has no piece for a space ({SPACE}), so that a space is coded, and would be counted, as "
                "three bytes; use a model with that piece, or train one (tokenize.tokenizer: train)"
            )
        return restore_case(decoded.encode(), self.case)

    def _joined(self, ids: Sequence[int]) -> bytes:
        """The text of a lossless model's ids; no run of letters goes on beyond a BOS."""
        if self.case == "none":
            return b"".join([self.token_bytes[token] for token in ids])
        parts = (part for begins, part in groupby(ids, self.bos_id.__eq__) if not begins)
        return b"".join(restore_case(b"".join([self.token_bytes[i] for i in part]), self.case) for part in parts)

    def _encode_exact(self, text: str) -> list[int]:
        """A literal U+2581 would be coded like a space, so its three bytes go through byte fallback."""
        parts = split_literals(text, self.case)
        ids = self._encode_words(parts[0])
        for literal, part in zip(parts[1::2], parts[2::2], strict=True):
            ids += [self._sp.piece_to_id(escape) for escape in literal[:-1]]
            ids += [self._sp.piece_to_id(f"<0x{byte:02X}>") for byte in literal[-1].encode()]
            ids += self._encode_words(part)
        return ids

    def _encode_words(self, text: str) -> list[int]:
        if not self._by_words:
            return list(self._sp.encode(text))
        cache = self._cache
        ids: list[int] = []
        for word in _WORDS.findall(text):
            found = cache.get(word)
            if found is None:
                found = self._sp.encode(word)
                if len(word) <= _LONGEST_CACHED and len(cache) < _CACHED_WORDS:
                    cache[word] = found
            ids += found
        return ids


def _difference(actual: bytes, expected: bytes) -> str:
    length = min(len(actual), len(expected))
    at = next((i for i in range(length) if actual[i] != expected[i]), length)
    return f"at byte {at} found {actual[at : at + 12]!r}, expected {expected[at : at + 12]!r}"


def train_tokenizer(texts: Iterable[str], vocab_size: int, case: Case = "none") -> Tokenizer:
    """Train BPE on ``texts`` (held in memory by the trainer) with ids pad 0, bos 1, eos 2, unk 3.

    No normalization, no dummy prefix, whitespace kept, byte fallback, a piece for the bare space whatever the text:
    nothing of a text is lost. ``texts`` are read a second time where they hold too few spaces for that piece. One
    thread, an iterator for input and a writer for output, as the model file would otherwise record paths and thread
    counts. With a ``case`` the texts go through ``apply_case`` before. Raises ``TokenizerError`` when the text is too
    small (or has too many characters) for ``vocab_size``.
    """
    options = options_of(case)
    if case != "none":
        texts = (apply_case(text, case) for text in texts)
    texts = list(texts) if isinstance(texts, Iterator) else texts
    model = _train(texts, vocab_size, **options)
    if SPACE not in _pieces(model):
        model = _train(texts, vocab_size, **options | {"required_chars": options.get("required_chars", "") + SPACE})
    tokenizer = Tokenizer(model + tag(case))
    if not tokenizer.lossless:
        raise TokenizerError(
            f"the tokenizer trained on this text changes the probe text: {tokenizer.decode(tokenizer.encode(PROBE))!r}"
        )
    return tokenizer


def _train(texts: Iterable[str], vocab_size: int, **options: Any) -> bytes:
    model = io.BytesIO()
    guarded = _Guarded(texts)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(guarded),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            split_digits=True,
            character_coverage=_COVERAGE,
            max_sentence_length=1 << 30,
            num_threads=1,
            minloglevel=3,
            **options,  # recorded in the model, so none that is not needed
        )
    except RuntimeError as error:
        if guarded.error is not None:
            raise guarded.error from None
        raise TokenizerError(_explain(str(error), vocab_size, guarded.count)) from error
    return model.getvalue()


def _pieces(model: bytes) -> set[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return {processor.id_to_piece(token) for token in range(processor.get_piece_size())}


class _Guarded:
    """Texts cut at the reserved character, counted; an error of theirs is remembered, with its own traceback.

    SentencePiece turns each error into a RuntimeError with a traceback in its message.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.error: Exception | None = None
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._texts:
                self.count += 1
                yield from (part for part in text.split(_RESERVED) if part)
        except Exception as error:
            self.error = error
            raise


def _explain(message: str, vocab_size: int, count: int) -> str:
    if match := re.search(r"Vocabulary size too high .*?<= (\d+)", message):
        lower = " or lower tokenize.vocab_size" if int(match[1]) >= MIN_VOCAB_SIZE else ""
        return (
            f"corpus too small for the vocabulary: its text gives {match[1]} pieces, expected {vocab_size}; "
            f"give more text (tokenize.path, tokenize.train_bytes){lower}"
        )
    if match := re.search(r"required_chars.*?(\d+) vs (\d+)", message):
        return (
            f"vocabulary too small for the corpus: its characters want {match[2]} pieces, found {vocab_size}; "
            "raise tokenize.vocab_size"
        )
    if "sentences_.empty()" in message:
        return (
            f"no text to train a tokenizer on: {count:,} training documents hold nothing but newlines and U+2585"
            if count
            else "corpus is empty: no text to train a tokenizer on; check tokenize.source and tokenize.path"
        )
    return f"the tokenizer could not be trained: {message}"
