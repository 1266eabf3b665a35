"""The shipped decoder and the size of everything that counts against the limit.

The decoder is the import closure of ``golf.artifact.decode``, minified, in a zip that Python imports from directly
(``PYTHONPATH=decoder.zip``); it needs numpy, torch, zstandard, constriction and numba from PyPI. Same sources and
Python version, same bytes.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from golf.artifact.coders import CODERS
from golf.artifact.layout import BLOCKS, Unpacked
from golf.base.code import import_closure, minify
from golf.base.errors import GolfError
from golf.base.params import Ge, Le
from golf.quantize.rounding import entropy_bits

__all__ = [
    "CompressConfig", "check_limit", "decoder_sources", "pack_decoder", "side_bytes", "size_metrics",
    "size_rows",
]  # fmt: skip


@dataclass(frozen=True)
class CompressConfig:
    """Section `compress` of the parameters."""

    coder: Literal["smallest", "rans"]
    limit_bytes: Annotated[int, Ge(1), Le(10**12)]

    @property
    def coders(self) -> tuple[str, ...]:
        """Coders tried on every tensor: bit-packing is the way out where tables cost more than they save."""
        return ("rans", "columns", "context", "raw") if self.coder == "smallest" else ("rans", "raw")

    @property
    def embedding_coders(self) -> tuple[str, ...]:
        """Coders tried on lookup tables besides: columns of an embedding predict each other, at 4 times the time."""
        return ("linear",) if self.coder == "smallest" else ()


def decoder_sources(root: str | Path) -> list[str]:
    """Files below ``root`` that the shipped decoder is made of, sorted; `compress` depends on their content."""
    return import_closure("golf.artifact.decode", root)


def pack_decoder(root: str | Path) -> bytes:
    """The decoder as a deterministic zip: minified sources, fixed dates, best deflate."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in decoder_sources(root):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # not the packing machine's
            archive.writestr(entry, minify((Path(root) / name).read_text(encoding="utf-8")), compresslevel=9)
    return buffer.getvalue()


def size_rows(unpacked: Unpacked) -> list[dict[str, Any]]:
    """One row per tensor, largest first: role, shape, bits per weight, order-0 bits, coder, payload and side bytes.

    ``table_bytes`` and ``scale_bytes`` are before their common compression. ``stored_bytes`` is the tensor's part of
    the file, payload and its share of every compressed block, by raw bytes; ``side_stored_bytes`` is that without the
    payload. ``stored_bytes`` of all rows, prefix, index and tokenizer add up to the file.
    """
    raw = {block: sum(record.raw_bytes[block] for record in unpacked.records) for block in BLOCKS}
    rows = []
    for record in unpacked.records:
        tensor = unpacked.model.tensors.get(record.name)
        order0 = entropy_bits(tensor.values) / 8 if tensor is not None else float(record.scale_bytes)
        num_bytes = record.payload_bytes + record.side_bytes + record.scale_bytes
        parts = [unpacked.sections[name] * size / raw[name] for name, size in record.raw_bytes.items() if size]
        rows.append(
            {
                "tensor": record.name,
                "role": record.role,
                "shape": "x".join(map(str, record.shape)) or "1",
                "weights": record.weights,
                "coder": CODERS[record.coder].name if tensor is not None else f"fp{16 * (record.grid + 1)}",
                "bits_per_weight": 8 * num_bytes / max(1, record.weights),
                "order0_bits_per_weight": 8 * order0 / max(1, record.weights),
                "bytes": num_bytes,
                "payload_bytes": record.payload_bytes,
                "table_bytes": record.side_bytes,
                "scale_bytes": record.scale_bytes,
                "side_stored_bytes": sum(parts),
                "stored_bytes": record.payload_bytes + sum(parts),
            }
        )
    return sorted(rows, key=lambda row: (-row["bytes"], row["tensor"]))


def side_bytes(sections: dict[str, int]) -> int:
    """Bytes of an artifact that code neither integers nor tokenizer: prefix, index, tables, scales, small tensors."""
    return sum(size for name, size in sections.items() if name not in ("payload", "tokenizer"))


def size_metrics(unpacked: Unpacked, *, decoder_bytes: int, limit_bytes: int) -> dict[str, float]:
    """Flat metrics of a written artifact: bytes of file, decoder, sections, order-0 entropy, and the margin.

    ``payload_bytes`` is all that codes the integers, streams and tables, to set beside ``order0_bytes``.
    """
    tensors = unpacked.model.tensors.values()
    order0 = sum(entropy_bits(tensor.values) for tensor in tensors) / 8
    quantized = sum(tensor.values.size for tensor in tensors)
    coded = unpacked.sections["payload"] + unpacked.sections["side"]
    total = unpacked.num_bytes + decoder_bytes
    return {
        "artifact_bytes": unpacked.num_bytes,
        "decoder_bytes": decoder_bytes,
        "total_bytes": total,
        "limit_bytes": limit_bytes,
        "margin_bytes": limit_bytes - total,
        "payload_bytes": coded,
        "order0_bytes": order0,
        "coded_to_order0_ratio": coded / order0 if order0 else 1.0,
        "side_information_share": side_bytes(unpacked.sections) / unpacked.num_bytes,
        "bits_per_weight": 8 * unpacked.num_bytes / max(1, unpacked.model.num_weights()),
        "quantized_weights": quantized,
        **{f"section_{name}_bytes": size for name, size in unpacked.sections.items()},
    }


def check_limit(metrics: dict[str, float]) -> None:
    """Raise ``ValueError`` saying by how much the limit is exceeded and what to change."""
    over = int(metrics["total_bytes"] - metrics["limit_bytes"])
    if over <= 0:
        return
    saving = 8 * over / max(1.0, metrics["quantized_weights"])
    raise GolfError(
        f"artifact {metrics['artifact_bytes']:.0f} + decoder {metrics['decoder_bytes']:.0f} = "
        f"{metrics['total_bytes']:.0f} bytes, {over} above compress.limit_bytes={metrics['limit_bytes']:.0f}. "
        f"Save {saving:.2f} bits per weight (lower quantize.levels, or method sdclip with a larger quantize.clip) "
        f"or make the model about {100 * over / metrics['artifact_bytes']:.1f} % smaller"
    )
