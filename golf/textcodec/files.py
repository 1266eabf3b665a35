"""`golf zip` and `golf unzip` as functions: files in blocks, bounded memory, nothing half-written.

A block is up to ``CodecConfig.block_bytes`` of text, coded from an empty context and an empty mixture: blocks do not
depend on each other, and memory is that of one block however long the text. What that costs is in docs/textcodec.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from golf.base.files import atomic_file, require
from golf.base.progress import bar
from golf.data.tokenizer import Tokenizer
from golf.mixture.config import MixtureConfig
from golf.textcodec.blocks import BlockCodec, check_tokens
from golf.textcodec.coder import mixture_hash
from golf.textcodec.integer.config import FAMILIES
from golf.textcodec.layout import (
    BLOCK,
    SHORT_MAGIC,
    Arithmetic,
    BlockHead,
    CodecError,
    Header,
    Short,
    header_size,
    read_heads,
)
from golf.textcodec.model import TextModel
from golf.textcodec.range_coder import RangeError
from golf.textcodec.resume import Part, open_part
from golf.textcodec.stepper import machine_name, open_stepper
from golf.textcodec.text import iterate_text

__all__ = [
    "BLOCK_BYTES", "CodecConfig", "CodecReport", "default_arithmetic", "unzip_file", "zip_file", "zip_tokens",
]  # fmt: skip

BLOCK_BYTES = 2 << 20
SHORT_BYTES = 1 << 16  # a text of so many bytes at most, in the usual settings, has a short header
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


def zip_file(
    source: str | Path,
    target: str | Path,
    decoded: TextModel,
    config: CodecConfig,
    *,
    force: bool = False,
    check: bool = False,
) -> CodecReport:
    """Code the UTF-8 text ``source`` into ``target`` with an artifact, from where an interrupted run left off.

    With ``check`` the file is decoded before it gets its name. ``force`` replaces files of other origin that have the
    names of an interrupted run's; see ``golf.textcodec.resume`` for those. Raises ``FileError`` when the source is
    missing and ``CodecError`` for text that is no UTF-8, a tokenizer that changes text, or a target that another
    process is writing; ``target`` appears whole or not at all.
    """
    source, target = _text_file(Path(source)), Path(os.path.realpath(target))  # a link's file, not the link
    tokenizer, begin = _lossless(decoded), time.perf_counter()
    if source.stat().st_size <= min(SHORT_BYTES, config.block_bytes) and config.usual:
        return _zip_short(source, target, decoded, config, check=check)
    mixture, machine = _mixture(config), _machine(config.arithmetic)
    settings = {"artifact": decoded.sha256, "machine": machine, "mixture": mixture_hash(mixture)} | asdict(config)
    if config.arithmetic != "fast":
        settings["threads"] = 0
    with open_part(target, source, settings=settings, header_bytes=header_size(machine), force=force) as part:
        resumed = part.tally.text_bytes
        texts = iterate_text(source, block_bytes=config.block_bytes, offset=resumed)
        blocks = (np.asarray(tokenizer.encode(text), dtype=np.int64) for text in texts)
        _write_blocks(blocks, part, decoded, config, total_bytes=source.stat().st_size)
        if check:
            _decode(part.path, None, decoded, config.threads)
    return _report(part, time.perf_counter() - begin, resumed)


def zip_tokens(
    blocks: Iterable[np.ndarray], target: str | Path, decoded: TextModel, config: CodecConfig, *, total_bytes: int
) -> CodecReport:
    """Code token blocks (N,) int64; a BOS among them begins a document and stands for no byte of the text."""
    begin = time.perf_counter()
    with atomic_file(target) as temporary, open(temporary, "w+b") as file:
        part = Part(temporary, file, header_bytes=header_size(_machine(config.arithmetic)))
        part.begin()
        _write_blocks(blocks, part, decoded, config, total_bytes=total_bytes)
    return _report(part, time.perf_counter() - begin, 0)


def _write_blocks(
    blocks: Iterable[np.ndarray], part: Part, decoded: TextModel, config: CodecConfig, *, total_bytes: int
) -> None:
    """Code ``blocks`` behind those of ``part``, then its header."""
    tokenizer, mixture = _lossless(decoded), _mixture(config)
    with _codec(decoded, config, mixture) as codec, bar(what="zip", total=total_bytes, unit="B") as progress:
        progress.update(part.tally.text_bytes)
        for tokens in blocks:
            check_tokens(tokens, decoded.vocab_size)
            text = tokenizer.decode(tokens)
            coded = codec.encode(tokens, advance=_steps(progress, len(text), len(tokens)))
            part.append(BLOCK.pack(len(tokens), len(text), len(coded.code)) + coded.code, text, len(tokens), coded)
    part.finish(_header(decoded, config, part).pack())


def _mixture(config: CodecConfig) -> MixtureConfig | None:
    return MixtureConfig() if config.mixture else None


def _header(decoded: TextModel, config: CodecConfig, part: Part) -> Header:
    tally = part.tally
    return Header(
        streams=config.streams, threads=config.threads if config.arithmetic == "fast" else 0,
        window=config.window, arithmetic=config.arithmetic, text_bytes=tally.text_bytes, tokens=tally.tokens,
        blocks=tally.blocks, stated_bits=float.fromhex(tally.stated_bits), artifact_sha256=decoded.sha256,
        text_sha256=part.digest.hexdigest(), mixture=mixture_hash(_mixture(config)),
        machine=_machine(config.arithmetic),
    )  # fmt: skip


def _report(part: Part, seconds: float, resumed: int) -> CodecReport:
    tally = part.tally
    return CodecReport(
        text_bytes=tally.text_bytes, tokens=tally.tokens, code_bytes=tally.code_bytes, file_bytes=tally.part_bytes,
        stated_bits=float.fromhex(tally.stated_bits), text_sha256=part.digest.hexdigest(), seconds=seconds,
        resumed_bytes=resumed,
    )  # fmt: skip


def _text_file(path: Path) -> Path:
    """A file that can be read more than once: from where a run was interrupted, and to compare."""
    if str(path) == "-":
        raise CodecError("-: standard input is read once, a text that is coded more than once; give a file")
    require(path, made_by="you: the text to code")
    if not path.is_file():
        raise CodecError(f"{path}: is {'a folder' if path.is_dir() else 'a pipe or device'}, expected a file of text")
    return path


def unzip_file(
    source: str | Path, target: str | Path, decoded: TextModel, *, threads: int | None = None
) -> CodecReport:
    """Restore the text of ``source`` into ``target``, proved by its SHA-256.

    ``threads`` must be the recorded number, or any for portable and integer arithmetic; ``None`` takes it from the file
    (or one). Raises ``FileError`` when the source is missing and ``CodecError`` when it is damaged, or when artifact,
    threads, mixture or machine are not those of the coding; ``target`` appears whole or not at all. The report counts
    what was decoded.
    """
    source = require(source, made_by="`golf zip`")
    if not source.is_file():
        raise CodecError(f"{source}: is a folder, a pipe or a device, expected a file of `golf zip`")
    return _decode(source, Path(target), decoded, threads)


def _decode(source: Path, target: Path | None, decoded: TextModel, threads: int | None) -> CodecReport:
    """Decode ``source`` into ``target``, or just decode it."""
    begin = time.perf_counter()
    with open(source, "rb") as coded:
        if coded.peek(1)[:1] == bytes([SHORT_MAGIC]):
            return _decode_short(source, target, decoded, threads)
        header = Header.read(coded, where=str(source))
        mixture = MixtureConfig() if header.mixes else None
        _check_fit(header, decoded, mixture, threads, str(source))
        heads = read_heads(coded, header, where=str(source))
        try:
            config = CodecConfig(
                header.streams, header.window, threads or header.threads or 1, header.arithmetic, header.mixes
            )
        except CodecError as error:
            raise CodecError(f"{source}: {error}") from error
        digest, stated_bits = hashlib.sha256(), 0.0
        with contextlib.nullcontext() if target is None else atomic_file(target, source=source) as temporary:
            with open(temporary or os.devnull, "wb") as file:
                for text, bits in _decoded_blocks(coded, heads, decoded, config, mixture, str(source)):
                    file.write(text)
                    digest.update(text)
                    stated_bits += bits
            if digest.hexdigest() != header.text_sha256:
                raise CodecError(
                    f"{source}: decoded {header.text_bytes} bytes with SHA-256 {digest.hexdigest()}, the text coded "
                    f"had {header.text_sha256}: damaged, or computed in another arithmetic"
                )
        file_bytes = coded.tell()
    return CodecReport(
        text_bytes=header.text_bytes, tokens=header.tokens, code_bytes=sum(head.code_bytes for head in heads),
        file_bytes=file_bytes, stated_bits=stated_bits, text_sha256=header.text_sha256,
        seconds=time.perf_counter() - begin,
    )  # fmt: skip


def _decoded_blocks(
    coded: BinaryIO,
    heads: Sequence[BlockHead],
    decoded: TextModel,
    config: CodecConfig,
    mixture: MixtureConfig | None,
    where: str,
) -> Iterator[tuple[bytes, float]]:
    """Text and stated bits of each block."""
    tokenizer = _lossless(decoded)
    sizes = np.array([len(piece) for piece in tokenizer.token_bytes])
    total = sum(head.text_bytes for head in heads)
    with _codec(decoded, config, mixture) as codec, bar(what="unzip", total=total, unit="B") as progress:
        for index, head in enumerate(heads, start=1):
            coded.seek(BLOCK.size, os.SEEK_CUR)
            try:
                codec.check_memory(head.tokens, head.code_bytes)
                tokens, bits = codec.decode(
                    coded.read(head.code_bytes), head.tokens, sizes=sizes, num_bytes=head.text_bytes,
                    advance=_steps(progress, head.text_bytes, head.tokens),
                )  # fmt: skip
                text = tokenizer.decode(tokens)
                if len(text) != head.text_bytes:
                    raise RangeError(f"decodes to {len(text)} bytes, {head.text_bytes} are stated: damaged")
            except (RangeError, CodecError) as error:
                raise CodecError(f"{where}: block {index} of {len(heads)}: {error}") from error
            yield text, bits


def _steps(shown: object, num_bytes: int, tokens: int) -> Callable[[int], object]:
    """Advance a bar in bytes of text while tokens are done."""
    each = num_bytes / max(1, tokens)
    return lambda done: shown.update(done * each)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _codec(decoded: TextModel, config: CodecConfig, mixture: MixtureConfig | None) -> Iterator[BlockCodec]:
    with open_stepper(decoded, arithmetic=config.arithmetic, threads=config.threads) as make:
        bos = Tokenizer(decoded.tokenizer_model).bos_id
        yield BlockCodec(make, mixture, decoded.vocab_size, bos, config.streams, config.window)


def default_arithmetic(decoded: TextModel) -> Arithmetic:
    """``integer`` where the artifact's family has it."""
    return "integer" if decoded.config["family"] in FAMILIES else "portable"


