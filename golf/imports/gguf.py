"""GGUF, the format of llama.cpp: read into the names and layouts of Hugging Face transformers, and written from them.

What differs from there: names (PyPI ``gguf`` has the map), the rows of Llama's queries and keys (each head's halves are
interleaved), GPT-2's matrices (transposed), GPT-NeoX's joint matrix (query, key and value one after the other instead
of head by head), and a tokenizer that is a list of pieces and merges. Sources: the GGUF specification and the
conversion scripts of ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.base.params import quoted
from golf.imports.bpe import PRE_TOKENIZERS, pre_tokenizer_of, tokenizer_json
from golf.imports.gguf_file import gguf_reader, library
from golf.imports.origin import Origin
from golf.imports.tables import ARCHITECTURES, OriginError, decoder_config, rules

__all__ = ["GgufOrigin", "write_gguf"]

Array = NDArray[np.float32]
_NAMES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gptneox": "gpt_neox", "gpt2": "gpt2"}
_KEYS = {  # ours: theirs, behind the name of the architecture
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
    "head_dim": "attention.key_length",
    "use_parallel_residual": "use_parallel_residual",
}
_GPT2_KEYS = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "layer_norm_eps": "layer_norm_epsilon", "max_position_embeddings": "n_positions",
}  # fmt: skip
_SPECIAL = ("bos", "eos", "unknown", "padding")


class GgufOrigin(Origin):
    """One ``.gguf``; quantized blocks are read as the floats that they mean."""

    def __init__(self, path: Path) -> None:
        gguf, reader, self.where = library(), gguf_reader(path), path
        self._dequantize = gguf.quants.dequantize
        values = self._values = dict(reader.fields.items())
        architecture = self._value("general.architecture", str)
        if architecture not in _NAMES:
            known = ", ".join(_NAMES)
            raise OriginError(f"{path}: general.architecture: found {quoted(architecture)}, expected {known}")
        self._kind = _NAMES[architecture]
        self._refuse_scaling(architecture)
        layers = self._value(f"{architecture}.block_count", int)
        if not 1 <= layers <= len(reader.tensors):  # names are made for each
            found = f"found {layers} for {len(reader.tensors)} tensors"
            raise OriginError(f"{path}: {architecture}.block_count: {found}, expected 1 to as many")
        stored = {tensor.name: tensor for tensor in reader.tensors}
        if "rope_freqs.weight" in stored:
            raise OriginError(f"{path}: rope_freqs.weight: rope scaling by a table of frequencies is not built")
        names = gguf.get_tensor_name_map(reader_arch(gguf, architecture), layers)
        self._tensors = {}
        for name in (rule[0] for rule in _all_rules(self._kind, layers)):
            theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if theirs in stored:
                self._tensors[name] = stored.pop(theirs)
        for name, tensor in stored.items():  # left over: the check of the import names it
            self._tensors[name] = tensor
        self.files = {"config.json": self._config(architecture)}
        if "tokenizer.ggml.tokens" in values:
            self.files |= self._tokenizer()
        sizes = [8 * t.n_bytes / max(1, t.n_elements) for t in reader.tensors if len(t.shape) > 1]
        self.exact_bits = float(np.median(sizes)) if sizes else 32.0

    def _contents(self, key: str) -> Any:
        field = self._values.get(key)
        try:
            return None if field is None else field.contents()
        except UnicodeDecodeError as error:
            raise OriginError(f"{self.where}: {key}: {error.reason} in a text, expected UTF-8") from error

    def _value(self, key: str, kind: type, default: Any = None) -> Any:
        value = self._contents(key)
        value = default if value is None else value
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind):
            raise OriginError(f"{self.where}: {key}: found {quoted(value)}, expected {kind.__name__}")
        return value

    def _refuse_scaling(self, architecture: str) -> None:
        kind = self._value(f"{architecture}.rope.scaling.type", str, "none")
        if kind != "none":
            raise OriginError(f"{self.where}: {architecture}.rope.scaling.type: {quoted(kind)} is not built")

    def _config(self, architecture: str) -> dict[str, Any]:
        config: dict[str, Any] = {"model_type": self._kind}
        for ours, theirs in _KEYS.items():
            value = self._contents(f"{architecture}.{theirs}")
            if value is not None:
                name = _GPT2_KEYS.get(ours, ours) if self._kind == "gpt2" else ours
                # float32 on disk; the shortest decimal is what its author wrote
                config[name] = float(np.format_float_positional(np.float32(value))) if type(value) is float else value
        if self._kind == "gpt_neox":
            turned, heads = (
                self._value(f"{architecture}.{key}", int) for key in ("rope.dimension_count", "attention.head_count")
            )
            config["rotary_pct"] = turned * heads / max(1, self._value(f"{architecture}.embedding_length", int))
        head = "embed_out.weight" if self._kind == "gpt_neox" else "lm_head.weight"
        config["tie_word_embeddings"] = head not in self._tensors
        config["vocab_size"] = self.shapes[_table(self._kind)][0] if _table(self._kind) in self._tensors else 0
        if self._kind == "llama":
            config["attention_bias"] = "model.layers.0.self_attn.o_proj.bias" in self._tensors
            config["mlp_bias"] = "model.layers.0.mlp.down_proj.bias" in self._tensors
        for name, key in (("bos", "bos_token_id"), ("eos", "eos_token_id")):
            if f"tokenizer.ggml.{key}" in self._values:
                config[f"{name}_token_id"] = self._value(f"tokenizer.ggml.{key}", int)
        config["architectures"] = [_CLASSES[self._kind]]
        return config

    def _tokenizer(self) -> dict[str, Any]:
        model = self._value("tokenizer.ggml.model", str)
        if model != "gpt2":
            raise OriginError(f"{self.where}: tokenizer.ggml.model: found {quoted(model)}, expected gpt2 (bytes)")
        pre = self._value("tokenizer.ggml.pre", str, "gpt-2")
        if pre not in PRE_TOKENIZERS:
            known = ", ".join(PRE_TOKENIZERS)
            raise OriginError(f"{self.where}: tokenizer.ggml.pre: found {quoted(pre)}, expected one of {known}")
        pieces, merges = self._value("tokenizer.ggml.tokens", list), self._value("tokenizer.ggml.merges", list)
        kinds = self._value("tokenizer.ggml.token_type", list, [1] * len(pieces))
        if not all(isinstance(item, str) for item in pieces + merges) or len(kinds) != len(pieces):
            raise OriginError(f"{self.where}: tokenizer.ggml.tokens: found no texts with a type each")
        added = [i for i, kind in enumerate(kinds) if kind in (3, 4)]  # control, user defined
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for name in _SPECIAL:
            key = f"tokenizer.ggml.{name}_token_id"
            if key in self._values:
                short = {"unknown": "unk", "padding": "pad"}.get(name, name)
                number = self._value(key, int)
                if not 0 <= number < len(pieces):
                    raise OriginError(f"{self.where}: {key}: found {number}, expected below {len(pieces)}")
                settings[f"{short}_token"] = pieces[number]
        if "tokenizer.chat_template" in self._values:
            settings["chat_template"] = self._value("tokenizer.chat_template", str)
        return {"tokenizer.json": tokenizer_json(pieces, merges, added, pre), "tokenizer_config.json": settings}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self._shape(name, tensor) for name, tensor in self._tensors.items()}

    def _shape(self, name: str, tensor: Any) -> tuple[int, ...]:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        return shape[::-1] if self._kind == "gpt2" and _is_turned(name) else shape

    def read(self, name: str) -> Array:
        tensor = self._tensors[name]
        try:
            array = self._dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        except NotImplementedError as error:
            raise OriginError(f"{self.where}: {name}: {tensor.tensor_type.name} blocks cannot be read here") from error
        array = array.reshape(tuple(int(n) for n in reversed(tensor.shape)))
        return np.ascontiguousarray(_layout(array, name, self._kind, self.config, back=True))


_CLASSES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
}  # fmt: skip


def _table(kind: str) -> str:
    return ARCHITECTURES[kind][0][0]


def _all_rules(kind: str, layers: int) -> list[Any]:
    ours = {name.format(i=i) for _, names, _ in ARCHITECTURES[kind] for name in names for i in range(layers)}
    return rules(kind, layers, ours)


def reader_arch(gguf: Any, architecture: str) -> Any:
    """The library's number of an architecture by its name."""
    return {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]


