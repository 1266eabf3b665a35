"""`golf zip` and `golf unzip` as functions: files in blocks, bounded memory, nothing half-written.

A block is up to ``CodecConfig.block_bytes`` of text, coded from an empty context and an empty mixture: blocks do not
depend on each other, and memory is that of one block however long the text. What that costs is in docs/textcodec.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np

from golf.base.files import atomic_file, require
from golf.base.progress import bar
from golf.mixture.config import MixtureConfig
from golf.textcodec.blocks import check_tokens
from golf.textcodec.coder import mixture_hash
from golf.textcodec.layout import (
    BLOCK,
    SHORT_MAGIC,
    Arithmetic,
    BlockHead,
    CodecError,
    Header,
    header_size,
    read_heads,
)
from golf.textcodec.model import TextModel
from golf.textcodec.range_coder import RangeError
from golf.textcodec.resume import Part, open_part
from golf.textcodec.settings import (
    BLOCK_BYTES,
    INTEGER,
    CodecConfig,
    CodecReport,
    default_arithmetic,
    lossless_tokenizer,
    mixture_of,
    open_codec,
    steps_of,
)
from golf.textcodec.short import SHORT_BYTES, decode_short, zip_short
from golf.textcodec.stepper import machine_name
from golf.textcodec.text import iterate_text

__all__ = [
    "BLOCK_BYTES", "CodecConfig", "CodecReport", "default_arithmetic", "unzip_file", "zip_file", "zip_tokens",
]  # fmt: skip


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
    tokenizer, begin = lossless_tokenizer(decoded), time.perf_counter()
    if source.stat().st_size <= min(SHORT_BYTES, config.block_bytes) and config.usual:
        return zip_short(source, target, decoded, config, check=check)
    mixture, machine = mixture_of(config), _machine(config.arithmetic)
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
    tokenizer, mixture = lossless_tokenizer(decoded), mixture_of(config)
    with open_codec(decoded, config, mixture) as codec, bar(what="zip", total=total_bytes, unit="B") as progress:
        progress.update(part.tally.text_bytes)
        for tokens in blocks:
            check_tokens(tokens, decoded.vocab_size)
            text = tokenizer.decode(tokens)
            coded = codec.encode(tokens, advance=steps_of(progress, len(text), len(tokens)))
            part.append(BLOCK.pack(len(tokens), len(text), len(coded.code)) + coded.code, text, len(tokens), coded)
    part.finish(_header(decoded, config, part).pack())


def _header(decoded: TextModel, config: CodecConfig, part: Part) -> Header:
    tally = part.tally
    return Header(
        streams=config.streams, threads=config.threads if config.arithmetic == "fast" else 0,
        window=config.window, arithmetic=config.arithmetic, text_bytes=tally.text_bytes, tokens=tally.tokens,
        blocks=tally.blocks, stated_bits=float.fromhex(tally.stated_bits), artifact_sha256=decoded.sha256,
        text_sha256=part.digest.hexdigest(), mixture=mixture_hash(mixture_of(config)),
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
            return decode_short(source, target, decoded, threads)
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
    tokenizer = lossless_tokenizer(decoded)
    sizes = tokenizer.table.with_space.astype(np.int64)
    total = sum(head.text_bytes for head in heads)
    with open_codec(decoded, config, mixture) as codec, bar(what="unzip", total=total, unit="B") as progress:
        for index, head in enumerate(heads, start=1):
            coded.seek(BLOCK.size, os.SEEK_CUR)
            try:
                codec.check_memory(head.tokens, head.code_bytes)
                tokens, bits = codec.decode(
                    coded.read(head.code_bytes), head.tokens, sizes=sizes, num_bytes=head.text_bytes,
                    advance=steps_of(progress, head.text_bytes, head.tokens),
                )  # fmt: skip
                text = tokenizer.decode(tokens)
                if len(text) != head.text_bytes:
                    raise RangeError(f"decodes to {len(text)} bytes, {head.text_bytes} are stated: damaged")
            except (RangeError, CodecError) as error:
                raise CodecError(f"{where}: block {index} of {len(heads)}: {error}") from error
            yield text, bits


def _machine(arithmetic: Arithmetic) -> str:
    """What the probabilities depend on; the integer network needs IEEE arithmetic and nothing else."""
    return INTEGER if arithmetic == "integer" else machine_name()


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