def _machine(arithmetic: Arithmetic) -> str:
    """What the probabilities depend on; the integer network needs IEEE arithmetic and nothing else."""
    return INTEGER if arithmetic == "integer" else machine_name()


def _zip_short(source: Path, target: Path, decoded: TextModel, config: CodecConfig, *, check: bool) -> CodecReport:
    """A text of one block behind a short header; an interruption loses nothing that another way would keep."""
    begin, tokenizer = time.perf_counter(), _lossless(decoded)
    text = "".join(iterate_text(source, block_bytes=BLOCK_BYTES))
    tokens, data = np.asarray(tokenizer.encode(text), dtype=np.int64), text.encode()
    with _codec(decoded, config, _mixture(config)) as codec, bar(what="zip", total=len(data), unit="B") as progress:
        coded = codec.encode(tokens, advance=_steps(progress, len(data), len(tokens)))
    head = Short(len(tokens), config.mixture, _short_name(decoded, config), zlib.crc32(data)).pack()
    with atomic_file(target, source=source) as temporary:
        Path(temporary).write_bytes(head + coded.code)
        if check:
            _decode(Path(temporary), None, decoded, config.threads)
    return CodecReport(
        text_bytes=len(data), tokens=len(tokens), code_bytes=len(coded.code), file_bytes=len(head) + len(coded.code),
        stated_bits=coded.stated_bits, text_sha256=hashlib.sha256(data).hexdigest(),
        seconds=time.perf_counter() - begin,
    )  # fmt: skip


