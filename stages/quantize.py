"""Stage `quantize`: averaged float weights to integers with steps; matrices by role, small tensors to fp16.

In: artifacts/average/model.safetensors; for the methods gptq and gptq_trellis artifacts/calibrate; for quantize.split
and gptq.token_exponent artifacts/tokens/train; for quantize.target_bytes artifacts/tokens/tokenizer.model and the
sources of golf.artifact.decode.
Out: artifacts/quantize/{model.safetensors,errors.tsv}, metrics/quantize.json.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from golf.base import files
from golf.base.main import run_stage
from golf.base.params import load_section
from golf.models.registry import build_model, config_from_dict
from golf.quantize.hessian import load_hessians
from golf.quantize.pipeline import QuantizeConfig, Quantizer, QuantizeResult
from golf.quantize.storage import save_quantized

if TYPE_CHECKING:
    from golf.models.base import LanguageModel
    from golf.quantize.damage import Divergence
    from golf.quantize.tensors import QuantizedModel

COLUMNS = ("tensor", "role", "shape", "weights", "relative_error", "output_error", "bits_per_weight", "largest_integer")
SOURCES = Path(__file__).resolve().parent.parent


def run(params: Path, root: Path) -> None:
    """Run the stage; ``ValueError`` for wrong parameters or weights."""
    config = load_section(params, "quantize", QuantizeConfig)
    state, meta = files.load_numpy(root / "artifacts/average/model.safetensors", made_by="`average`")
    missing = [key for key in ("model", "vocab_size") if key not in meta]
    if missing:
        raise files.FileError(f"artifacts/average/model.safetensors: meta has no `{missing[0]}`; re-run `average`")
    model = build_model(config_from_dict(meta["model"]), meta["vocab_size"])
    hessians = _hessians(root) if config.needs_hessians else None
    wanted = config.gptq.token_exponent > 0 and config.needs_hessians
    counts = _token_counts(root, meta["vocab_size"]) if wanted else None
    quantizer = Quantizer(state, model, config, meta=meta, hessians=hessians, token_counts=counts)
    searched = config.target_bytes > 0 or config.split.by != "none"
    result = _fitted(quantizer, model, root) if searched else quantizer.run()
    out = root / "artifacts/quantize"
    errors = {row["tensor"]: row["relative_error"] for row in result.rows}
    save_quantized(out / "model.safetensors", result.model, {"relative_error": errors})
    lines = ["\t".join(COLUMNS), *("\t".join(str(row[key]) for key in COLUMNS) for row in result.rows)]
    files.write_text(out / "errors.tsv", "\n".join(lines) + "\n")
    files.write_json(root / "metrics/quantize.json", result.metrics)


def _hessians(root: Path) -> dict[str, np.ndarray | None]:
    found, meta = load_hessians(root / "artifacts/calibrate/hessians.safetensors", made_by="`calibrate`")
    without = meta["without"]
    assert isinstance(without, dict)
    return {**found, **dict.fromkeys(without)}


def _token_counts(root: Path, vocab_size: int) -> np.ndarray:
    """How often each token id (V,) stands in the training split."""
    from golf.data.shards import open_split

    source, chunk = open_split(root / "artifacts/tokens/train"), 1 << 22
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, source.num_tokens, chunk):
        counts += np.bincount(source.read(start, min(chunk, source.num_tokens - start)), minlength=vocab_size)
    return counts


def _fitted(quantizer: Quantizer, model: LanguageModel, root: Path) -> QuantizeResult:
    """The model with steps split by damage, or fitted to ``quantize.target_bytes``, or both."""
    from golf.quantize.fit import fit_to_target, split_steps

    config = quantizer.config
    damage = None if config.split.by == "none" else _damage(quantizer, model, root)
    if config.target_bytes:
        size = _size(root, config.target_bytes)
        fit = fit_to_target(quantizer, size=size, target=config.target_bytes, damage=damage, say=_say)
    else:
        assert damage is not None
        fit = split_steps(quantizer, damage=damage, say=_say)
    return QuantizeResult(fit.result.model, fit.result.rows, fit.result.metrics | fit.metrics)


def _say(line: str) -> None:
    print(line, flush=True)


def _size(root: Path, target: int) -> Callable[[QuantizedModel], int]:
    """Bytes of artifact and decoder, with the coder that `compress` takes by default."""
    from golf.artifact.ship import CompressConfig, pack_decoder
    from golf.artifact.write import pack

    tokenizer = files.require(root / "artifacts/tokens/tokenizer.model", made_by="`tokenize`").read_bytes()
    decoder_bytes = len(pack_decoder(SOURCES))
    coder = CompressConfig(coder="smallest", limit_bytes=target)
    _say(f"fit: target {target:,} bytes, of them {decoder_bytes:,} for the decoder; coder: smallest")
    extra = {"coders": coder.coders, "embedding_coders": coder.embedding_coders}
    return lambda model: decoder_bytes + len(pack(model, tokenizer, **extra))


def _damage(quantizer: Quantizer, model: LanguageModel, root: Path) -> Divergence:
    from golf.data.shards import open_split
    from golf.quantize.damage import Divergence, training_windows

    split = quantizer.config.split
    windows = training_windows(open_split(root / "artifacts/tokens/train"), tokens=split.tokens, window=split.window)
    return Divergence(model, quantizer.state, windows)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
