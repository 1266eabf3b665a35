"""Tiny models of another runtime (PyPI ``transformers``), and a tokenizer for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.base.params import read_params
from golf.imports.bpe import byte_letters, tokenizer_json
from golf.models.base import LanguageModel

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

__all__ = ["MODELS", "add_tokenizer", "logits", "small_import", "their_logits", "their_model", "transformers"]

_SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
          "max_position_embeddings": 64, "vocab_size": 99}  # fmt: skip
_SCALED = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 16}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**_SIZES, "num_key_value_heads": 2}),
    "llama tied, biased, wide heads": ("Llama", {**_SIZES, "num_key_value_heads": 1, "tie_word_embeddings": True,
                                                 "attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    "llama 3 rope": ("Llama", {**_SIZES, "num_key_value_heads": 4, "rope_parameters": _SCALED}),
    "qwen2": ("Qwen2", {**_SIZES, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3", {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 99}),
    "gpt_neox": ("GPTNeoX", {**_SIZES, "hidden_size": 32}),
    "gpt_neox in series": ("GPTNeoX", {**_SIZES, "hidden_size": 32, "use_parallel_residual": False, "rotary_pct": 0.5}),
}  # fmt: skip


def their_model(name: str, **changes: Any) -> Any:
    """A random model of another runtime, all of its numbers away from their initial values."""
    kind, keys = MODELS[name][0], {**MODELS[name][1], **changes}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**keys)
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def their_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(B, T, V) as float32."""
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits.float()
    return found


def logits(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    """(B, T, V) of one of ours."""
    with torch.no_grad():
        return model.logits(model.hidden(ids))


def add_tokenizer(folder: Path, pre: str = "smollm") -> None:
    """A byte-level BPE of at most 99 + 256 pieces beside a model, cutting text as GGUF's ``pre`` says."""
    pieces = ["<|begin|>", *byte_letters(), "Ġt", "he", "Ġthe", "in"]
    merges = ["Ġ t", "h e", "Ġt he", "i n"]
    data = tokenizer_json(pieces, merges, [0], pre)
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|begin|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def small_import(root: Path, source: str) -> dict[str, Any]:
    """Parameters of the import pipeline for a small model in ``their``, calibrated on the ``source`` of that name."""
    params = read_params(root / "import/params.yaml")
    params["import"]["source"] = "their"
    params["texts"]["calibration"] = {"source": source, "path": source, "text_key": "text"}
    params["texts"] |= {"calibration_bytes": 8000, "judged_bytes": 3000}
    params["calibrate"] |= {"tokens": 512, "window": 32}
    params["compress"]["coder"] = "rans"
    params["judge"] = {"tokens": 256, "window": 32}
    return params
