"""Files of a model that others trained: safetensors or ``.bin`` with ``config.json``, or a GGUF, behind one reader.

``Origin`` gives tensors one at a time as float32 under the names of Hugging Face transformers, its configuration, and
the files that have to come back with the weights (configuration, tokenizer). Nothing of it is run.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.base import files
from golf.base.files import read_json, require
from golf.base.params import quoted
from golf.base.tensor_file import own_metadata, tensor_file
from golf.imports.checkpoint import load_state
from golf.imports.tables import OriginError, decoder_config, from_origin, rules
from golf.models.decoder import DecoderConfig

__all__ = ["Origin", "converted", "import_model", "open_origin", "parse_blob", "read_blob"]

KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
_BUFFERS = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")
_FLOATS = {"F16", "BF16", "F32", "F64"}
MADE_BY = "whoever trained it"


class Origin(ABC):
    """A model as others wrote it."""

    where: Path
    files: dict[str, Any]  # configuration and tokenizer by their file names, as JSON
    exact_bits: float  # bits a weight of the stored numbers; below 16 it is quantized already

    @property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        found = self.files["config.json"]
        assert isinstance(found, dict)
        return found

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name; buffers that hold no weights are left out."""

    @abstractmethod
    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32."""


class Folder(Origin):
    """``config.json`` beside one ``.safetensors`` or several with an index, or beside ``pytorch_model.bin`` alike."""

    def __init__(self, folder: Path) -> None:
        self.where = folder
        self.files = {"config.json": read_json(folder / "config.json", made_by=MADE_BY)}
        for name in KEPT:
            if (folder / name).is_file():
                self.files[name] = read_json(folder / name, made_by=MADE_BY)
        self._read: dict[str, Callable[[], Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        sizes = []
        for path in self._paths(folder):
            for name, kind, shape, read in _listed(path):
                short = name.removeprefix("transformer.") if self.config.get("model_type") == "gpt2" else name
                full = f"transformer.{short}" if self._bare_gpt2(short) else name
                if full.endswith(_BUFFERS):
                    continue
                if kind not in _FLOATS:
                    raise OriginError(f"{path}: {name} holds {kind} numbers, expected {sorted(_FLOATS)}")
                if full in self._shapes:
                    raise OriginError(f"{path}: {name} is there twice, in this file or another")
                self._read[full], self._shapes[full] = read, shape
                sizes.append(int(kind.strip("BF")))
        self.exact_bits = float(max(sizes, default=32))

    def _bare_gpt2(self, name: str) -> bool:
        return self.config.get("model_type") == "gpt2" and name != "lm_head.weight"

    @staticmethod
    def _paths(folder: Path) -> list[Path]:
        old = not any(folder.glob("*.safetensors"))
        index = folder / ("pytorch_model.bin.index.json" if old else "model.safetensors.index.json")
        if index.is_file():
            parts = read_json(index, made_by=MADE_BY).get("weight_map")
            shards = set(parts.values()) if isinstance(parts, dict) else set()
            if not shards or not all(isinstance(name, str) and Path(name).name == name for name in shards):
                raise OriginError(f"{index}: weight_map: found {quoted(parts)}, expected tensors and their files")
            return [require(folder / name, made_by=MADE_BY) for name in sorted(shards)]
        found = sorted(folder.glob("pytorch_model.bin" if old else "*.safetensors"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise OriginError(f"{folder}: found {names}, expected one .safetensors, or an index beside several")
        return found

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = self._read[name]().float().numpy()
        return array


def _listed(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], Callable[[], Any]]]:
    """Name, type of the numbers as safetensors calls it, shape and reader of every tensor in a file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".bin":
        for name, tensor in load_state(path).items():
            kind = str(tensor.dtype).removeprefix("torch.")
            yield name, kind.replace("bfloat", "BF").replace("float", "F"), tuple(tensor.shape), tensor.float
        return
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise OriginError(f"{path}: not a readable safetensors file ({error})") from error
    for name in file.keys():  # noqa: SIM118 (safe_open is no dict)
        part = file.get_slice(name)
        yield name, part.get_dtype(), tuple(part.get_shape()), partial(file.get_tensor, name)


def open_origin(path: str | Path) -> Origin:
    """The model at ``path``: a folder, or a ``.gguf``. Raises ``OriginError`` or ``FileError`` saying what is wrong."""
    path = Path(path)
    if path.is_dir():
        return Folder(path)
    if path.suffix == ".gguf":
        from golf.imports.gguf import GgufOrigin

        return GgufOrigin(require(path, made_by="`golf fetch smollm2`, or whoever trained it"))
    require(path, made_by="`golf fetch smollm2`, or whoever trained it")
    raise OriginError(
        f"{path}: expected a .gguf, a folder with config.json and .safetensors, or one with a .pt and its tokenizer"
    )


