"""Stage `import_model`: a model that others trained becomes what `average` leaves: float weights of our names.

In: the folder or GGUF `import.source`. Out: artifacts/average/model.safetensors, artifacts/tokens/tokenizer.model (the
origin's configuration and tokenizer as JSON, of a PyTorch checkpoint its SentencePiece model; the artifact keeps it),
metrics/import.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from golf.base import files
from golf.base.main import run_stage
from golf.base.params import load_section


@dataclass(frozen=True)
class ImportConfig:
    """Section `import` of the parameters."""

    source: str


def run(params: Path, root: Path) -> None:
    """Run the stage; ``GolfError`` for a model that cannot be read."""
    config = load_section(params, "import", ImportConfig)
    from golf.imports.checkpoint import import_checkpoint
    from golf.imports.folder import find_checkpoint
    from golf.imports.origin import import_model, open_origin

    source = root / config.source
    checkpoint = find_checkpoint(source)
    metrics = import_checkpoint(checkpoint, root) if checkpoint else import_model(open_origin(source), root)
    files.write_json(root / "metrics/import.json", metrics)
    print(
        f"import: {metrics['import_weights']:,} weights of {metrics['import_tensors']} tensors, "
        f"{metrics['import_source']}, {metrics['import_bits_per_weight']:.1f} bits a weight", flush=True,
    )  # fmt: skip
    if metrics["import_bits_per_weight"] < 8:
        print(
            "import: this model is quantized already; a second grid on the first loses, and its own blocks recoded "
            "without loss may be smaller at the same loss. The float original is the better source", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    run_stage(run, description=__doc__)
