"""Models of strangers whose configuration, tokenizer or GGUF lies: a named error, no file beside the one asked for.

They ended in ZeroDivisionError, TypeError, a hang over 10^9 layers; and `golf unpack` wrote where an artifact told it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from golf.artifact.read import unpack
from golf.base.errors import GolfError
from golf.base.params import to_dict
from golf.imports.bpe import BytePairs, byte_letters, tokenizer_json
from golf.imports.export import write_origin
from golf.imports.origin import converted, open_origin
from golf.imports.tables import decoder_config, rules
from golf.models.registry import empty_shapes
from tiny import pack_untrained

LLAMA = {
    "model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "hidden_act": "silu",
    "attention_bias": False, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48}
NEOX = {
    "model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "rotary_pct": 0.5, "use_parallel_residual": False,
}  # fmt: skip
WRONG = (None, "x", [], {}, [[]], -1, 0, 10**9, 10**30, 0.5, True, "\x1b[2J" * 1000, "1e999")


def mutations(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in data.items():
        yield {name: kept for name, kept in data.items() if name != key}
        yield from ({**data, key: wrong} for wrong in WRONG)
        if isinstance(value, dict):
            yield from ({**data, key: inner} for inner in mutations(value))


def infinite(data: Any) -> str:
    return json.dumps(data).replace('"1e999"', "1e999")  # which a reader of JSON takes for infinity


@pytest.mark.parametrize("whole", [LLAMA, GPT2, NEOX], ids=lambda whole: whole["model_type"])
def test_no_number_of_an_origins_configuration_is_believed(whole: dict[str, Any]) -> None:
    decoder_config(whole, tied=True, where="m")
    refused = 0
    for mutated in mutations(whole):
        try:
            config = decoder_config(json.loads(infinite(mutated)), tied=True, where="m")
            assert max(config.width, config.mlp_width, config.heads, config.layers) <= 1 << 20 and config.layers <= 1000
        except GolfError as error:
            assert str(error).startswith("m") and len(str(error)) < 400 and "\x1b" not in str(error)
            refused += 1
    assert refused > 3 * len(whole)


def origin(folder: Path, config: dict[str, Any], rows: int = 300) -> Path:
    """A model on disk whose tensors are those of ``config``."""
    folder.mkdir(exist_ok=True)
    shape = decoder_config(config, tied=True, where="m")
    ours = empty_shapes(shape, rows)
    chosen = rules("llama", shape.layers, set(ours))
    tensors = {name: np.zeros(ours[targets[0]], np.float32) for name, targets, _ in chosen}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_tensors_that_do_not_fit_a_lying_configuration_are_named(tmp_path: Path) -> None:
    folder = origin(tmp_path / "m", LLAMA)
    assert len(dict(converted(open_origin(folder))[2])) > 10
    for key, value in (("num_attention_heads", 0), ("num_hidden_layers", 10**9), ("hidden_size", 1 << 19)):
        (folder / "config.json").write_text(json.dumps(LLAMA | {key: value}), encoding="utf-8")
        with pytest.raises(GolfError, match="m: |m.width|m.heads|m.layers"):
            dict(converted(open_origin(folder))[2])


def files() -> dict[str, Any]:
    pieces = ["<|begin|>", *byte_letters(), "he"]
    return {
        "config.json": LLAMA,
        "tokenizer.json": tokenizer_json(pieces, ["h e"], [0], "smollm"),
        "tokenizer_config.json": {"bos_token": "<|begin|>"},
    }


def test_no_part_of_an_origins_tokenizer_is_believed() -> None:
    pytest.importorskip("tokenizers")
    whole = files()
    assert BytePairs(whole, vocab_size=300).document("the text")[1] == 8
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for mutated in mutations({**whole[name], "model": {**whole["tokenizer.json"]["model"], "vocab": {}}}):
            try:
                BytePairs({**whole, name: json.loads(infinite(mutated))}, vocab_size=300).document("the text")
            except GolfError as error:
                assert str(error).startswith("tokenizer.json: ") and str(error).isprintable() and len(str(error)) < 400


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../evil.json", {}),
        ("/tmp/golf-evil.json", {}),
        ("sub/evil.json", {}),
        (".bashrc", {}),
        ("tokenizer.json", "x"),
    ],
)
def test_bug_an_artifact_wrote_files_where_it_liked(name: str, content: Any, tmp_path: Path) -> None:
    """`golf unpack` of a stranger's file wrote each of its texts to the name that stood beside it, `..` and all."""
    blob = json.dumps({"origin": "x", "files": {**files(), name: content}}).encode()
    shape = to_dict(decoder_config(LLAMA, tied=True, where="m"))
    with pytest.raises(GolfError, match=r"a\.golf: holds a file '.*', expected keys and values in some of config"):
        write_origin(unpack(pack_untrained(shape, 300, blob)), tmp_path / "out", kind="safetensors",
                     dtype="float32", where="a.golf")  # fmt: skip
    assert list(tmp_path.iterdir()) == [] and not Path("/tmp/golf-evil.json").exists()


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_what_an_artifact_says_of_its_origin_is_checked_before_anything_is_written(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    shape = to_dict(decoder_config(LLAMA, tied=True, where="m"))
    whole = unpack(pack_untrained(shape, 300, b"x"))

    def write(changed: dict[str, Any]) -> None:
        blob = json.dumps({"origin": "x", "files": {**files(), **changed}}).encode()
        model = type(whole)(**{**vars(whole), "tokenizer": blob})
        write_origin(model, tmp_path / "out", kind=kind, dtype="float32", where="a.golf")

    for config in (
        {}, LLAMA | {"model_type": "x"}, LLAMA | {"num_attention_heads": 2}, LLAMA | {"num_hidden_layers": 1},
        LLAMA | {"hidden_size": 48}, GPT2,
    ):  # fmt: skip
        with pytest.raises(GolfError, match=r"^a\.golf"):
            write({"config.json": config})
    if kind == "gguf":
        for config in (LLAMA | {"max_position_embeddings": 10**12}, LLAMA | {"max_position_embeddings": "x"}):
            with pytest.raises(GolfError, match="max_position_embeddings: found .*, expected a number that GGUF"):
                write({"config.json": config})
        with pytest.raises(GolfError, match="tokenizer.json: found ids up to 10000000"):
            data = files()["tokenizer.json"]
            data["model"]["vocab"]["he"] = 10**7
            write({"tokenizer.json": data})
    assert list(tmp_path.iterdir()) == []
    write({})
    assert (tmp_path / "out").exists()


def test_the_metadata_of_a_gguf_is_checked(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    shape = to_dict(decoder_config(LLAMA | {"rope_parameters": {}}, tied=True, where="m"))
    blob = json.dumps({"origin": "x", "files": files() | {"config.json": LLAMA | {"rope_parameters": {}}}}).encode()
    write_origin(unpack(pack_untrained(shape, 300, blob)), tmp_path / "m.gguf", kind="gguf", dtype="float32", where="a")
    whole = (tmp_path / "m.gguf").read_bytes()
    assert len(dict(converted(open_origin(tmp_path / "m.gguf"))[2])) > 10
    for text, told in ((b"<|begin|>", "ggml.tokens: invalid"), (b"smollm", "ggml.pre: invalid")):
        (tmp_path / "m.gguf").write_bytes(whole.replace(text, b"\xff" + text[1:], 1))
        with pytest.raises(GolfError, match=f"m.gguf: tokenizer.{told} start byte in a text, expected UTF-8"):
            open_origin(tmp_path / "m.gguf")
    for key, wrong, told in (
        ("llama.block_count", (10**9, 0), "block_count: found .* for 20 tensors, expected 1 to as many"),
        ("llama.attention.head_count", (0, 5), "heads: found|kv_heads: found|expects"),
        ("llama.attention.head_count_kv", (0, 1), "kv_heads: found|expects"),
        ("llama.embedding_length", (0, 48), "width: found|expects"),
        ("tokenizer.ggml.bos_token_id", (10**6,), "bos_token_id: found 1000000, expected below 300"),
    ):
        at = whole.index(key.encode() + b"\x04\0\0\0") + len(key) + 4
        for value in wrong:
            (tmp_path / "m.gguf").write_bytes(whole[:at] + value.to_bytes(4, "little") + whole[at + 4 :])
            with pytest.raises(GolfError, match=told):
                dict(converted(open_origin(tmp_path / "m.gguf"))[2])