def _short_name(decoded: TextModel, config: CodecConfig) -> bytes:
    """Four bytes that name artifact, mixture and arithmetic."""
    names = (decoded.sha256, mixture_hash(_mixture(config)), INTEGER)
    return hashlib.sha256(" ".join(names).encode()).digest()[:4]


def _decode_short(source: Path, target: Path | None, decoded: TextModel, threads: int | None) -> CodecReport:
    begin = time.perf_counter()
    if source.stat().st_size > 4 * SHORT_BYTES + 64:
        raise CodecError(f"{source}: {source.stat().st_size} bytes are too many for a short text: damaged")
    data = source.read_bytes()
    header, code = Short.read(data, where=str(source))
    config = CodecConfig(threads=threads or 1, mixture=header.mixes)
    expected = _short_name(decoded, config)
    if header.name != expected:
        raise CodecError(
            f"{source}: coded with artifact or version {header.name.hex()}, this is {expected.hex()}; give --artifact "
            "the very same file and use the golf that coded it"
        )
    try:
        tokenizer = _lossless(decoded)
        sizes = np.array([len(piece) for piece in tokenizer.token_bytes])
        with _codec(decoded, config, _mixture(config)) as codec, bar(what="unzip", total=header.tokens) as progress:
            codec.check_memory(header.tokens, len(code))
            tokens, bits = codec.decode(
                code, header.tokens, sizes=sizes, num_bytes=SHORT_BYTES, advance=progress.update
            )
        text = tokenizer.decode(tokens)
    except (RangeError, CodecError) as error:
        raise CodecError(f"{source}: {error}") from error
    if zlib.crc32(text) != header.crc:
        raise CodecError(f"{source}: decoded {len(text)} bytes with CRC-32 {zlib.crc32(text):08x}, the text coded had "
                         f"{header.crc:08x}: damaged")  # fmt: skip
    if target is not None:
        with atomic_file(target, source=source) as temporary:
            Path(temporary).write_bytes(text)
    return CodecReport(
        text_bytes=len(text), tokens=header.tokens, code_bytes=len(code), file_bytes=len(data), stated_bits=bits,
        text_sha256=hashlib.sha256(text).hexdigest(), seconds=time.perf_counter() - begin,
    )  # fmt: skip


def _lossless(decoded: TextModel) -> Tokenizer:
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


def _check_fit(
    header: Header, decoded: TextModel, mixture: MixtureConfig | None, threads: int | None, where: str
) -> None:
    if header.artifact_sha256 != decoded.sha256:
        raise CodecError(
            f"{where}: coded with artifact {header.artifact_sha256[:16]}, this is artifact {decoded.sha256[:16]} "
            "(SHA-256); give --artifact the very same file"
        )
    machine = _machine(header.arithmetic)
    if header.machine != machine:
        raise CodecError(
            f"{where}: coded in the arithmetic `{header.machine}`, this is `{machine}`; the probabilities would "
            "differ in their last bits, decode where it was coded"
        )
    if header.arithmetic == "fast" and threads not in (None, header.threads):
        raise CodecError(
            f"{where}: coded in fast arithmetic with {header.threads} threads, found --threads {threads}; float sums "
            "depend on it (code with --arithmetic portable to be free)"
        )
    if header.mixture != mixture_hash(mixture):
        raise CodecError(
            f"{where}: coded with mixture {header.mixture}, this golf has mixture {mixture_hash(mixture)}; use the "
            "version that coded it"
        )
