"""Writing the artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from golf.artifact.bytes import pack_block, split_pieces, varint
from golf.artifact.coders import Encoded, SideInfo, encode_smallest
from golf.artifact.layout import (
    BLOCKS,
    HASH_AT,
    MAGIC,
    PLAIN,
    PREFIX,
    VERSION,
    CodeWriter,
    Record,
    config_bytes,
    validate,
)
from golf.quantize.tensors import ROLES, QuantizedModel, QuantizedTensor

__all__ = ["pack", "write_index"]


def pack(
    model: QuantizedModel,
    tokenizer: bytes,
    *,
    coders: Sequence[str] = ("rans", "raw"),
    embedding_coders: Sequence[str] = (),
    threads: int = 1,
) -> bytes:
    """The artifact as bytes: same input, same bytes. Every tensor takes the smallest of ``coders``, small data zstd.

    Tensors of role ``embedding`` try ``embedding_coders`` besides; ``threads`` tensors are coded at a time.

    Raises ``ArtifactError`` when ``validate`` refuses the model, ``GolfError`` for unknown coders.
    """
    validate(model, tokenizer)
    records, payload = [], []
    streams: dict[str, list[bytes]] = {name: [] for name in BLOCKS}
    codes = CodeWriter()

    def code(tensor: QuantizedTensor) -> Encoded:
        tried = [*coders, *embedding_coders] if tensor.role == "embedding" else coders
        return encode_smallest(tensor.values, _side_info(tensor), coders=tried)

    largest_first = sorted(model.tensors.values(), key=lambda tensor: (-tensor.values.size, tensor.name))
    with ThreadPoolExecutor(max_workers=threads) as pool:
        results = zip(largest_first, pool.map(code, largest_first), strict=True)
        found = {tensor.name: coded for tensor, coded in results}
    for name in sorted([*model.tensors, *model.plain]):
        if name in model.tensors:
            tensor, coded = model.tensors[name], found[name]
            records.append(_record(tensor, coded))
            _write_scales(tensor, streams, codes)
            streams["side"].append(coded.side)
            payload.append(coded.payload)
        else:
            array = model.plain[name]
            records.append(Record(name, "control", PLAIN.index(array.dtype), array.shape))
            _write_planes(array, streams)
    streams["codes"].append(bytes(codes))
    index = write_index(model, records)
    small = [pack_block(data) for data in (index, *(b"".join(streams[name]) for name in BLOCKS))]
    small.append(pack_block(split_pieces(tokenizer), try_lzma=True))
    body = b"".join([*small, *payload])
    sizes = (PREFIX.size + len(body), model.num_weights(), sum(map(len, payload)))
    head = PREFIX.pack(MAGIC, VERSION, 0, *sizes, bytes(32))[:HASH_AT]
    return head + hashlib.sha256(head + body).digest() + body


def _side_info(tensor: QuantizedTensor) -> SideInfo:
    rows, columns = tensor.values.shape
    return SideInfo(tensor.name, rows, columns, tensor.row_scale, tensor.column_codes, tensor.trellis)


def _record(tensor: QuantizedTensor, coded: Encoded) -> Record:
    grid = 2 + (tensor.row_scale.dtype == np.int8) + 2 * (tensor.column_codes is not None) + 4 * tensor.trellis
    return Record(tensor.name, tensor.role, int(grid), tensor.shape, coded.coder, len(coded.side), len(coded.payload))


def _write_planes(array: np.ndarray, streams: dict[str, list[bytes]]) -> None:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    planes = little.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize)
    streams["low"].append(planes[:, :-1].T.tobytes())
    streams["high"].append(planes[:, -1].tobytes())  # sign and exponent: the part that compresses


def _write_scales(tensor: QuantizedTensor, streams: dict[str, list[bytes]], codes: CodeWriter) -> None:
    if tensor.row_scale.dtype == np.int8:
        codes.add(tensor.row_scale.view(np.int8))
    else:
        _write_planes(tensor.row_scale, streams)
    if tensor.column_codes is not None:
        codes.add(tensor.column_codes)


def write_index(model: QuantizedModel, records: list[Record]) -> bytes:
    config = config_bytes(model.config)
    out = [varint(model.vocab_size), varint(len(config)), config, varint(len(records))]
    places = {}
    for place, record in enumerate(records):
        places[record.name] = place
        name = record.name.encode()
        out += [varint(len(name)), name, bytes([ROLES.index(record.role), record.grid, record.coder])]
        out += [varint(len(record.shape)), *map(varint, record.shape)]
        if record.grid >= 2:
            out += [varint(record.side_bytes), varint(record.payload_bytes)]
    out.append(varint(len(model.aliases)))
    for alias in sorted(model.aliases):
        out += [varint(len(alias.encode())), alias.encode(), varint(places[model.aliases[alias]])]
    return b"".join(out)
