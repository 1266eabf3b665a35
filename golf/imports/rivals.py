"""What an imported model's artifact is set beside: the public recipe, and files of llama.cpp's quantizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from golf.artifact.write import pack
from golf.base.files import require
from golf.base.params import Clip
from golf.imports.judge import JudgedText, compared, point
from golf.imports.origin import converted, open_origin
from golf.imports.tables import OriginError
from golf.models.base import LanguageModel
from golf.models.decoder import Decoder
from golf.models.registry import build_model, config_from_dict
from golf.quantize.config import QuantizeConfig, RoleConfig
from golf.quantize.pipeline import Quantizer

if TYPE_CHECKING:
    from golf.models.configs.families import ModelConfig

__all__ = ["RivalsConfig", "gguf_point", "public_point"]


@dataclasses.dataclass(frozen=True)
class RivalsConfig:
    """Section `rivals` of the parameters."""

    public_clips: tuple[Clip, ...]
    gguf: tuple[str, ...]


def public_point(
    root: Path, config: QuantizeConfig, clip: float, origin: LanguageModel, texts: Mapping[str, JudgedText]
) -> dict[str, Any]:
    """GPTQ with SDClip and order-0 tables at ``clip``; Hessians, levels and damping are ours."""
    roles = {name: RoleConfig(None, None) for name in config.roles}
    recipe = dataclasses.replace(config.gptq, column_exponent=0.0, row_exponent=0.0)
    plain = dataclasses.replace(config, method="gptq", clip=clip, gptq=recipe, roles=roles)
    model = Quantizer.load(root, plain, once=True).run().model
    blob = require(root / "artifacts/tokens/tokenizer.model", made_by="`import_model`").read_bytes()
    size = len(pack(model, blob, coders=("rans", "raw")))
    weights = {name: torch.from_numpy(array) for name, array in model.state().items()}
    found = config_from_dict(model.config)
    return point(f"public recipe, clip {clip:g}", size, _judged(found, weights, origin, texts))


def gguf_point(path: Path, origin: LanguageModel, texts: Mapping[str, JudgedText]) -> dict[str, Any]:
    """A file of llama.cpp made of the same origin; its bytes are the whole file's."""
    config, vocab_size, tensors = converted(open_origin(path))
    own = origin.config if isinstance(origin, Decoder) else None
    if own is None or dataclasses.replace(config, tied=own.tied, rope_base=own.rope_base) != own:
        raise OriginError(f"{path}: is of another model than `import.source`")
    weights = {name: torch.from_numpy(array.copy()) for name, array in tensors}
    return point(f"llama.cpp {path.stem}", path.stat().st_size, _judged(own, weights, origin, texts))


def _judged(
    config: ModelConfig, weights: Mapping[str, torch.Tensor], origin: LanguageModel, texts: Mapping[str, JudgedText]
) -> Any:
    with torch.device("meta"):
        model = build_model(config, origin.vocab_size)
    model.load_state_dict(dict(weights), assign=True)
    return {domain: compared(text, origin, model.eval()) for domain, text in texts.items()}
