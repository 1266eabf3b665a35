"""A Llama of 1.24 billion random weights through import/dvc.yaml on a CPU: seconds and peak memory of every stage.

    python -m benchmarks.import_scale --work /tmp/golf-1b               # the shape of Llama-3.2-1B
    python -m benchmarks.import_scale --work /tmp/golf-two --layers 2   # a trial

The origin is written first, as a Hugging Face folder of bfloat16 shards: normal weights whose rows and columns have
lognormal scales, and the byte-level BPE of `--tokenizer` (49,152 pieces; the other rows of the token table are of no
piece). Then the stages run one after another, each in a process of its own, with import/params.yaml but for gradients
and `--tokens` of calibration, and the artifact is unpacked. Every finished stage is a row of WORK/results.jsonl and is
not run again. `--method sdclip` makes the integers in seconds in place of an hour, for the stages behind `quantize`.
Only time and memory mean something: random weights say nothing about bytes, and on trained ones coders may take longer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.full_size import measured, run_missing
from golf.base.files import write_json
from golf.base.params import read_params
from golf.imports.origin import open_origin

STAGES = ("import_model", "texts", "calibrate", "quantize", "fit", "compress", "unpack")
WIDTH, MLP, HEADS, SHARED, HEAD, VOCABULARY = 2048, 8192, 32, 8, 64, 128256
MATRICES = {
    "self_attn.q_proj": (HEADS * HEAD, WIDTH), "self_attn.k_proj": (SHARED * HEAD, WIDTH),
    "self_attn.v_proj": (SHARED * HEAD, WIDTH), "self_attn.o_proj": (WIDTH, HEADS * HEAD),
    "mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH), "mlp.down_proj": (WIDTH, MLP),
}  # fmt: skip


def write_origin(folder: Path, layers: int, tokenizer: dict[str, Any]) -> None:
    """Write the model: one shard for the table, one for each layer, an index, configuration and tokenizer."""
    config = {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": SHARED, "head_dim": HEAD, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": VOCABULARY,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    index: dict[str, str] = {}
    for number, tensors in enumerate(_shards(layers, generator)):
        name = f"model-{number:05d}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name, {"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    write_json(folder / "model.safetensors.index.json", {"weight_map": index})
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer)


def _shards(layers: int, generator: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
    table = _matrix(VOCABULARY, WIDTH, generator)
    yield {"model.embed_tokens.weight": table, "model.norm.weight": _gain()}
    for i in range(layers):
        found = {f"{name}.weight": _matrix(*shape, generator) for name, shape in MATRICES.items()}
        found |= {"input_layernorm.weight": _gain(), "post_attention_layernorm.weight": _gain()}
        yield {f"model.layers.{i}.{name}": tensor for name, tensor in found.items()}


def _matrix(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    scales = [torch.randn(n, generator=generator).mul_(0.3).exp_() for n in (rows, columns)]
    found = torch.randn(rows, columns, generator=generator).mul_(0.7 * columns**-0.5)
    return found.mul_(scales[0][:, None]).mul_(scales[1]).bfloat16()


def _gain() -> torch.Tensor:
    return torch.ones(WIDTH, dtype=torch.bfloat16)


def parameters(repository: Path, corpus: Path, tokens: int, method: str | None) -> dict[str, Any]:
    """import/params.yaml with the origin of this benchmark and ``method`` if any, and no text to be judged by."""
    values = read_params(repository / "import/params.yaml")
    values["import"]["source"] = "origin"
    values["texts"]["calibration"]["path"] = str(corpus.resolve())
    values["texts"]["judged_bytes"] = 0
    values["texts"]["calibration_bytes"] = 16 * tokens
    values["calibrate"] |= {"tokens": tokens, "sensitivity_tokens": 0}  # whose gradients need all weights in memory
    values["quantize"]["gptq"]["row_exponent"] = 0.0
    values["quantize"]["method"] = method or values["quantize"]["method"]
    return values


def command(stage: str, root: Path) -> list[str]:
    """Arguments of Python for one of ``STAGES``."""
    if stage == "unpack":
        artifact = str(root / "artifacts/compress/model.golf")
        return ["-m", "golf.cli", "unpack", artifact, "-o", str(root / "unpacked"), "--force"]
    return ["-m", f"stages.{stage}", "--root", str(root), "--params", str(root / "params.json")]


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of outputs and results.jsonl")
    parser.add_argument("--layers", type=int, default=16, help="blocks (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=16384, help="of calibration (default: %(default)s)")
    parser.add_argument("--method", help="quantize.method (default: that of import/params.yaml)")
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("import/data/smollm2.gguf"), help="model of its tokenizer"
    )
    parser.add_argument("--corpus", type=Path, default=Path("data/enwik8.gz"), help="enwik8")
    parser.add_argument("--origin-alone", action="store_true", help="write the model and end")
    args = parser.parse_args()
    root = args.work.resolve()
    root.mkdir(parents=True, exist_ok=True)
    if args.origin_alone:
        write_origin(root / "origin", args.layers, open_origin(args.tokenizer).files["tokenizer.json"])
        return
    if not (root / "params.json").exists():  # by another process: a child's peak is not less than its parent's
        measured(["-m", "benchmarks.import_scale", *sys.argv[1:], "--origin-alone"], root / "origin.log")
        write_json(root / "params.json", parameters(Path.cwd(), args.corpus, args.tokens, args.method))
    run_missing({stage: command(stage, root) for stage in STAGES}, root)


if __name__ == "__main__":
    main()
