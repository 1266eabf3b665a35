"""The files of a PyTorch checkpoint; nothing is read here but ``params.yaml``, and torch is not needed.

A folder holds the state dict (one ``.pt``, ``.pth`` or ``.bin``), the tokenizer (one SentencePiece ``.model``) and,
where ``golf.imports.checkpoint`` needs it, the ``params.yaml`` of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from golf.base.files import FileError
from golf.base.params import read_params

__all__ = ["Checkpoint", "find_checkpoint"]

_ENDINGS = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """The files of a folder with a state dict; ``params`` is None where there is no ``params.yaml``."""

    weights: Path
    tokenizer: Path
    params: Path | None

    @property
    def family(self) -> str:
        """The family that the weights are of, without reading them."""
        model = read_params(self.params).get("model") if self.params else None
        return str(model.get("family")) if isinstance(model, dict) else "transformer"


def find_checkpoint(folder: Path) -> Checkpoint | None:
    """The files in ``folder``; None where it holds no state dict, or the ``config.json`` of Hugging Face.

    Raises ``FileError`` for several state dicts, and unless there is one tokenizer.
    """
    if not folder.is_dir() or (folder / "config.json").is_file():
        return None
    states = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    if not states:
        return None
    models = sorted(folder.glob("*.model"))
    for found, what in ((states, f"state dict ({', '.join(_ENDINGS)})"), (models, "SentencePiece .model")):
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise FileError(f"{folder}: found {names}, expected exactly one {what}")
    params = folder / "params.yaml"
    return Checkpoint(states[0], models[0], params if params.is_file() else None)
