"""The shipped decoder and the size of everything that counts against the limit.

The decoder is what ``golf.artifact.decode.load_artifact`` can reach of the sources, for one artifact's model family and
coders. It is a zip that Python imports from directly (``PYTHONPATH=decoder.zip``) and needs numpy, torch, zstandard,
constriction and numba from PyPI. It holds two files: all sources as one LZMA stream, and the loader that hands them to
Python. docs/format.md says more.
"""

from __future__ import annotations

import ast
import io
import lzma
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from golf.artifact.coders import CODERS
from golf.artifact.layout import BLOCKS, Unpacked
from golf.artifact.read import read_index
from golf.artifact.shake import plain, shake, shorten
from golf.base.code import import_closure, minify
from golf.base.errors import GolfError
from golf.base.params import Ge, Le
from golf.quantize.rounding import entropy_bits

__all__ = [
    "CompressConfig", "check_limit", "decoder_modules", "pack_decoder", "side_bytes", "size_metrics", "size_rows",
]  # fmt: skip

DECODER = "golf.artifact.decode"
INTERFACE = ("model", "hidden", "logits")  # what a user of the decoder calls behind ``load_artifact``
LOADER = """
import lzma, sys
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.util import spec_from_loader

class Packed(InspectLoader, MetaPathFinder):
    code = lzma.decompress(__loader__.get_data(__path__[0] + "/code.lzma")).decode()
    sources = dict(module.split("\\n", 1) for module in code.split("\\0"))

    def find_spec(self, name, path=None, target=None):
        if name in self.sources or self.is_package(name):
            return spec_from_loader(name, self)

    def is_package(self, name):
        return any(other.startswith(name + ".") for other in self.sources)

    def get_source(self, name):
        return self.sources.get(name, "")

sys.meta_path.insert(0, Packed())
"""
_FILTER = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0}  # best on these


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


def pack_decoder(root: str | Path, artifact: bytes) -> bytes:
    """The decoder of one artifact as a zip: its model family and coders, made of the sources below ``root``.

    Deterministic: same sources, family and coders (and Python version), same bytes. Raises ``ArtifactError`` for bytes
    that are no artifact.
    """
    config, records = read_index(artifact)
    coders = frozenset(record.coder for record in records if record.grid >= 2)
    return _packed(Path(root), str(config["family"]), coders)


@lru_cache(maxsize=8)  # a search for a size asks for it after every probe
def _packed(root: Path, family: str, coders: frozenset[int]) -> bytes:
    return pack_modules(decoder_modules(root, family, coders))


def pack_modules(modules: Mapping[str, str]) -> bytes:
    """A zip from which Python imports the modules, given as sources by name."""
    parts = (f"{name}\n{text}" for name, text in modules.items())
    code = lzma.compress("\0".join(parts).encode(), format=lzma.FORMAT_ALONE, filters=[_FILTER])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in (("golf/__init__.py", minify(LOADER).encode()), ("golf/code.lzma", code)):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # not the packing machine's
            archive.writestr(entry, data, zipfile.ZIP_STORED if data is code else zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()


def decoder_modules(root: str | Path, family: str, coders: Collection[int]) -> dict[str, str]:
    """Source of each module of the decoder: what ``load_artifact`` and a model's logits need, minified."""
    trees = {}
    for name in import_closure(DECODER, root, [family]):
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        trees[module] = ast.parse(minify((Path(root) / name).read_text(encoding="utf-8"), [family]))
    _leave_out(trees, coders)
    modules = shake({name: plain(tree) for name, tree in trees.items()}, [(DECODER, "load_artifact")], INTERFACE)
    shorten(modules)
    return {name: _text(tree) for name, tree in modules.items()}


def _leave_out(trees: dict[str, ast.Module], coders: Collection[int]) -> None:
    """Take out, in place, decoders of other numbers, a model's loss and roles, and the store of compiled code: sources
    inside a zip have no file to keep it beside."""
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "DECODERS":
                assert isinstance(node.value, ast.Dict)
                pairs = zip(node.value.keys, node.value.values, strict=True)
                chosen = [(k, v) for k, v in pairs if isinstance(k, ast.Constant) and k.value in coders]
                node.value.keys, node.value.values = [k for k, _ in chosen], [v for _, v in chosen]
            elif isinstance(node, ast.ClassDef) and node.name == "LanguageModel":
                node.body = [i for i in node.body if getattr(i, "name", "") not in ("forward", "role")]
            elif isinstance(node, ast.FunctionDef) and node.name == "_store":
                node.body = [ast.Pass()]


def _text(tree: ast.Module) -> str:
    """Source of ``tree``, indented by single spaces."""
    text = ast.unparse(tree)
    lines = [(line, line.lstrip(" ")) for line in text.split("\n")]
    small = "\n".join(" " * ((len(line) - len(code)) // 4) + code for line, code in lines if code)
    if ast.dump(ast.parse(small)) != ast.dump(ast.parse(text)):
        raise RuntimeError("indenting by single spaces changed the program")
    return small


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
    """Raise ``GolfError`` saying by how much the limit is exceeded and what to change."""
    over = int(metrics["total_bytes"] - metrics["limit_bytes"])
    if over <= 0:
        return
    found = (
        f"artifact {metrics['artifact_bytes']:.0f} + decoder {metrics['decoder_bytes']:.0f} = "
        f"{metrics['total_bytes']:.0f} bytes, {over} above compress.limit_bytes={metrics['limit_bytes']:.0f}. "
    )
    if metrics["decoder_bytes"] >= metrics["limit_bytes"]:
        raise GolfError(f"{found}No model fits: the decoder alone is {metrics['decoder_bytes']:.0f} bytes")
    saving = 8 * over / max(1.0, metrics["quantized_weights"])
    raise GolfError(
        f"{found}Save {saving:.2f} bits per weight (lower quantize.levels, or method sdclip with a larger "
        f"quantize.clip) or make the model about {100 * over / metrics['artifact_bytes']:.1f} % smaller"
    )
