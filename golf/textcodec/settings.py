"""What a coded file is made with: settings, the report of a run, and the codec that both make. Files are elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from golf.data.tokenizer import Tokenizer
from golf.mixture.config import MixtureConfig
from golf.textcodec.blocks import BlockCodec
from golf.textcodec.integer.config import FAMILIES
from golf.textcodec.layout import Arithmetic, CodecError
from golf.textcodec.model import TextModel
from golf.textcodec.stepper import open_stepper

__all__ = [
    "BLOCK_BYTES", "INTEGER", "CodecConfig", "CodecReport", "default_arithmetic", "lossless_tokenizer", "mixture_of",
    "open_codec", "steps_of",
]  # fmt: skip

BLOCK_BYTES = 2 << 20
INTEGER = "integer 2"  # name of the integer network's arithmetic; its number changes with any bit of it


@dataclass(frozen=True)
class CodecConfig:
    """``streams`` coded side by side at most, ``window`` keys of attention (the training length or less), ``threads``
    and ``arithmetic`` as in ``golf.textcodec.stepper``, ``mixture`` on or off. ``block_bytes`` of text at most in a
    block: what an interruption loses, and one more cold start each. A decoder need not know it."""

    streams: int = 64
    window: int = 256
    threads: int = 1
    arithmetic: Arithmetic = "integer"
    mixture: bool = True
    block_bytes: int = BLOCK_BYTES

    def __post_init__(self) -> None:
        for name, most in (("streams", 4096), ("window", 1 << 20), ("threads", 1024), ("block_bytes", 1 << 30)):
            if not 1 <= getattr(self, name) <= most:
                raise CodecError(f"{name} is {getattr(self, name)}, expected 1 to {most}")

    @property
    def usual(self) -> bool:
        """Whether a short header can stand for the settings: it names those of the defaults."""
        return (self.streams, self.window, self.arithmetic) == (64, 256, "integer")


@dataclass(frozen=True)
class CodecReport:
    """What was coded or decoded; ``code_bytes`` are the blocks' codes alone, ``file_bytes`` the whole coded file.
    ``resumed_bytes`` of the text had been coded by an interrupted run before; ``seconds`` are those of this run."""

    text_bytes: int
    tokens: int
    code_bytes: int
    file_bytes: int
    stated_bits: float
    text_sha256: str
    seconds: float
    resumed_bytes: int = 0

    @property
    def overhead_percent(self) -> float:
        """Coded bits over the stated code length, without header and block lengths; 0 for an empty text."""
        return 100.0 * (8 * self.code_bytes / self.stated_bits - 1.0) if self.stated_bits else 0.0


def default_arithmetic(decoded: TextModel) -> Arithmetic:
    """``integer`` where the artifact's family has it."""
    return "integer" if decoded.config["family"] in FAMILIES else "portable"


def mixture_of(config: CodecConfig) -> MixtureConfig | None:
    """The mixture's configuration; the codec has one, the default."""
    return MixtureConfig() if config.mixture else None


def lossless_tokenizer(decoded: TextModel) -> Tokenizer:
    """That of the artifact; ``CodecError`` when it changes text or is not the model's."""
    tokenizer = Tokenizer(decoded.tokenizer_model, name="the artifact's tokenizer")
    if not tokenizer.lossless:
        raise CodecError(
            "the artifact's tokenizer changes text (it normalizes), so no coding with it can be undone; "
            "use an artifact whose tokenizer is lossless (tokenize.tokenizer: train)"
        )
    if tokenizer.vocab_size != decoded.vocab_size:
        raise CodecError(
            f"the artifact's tokenizer has {tokenizer.vocab_size} pieces, its model {decoded.vocab_size}; re-run "
            "`dvc repro`"
        )
    return tokenizer


def steps_of(shown: object, num_bytes: int, tokens: int) -> Callable[[int], object]:
    """Advance a bar in bytes of text while tokens are done."""
    each = num_bytes / max(1, tokens)
    return lambda done: shown.update(done * each)  # type: ignore[attr-defined]


@contextlib.contextmanager
def open_codec(decoded: TextModel, config: CodecConfig, mixture: MixtureConfig | None) -> Iterator[BlockCodec]:
    """The codec of blocks, with its threads."""
    with open_stepper(decoded, arithmetic=config.arithmetic, threads=config.threads) as make:
        bos = Tokenizer(decoded.tokenizer_model).bos_id
        yield BlockCodec(make, mixture, decoded.vocab_size, bos, config.streams, config.window)
