"""Artifacts of imported models, back in the formats of their origins: other runtimes load them, logits are ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.artifact.decode import decode_artifact
from golf.artifact.read import unpack
from golf.artifact.ship import pack_decoder
from golf.artifact.write import pack
from golf.base.errors import GolfError
from golf.cli import unpack as command
from golf.imports.export import write_origin
from golf.imports.origin import import_model, open_origin
from golf.models.registry import empty_model, load_weights
from golf.quantize.pipeline import Quantizer
from origins import MODELS, add_tokenizer, logits, their_logits, their_model, transformers
from tiny import pack_untrained, quantize_config, recurrent


def artifact(name: str, root: Path) -> bytes:
    """A random model of another runtime, imported, quantized by plain rounding and packed."""
    their_model(name, vocab_size=300).save_pretrained(root / "their")
    add_tokenizer(root / "their")
    import_model(open_origin(root / "their"), root)
    path = root / "artifacts/average/model.safetensors"
    weights, meta = load_weights(path, made_by="test")
    model = empty_model(meta, path=path, made_by="test")
    state = {key: tensor.numpy() for key, tensor in weights.items()}
    found = Quantizer(state, model, quantize_config("sdclip", clip=4.0), meta=meta).run().model
    return pack(found, (root / "artifacts/tokens/tokenizer.model").read_bytes(), threads=2)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_what_was_unpacked_and_says_our_logits(name: str, tmp_path: Path) -> None:
    data, ids = artifact(name, tmp_path), torch.randint(0, 300, (2, 30))
    write_origin(unpack(data, threads=2), tmp_path / "out", kind="safetensors", dtype="float32", where="a.golf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(
        their_logits(theirs, ids), logits(decode_artifact(data).model, ids), atol=1e-4, rtol=1e-4
    )
    assert (tmp_path / "out/tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox"])
def test_gguf_is_read_again_as_it_was_written(name: str, tmp_path: Path) -> None:
    data = artifact(name, tmp_path)
    write_origin(unpack(data), tmp_path / "out.gguf", kind="gguf", dtype="float32", where="a.golf")
    import_model(open_origin(tmp_path / "out.gguf"), tmp_path / "again")
    first, meta = load_weights(tmp_path / "again/artifacts/average/model.safetensors", made_by="test")
    model = decode_artifact(data).model
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(first[key], tensor, atol=0, rtol=0)
    assert meta["model"] == json.loads(json.dumps(unpack(data).model.config))


def test_what_llama_cpp_asks_for_beside_the_weights(tmp_path: Path) -> None:
    """Without these it refused padded tables and heads of their own width, and turned Llama 3's heads wrongly."""
    gguf = pytest.importorskip("gguf")
    found = {}
    for name in ("llama tied, biased, wide heads", "llama 3 rope"):
        folder = tmp_path / name[:7]
        write_origin(unpack(artifact(name, folder)), folder / "o.gguf", kind="gguf", dtype="float16", where="a.golf")
        found[name] = gguf.GGUFReader(folder / "o.gguf")
    wide, turned = found.values()
    pieces = wide.fields["tokenizer.ggml.tokens"].contents()
    assert len(pieces) == 300 and pieces[-1] == "[PAD299]"  # rows of the table; the tokenizer has 261
    assert wide.fields["tokenizer.ggml.token_type"].contents()[-1] == gguf.TokenType.UNUSED
    assert [wide.fields[f"llama.attention.{key}_length"].contents() for key in ("key", "value")] == [10, 10]
    assert "rope_freqs.weight" not in {tensor.name for tensor in wide.tensors}
    factors = next(tensor.data for tensor in turned.tensors if tensor.name == "rope_freqs.weight")
    expected = []
    for i in range(3):  # heads of 6 channels, base 500, 16 original positions; arXiv 2407.21783's wavelengths
        length = 2 * np.pi * 500.0 ** (2 * i / 6)
        share = min(1.0, max(0.0, (16 / length - 1.0) / (4.0 - 1.0)))
        expected.append(1 / (share + (1 - share) / 4.0))
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    assert min(expected) < 4 == max(expected)


def test_rows_of_queries_and_keys_lie_as_llama_cpp_wants_them(tmp_path: Path) -> None:
    """Channel i of a head's first half is followed by channel i of its second half: the pairs that turn together."""
    gguf, data = pytest.importorskip("gguf"), artifact("llama", tmp_path)
    write_origin(unpack(data), tmp_path / "out.gguf", kind="gguf", dtype="float32", where="a.golf")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    ours = decode_artifact(data).model.state_dict()
    for theirs, name, heads in (("blk.1.attn_q.weight", "query", 4), ("blk.1.attn_k.weight", "key", 2)):
        exact = ours[f"blocks.1.attention.{name}.weight"].numpy()
        for head in range(heads):
            for i in range(3):  # a head has 6 channels
                for half in range(2):
                    np.testing.assert_array_equal(
                        tensors[theirs][head * 6 + 2 * i + half], exact[head * 6 + half * 3 + i]
                    )


def test_half_precision_is_the_nearest_number(tmp_path: Path) -> None:
    data = artifact("llama", tmp_path)
    exact = decode_artifact(data).model.state_dict()["blocks.0.mlp.up.weight"]
    for dtype in ("float16", "bfloat16"):
        write_origin(unpack(data), tmp_path / dtype, kind="safetensors", dtype=dtype, where="a.golf")
        origin = open_origin(tmp_path / dtype)
        found = origin.read("model.layers.0.mlp.up_proj.weight")
        np.testing.assert_array_equal(found, exact.to(getattr(torch, dtype)).float().numpy())
        assert origin.exact_bits == 16 and origin.config["dtype"] == dtype


def test_the_command_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    path = tmp_path / "m.golf"
    path.write_bytes(pack_untrained(recurrent(), 40, b"tokenizer"))
    with pytest.raises(GolfError, match="m.golf: holds no imported model"):
        command.run(parser.parse_args([str(path)]))
    path.write_bytes(artifact("llama", tmp_path))
    assert command.run(parser.parse_args([str(path)])) == 0 and (tmp_path / "m/config.json").is_file()
    with pytest.raises(GolfError, match="m: exists; give --force"):
        command.run(parser.parse_args([str(path)]))
    with pytest.raises(GolfError, match="--dtype: found bfloat16"):
        command.run(parser.parse_args([str(path), "--as", "gguf", "--dtype", "bfloat16"]))
    with pytest.raises(GolfError, match="does not end in .golf"):
        command.run(parser.parse_args([str(path.rename(tmp_path / "plain"))]))


@pytest.mark.slow
def test_the_shipped_decoder_alone_gives_the_same_logits(root: Path, tmp_path: Path) -> None:
    data = artifact("qwen3", tmp_path)
    (tmp_path / "m.golf").write_bytes(data)
    (tmp_path / "decoder.zip").write_bytes(pack_decoder(root, data))
    program = (
        "import torch; from golf.artifact.decode import load_artifact; m = load_artifact('m.golf').model; "
        "print(m.logits(m.hidden(torch.arange(9)[None])).double().sum().item())"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "decoder.zip")}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    expected = logits(decode_artifact(data).model, torch.arange(9)[None]).double().sum().item()
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(expected, abs=1e-3)