def converted(origin: Origin) -> tuple[DecoderConfig, int, Iterator[tuple[str, NDArray[np.float32]]]]:
    """Our configuration, the rows of the token table, and our tensors one by one.

    Every tensor of the origin is used exactly once. Raises ``OriginError`` naming what is missing, left over or of
    another shape than the configuration says.
    """
    from golf.models.registry import empty_shapes

    where, kind = str(origin.where), str(origin.config.get("model_type"))
    shapes = dict(origin.shapes)
    head = "embed_out.weight" if kind == "gpt_neox" else "lm_head.weight"
    said = origin.config.get("tie_word_embeddings")
    tied = bool(said) if said is not None else head not in shapes
    config = decoder_config(origin.config, tied=tied, where=where)
    table = rules(kind, 1, {"token_embedding"})[0][0]
    if table not in shapes:
        raise OriginError(f"{where}: {table} is missing, which a model of type {kind} has")
    vocab_size = shapes[table][0]
    if tied and head in shapes:  # a copy of the table, as some tools write it
        if not np.array_equal(origin.read(head), origin.read(table)):
            raise OriginError(f"{where}: tie_word_embeddings: found true, but {head} differs from {table}")
        del shapes[head]
    wanted = empty_shapes(config, vocab_size)
    chosen = rules(kind, config.layers, set(wanted))
    missing = [name for name, _, _ in chosen if name not in shapes]
    surplus = sorted(shapes.keys() - {name for name, _, _ in chosen})
    if missing:
        raise OriginError(f"{where}: {missing[0]} is missing, which its configuration asks for ({len(missing)} are)")
    if surplus:
        raise OriginError(f"{where}: {surplus[0]} has no place in a model of type {kind} ({len(surplus)} left over)")
    return config, vocab_size, _tensors(origin, chosen, config, wanted)


def _tensors(
    origin: Origin, chosen: list[Any], config: DecoderConfig, wanted: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for source, targets, layout in chosen:
        array = origin.read(source)
        try:
            parts = from_origin(array, layout, config)
        except ValueError:
            parts = []
        found = [part.shape for part in parts]
        if found != [wanted[name] for name in targets]:
            expected = ", ".join(str(wanted[name]) for name in targets)
            raise OriginError(f"{origin.where}: {source}: found {array.shape}, its configuration expects {expected}")
        if not np.isfinite(array).all():
            raise OriginError(f"{origin.where}: {source}: holds NaN or infinity")
        yield from zip(targets, parts, strict=True)


def import_model(origin: Origin, root: Path) -> dict[str, Any]:
    """Write the weights below ``root`` as the stage `average` does, and beside them what belongs to them.

    Returns flat metrics. Raises ``OriginError`` as ``converted``.
    """
    config, vocab_size, tensors = converted(origin)
    from golf.models.registry import config_to_dict, empty_shapes

    described = config_to_dict(config)
    shapes = empty_shapes(config, vocab_size)
    meta = {"model": described, "vocab_size": vocab_size, "origin": origin.where.name, "kind": "imported"}
    with tensor_file(root / "artifacts/average/model.safetensors", shapes, own_metadata(meta)) as put:
        for name, array in tensors:
            put(name, array)
    blob = {"origin": origin.where.name, "files": origin.files}
    text = json.dumps(blob, separators=(",", ":"), ensure_ascii=False)
    files.write_text(root / "artifacts/tokens/tokenizer.model", text)
    return {
        "import_tensors": len(origin.shapes),
        "import_weights": sum(math.prod(shape) for shape in shapes.values()),
        "import_bits_per_weight": origin.exact_bits,
        "import_source": origin.where.name,
        "import_vocab_size": vocab_size,
    }


def read_blob(path: Path) -> dict[str, Any]:
    """What ``import_model`` wrote beside the weights: ``origin`` (its name) and ``files``."""
    return parse_blob(files.require(path, made_by="`import_model`").read_bytes(), str(path))


def parse_blob(data: bytes, where: str) -> dict[str, Any]:
    """The same of an artifact's tokenizer block; ``OriginError`` for the tokenizer of a model trained here."""
    try:
        blob = json.loads(data)
    except (ValueError, RecursionError):
        blob = None
    found = blob.get("files") if isinstance(blob, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("config.json"), dict):
        raise OriginError(f"{where}: holds no imported model; only those go back to their origin's format")
    for name, content in found.items():  # they become files of that name
        if name not in ("config.json", *KEPT) or not isinstance(content, dict):
            known = ", ".join(("config.json", *KEPT))
            raise OriginError(f"{where}: holds a file {quoted(name)}, expected keys and values in some of {known}")
    return {"origin": str(blob.get("origin")), "files": found}