def _is_turned(name: str) -> bool:
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def _layout(array: Array, name: str, kind: str, config: Mapping[str, Any], *, back: bool) -> Array:
    """From the layout of transformers to GGUF's, or ``back``."""
    if kind == "gpt2":
        return array.T if _is_turned(name) else array
    heads = int(config["num_attention_heads"])
    if kind == "gpt_neox" and "query_key_value" in name:
        rest = array.shape[1:]
        split = (3, heads, -1, *rest) if back else (heads, 3, -1, *rest)
        if array.shape[0] % (3 * heads):
            return array  # the check of the import names it
        return array.reshape(split).swapaxes(0, 1).reshape(array.shape)
    if kind == "llama" and ("q_proj" in name or "k_proj" in name):
        count = heads if "q_proj" in name else int(config.get("num_key_value_heads") or heads)
        half, rest = array.shape[0] // count // 2, array.shape[1:]
        if array.shape[0] % (2 * count):
            return array  # the check of the import names it
        split = (count, half, 2, *rest) if back else (count, 2, half, *rest)
        return array.reshape(split).swapaxes(1, 2).reshape(array.shape)
    return array


def write_gguf(
    path: Path, files: Mapping[str, Any], tensors: Mapping[str, Array], *, name: str, half: bool = True
) -> None:
    """Write ``tensors``, by the names of transformers, as GGUF: matrices float16 (``half``) or float32.

    ``files`` are the origin's configuration and tokenizer. Raises ``OriginError`` for a tokenizer that has no name in
    GGUF.
    """
    gguf = library()
    config, kind = files["config.json"], files["config.json"]["model_type"]
    architecture = {ours: theirs for theirs, ours in _NAMES.items()}[kind]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    for ours, theirs in _KEYS.items():
        value = config.get(_GPT2_KEYS.get(ours, ours) if kind == "gpt2" else ours)
        if ours == "rope_theta" and value is None:
            value = (config.get("rope_parameters") or {}).get("rope_theta")
        key = f"{architecture}.{theirs}"
        if value is None:
            continue
        if type(value) not in (bool, int, float) or not 0 <= value < 1 << 32:
            raise OriginError(f"config.json: {ours}: found {quoted(value)}, expected a number that GGUF can hold")
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int) and not ours.endswith(("eps", "theta")):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, float(value))
    _write_shape(writer, architecture, kind, config, tensors)
    if "tokenizer.json" in files:
        _write_tokenizer(writer, files, len(tensors[_table(kind)]))
    names = gguf.get_tensor_name_map(
        reader_arch(gguf, architecture), int(config["n_layer" if kind == "gpt2" else "num_hidden_layers"])
    )
    for origin, array in tensors.items():
        laid = np.ascontiguousarray(_layout(array, origin, kind, config, back=False))
        kept = laid.astype(np.float16 if half and laid.ndim > 1 else np.float32)
        writer.add_tensor(names.get_name(origin, try_suffixes=(".weight", ".bias")) or origin, kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(
    writer: Any, architecture: str, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Array]
) -> None:
    width = int(config["n_embd"] if kind == "gpt2" else config["hidden_size"])
    heads = int(config["n_head"] if kind == "gpt2" else config["num_attention_heads"])
    head = int(config.get("head_dim") or width // heads)
    if kind == "gpt2" and config.get("n_inner") is None:
        writer.add_uint32(f"{architecture}.feed_forward_length", 4 * width)
    elif kind == "gpt_neox":
        head = decoder_config(config, tied=True, where="config.json").rope_dims
        if "use_parallel_residual" not in config:
            writer.add_bool(f"{architecture}.use_parallel_residual", True)
    if kind != "gpt2":
        writer.add_uint32(f"{architecture}.rope.dimension_count", head)
    if config.get("head_dim"):
        writer.add_uint32(f"{architecture}.attention.value_length", head)
    writer.add_uint32(f"{architecture}.vocab_size", len(tensors[_table(kind)]))


def _write_tokenizer(writer: Any, files: Mapping[str, Any], rows: int) -> None:
    """``rows`` of the token table: llama.cpp wants a piece for each, also where the table is padded."""
    data, settings = files["tokenizer.json"], files.get("tokenizer_config.json", {})
    ids = {**data["model"]["vocab"], **{item["content"]: item["id"] for item in data.get("added_tokens", [])}}
    pieces = [f"[PAD{i}]" for i in range(rows)]
    kinds = [5] * len(pieces)  # unused
    for piece, i in ids.items():
        pieces[i], kinds[i] = piece, 1
    for item in data.get("added_tokens", []):
        kinds[item["id"]] = 3 if item["special"] else 4
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in data["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_of(data))
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in ids:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", ids[token])
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    if isinstance(settings.get("chat_template"), str):
        writer.add_chat_template(settings["chat_template"])
