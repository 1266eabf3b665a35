"""Train a lossless SentencePiece BPE tokenizer whose bytes depend on nothing but the text and the vocabulary size."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from golf.tokens.tokenizer import Tokenizer, TokenizerError

__all__ = ["MIN_VOCAB_SIZE", "train_tokenizer"]

MIN_VOCAB_SIZE = 261  # 4 control pieces, 256 byte pieces and one piece to learn
COVERAGE = 0.999  # share of the characters that get a piece of their own; the rest is coded by bytes


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train BPE on ``texts`` (held in memory by the trainer) with ids pad 0, bos 1, eos 2, unk 3.

    No normalisation, no dummy prefix, whitespace kept, byte fallback: nothing of a text is lost. One thread, an
    iterator for input and a writer for output, as the model file would otherwise record paths and thread counts.
    Raises ``TokenizerError`` when the text is too small (or has too many characters) for ``vocab_size``.
    """
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
            character_coverage=COVERAGE,
            max_sentence_length=1 << 30,
            num_threads=1,
            minloglevel=3,
        )
    except RuntimeError as error:
        if guarded.error is not None:
            raise guarded.error from None
        raise TokenizerError(_explain(str(error), vocab_size)) from error
    tokenizer = Tokenizer(model.getvalue())
    assert tokenizer.lossless, "identity normalisation with byte fallback restores the probe"
    return tokenizer


class _Guarded:
    """An iterable that remembers its own error: SentencePiece turns each into a RuntimeError with a traceback in it."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._texts
        except Exception as error:
            self.error = error
            raise


def _explain(message: str, vocab_size: int) -> str:
    if found := re.search(r"Vocabulary size too high .*?<= (\d+)", message):
        return (
            f"corpus too small for the vocabulary: its text gives {found[1]} pieces, wanted {vocab_size}; "
            "give more text (tokenize.path, tokenize.train_bytes) or lower tokenize.vocab_size"
        )
    if found := re.search(r"required_chars.*?(\d+) vs (\d+)", message):
        return (
            f"vocabulary too small for the corpus: its characters want {found[2]} pieces, found {vocab_size}; "
            "raise tokenize.vocab_size"
        )
    if "sentences_.empty()" in message:
        return "corpus is empty: no text to train a tokenizer on; check tokenize.source and tokenize.path"
    return f"the tokenizer could not be trained: {message}"
