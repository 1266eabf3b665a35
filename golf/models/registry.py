"""Names of model families, and the way from a plain dictionary to a model.

To add a family: write its frozen config dataclass (field ``family`` a ``Literal`` with its name) and its
``LanguageModel`` class taking ``(config, vocab_size)``, and list both in ``FAMILIES``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from golf import params
from golf.errors import GolfError
from golf.models.base import LanguageModel
from golf.models.depth_recurrent import DepthRecurrent, DepthRecurrentConfig
from golf.models.gdn_hybrid import GdnHybrid, GdnHybridConfig
from golf.models.transformer import Transformer, TransformerConfig

__all__ = ["FAMILIES", "ModelConfig", "build_model", "config_from_dict", "config_to_dict"]

ModelConfig = DepthRecurrentConfig | GdnHybridConfig | TransformerConfig

FAMILIES: MappingProxyType[str, tuple[Any, Any]] = MappingProxyType(
    {
        "depth_recurrent": (DepthRecurrentConfig, DepthRecurrent),
        "gdn_hybrid": (GdnHybridConfig, GdnHybrid),
        "transformer": (TransformerConfig, Transformer),
    }
)


def config_from_dict(data: Any, *, where: str = "model") -> ModelConfig:
    """The config dataclass of ``data["family"]``, strictly checked.

    Raises ``ValueError`` for an unknown family (listing the known ones) and ``ParamsError`` for any wrong key.
    """
    family = data.get("family") if isinstance(data, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        raise params.ParamsError(f"{where}.family: found {family!r}, wanted one of {', '.join(sorted(FAMILIES))}")
    config: ModelConfig = params.from_dict(FAMILIES[family][0], data, where=where)
    return config


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """The inverse of ``config_from_dict``: plain scalars, ready for JSON."""
    return params.to_dict(config)


def build_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """A freshly initialised float32 model; the weights follow from torch's global seed alone."""
    if vocab_size < 2:
        raise GolfError(f"vocab_size: found {vocab_size}, wanted 2 or more")
    model: LanguageModel = FAMILIES[config.family][1](config, vocab_size)
    return model
