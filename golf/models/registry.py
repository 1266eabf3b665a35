"""Names of model families, and the way from a plain dictionary to a model.

To add a family: write its frozen config dataclass (field ``family`` a ``Literal`` with its name) and its
``LanguageModel`` class taking ``(config, vocab_size)``, and list module and names in ``FAMILIES``. A family is
imported when it is asked for: neither a stage's fingerprint nor the shipped decoder holds the code of another one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from golf.base import params
from golf.base.errors import GolfError
from golf.models.base import LanguageModel

if TYPE_CHECKING:
    from golf.models.depth_recurrent import DepthRecurrentConfig
    from golf.models.gdn_hybrid import GdnHybridConfig
    from golf.models.transformer import TransformerConfig

    ModelConfig = DepthRecurrentConfig | GdnHybridConfig | TransformerConfig

__all__ = ["FAMILIES", "build_model", "config_from_dict", "config_to_dict"]

FAMILIES = {  # name: module, config class, model class; `golf.base.code` reads this table without importing it
    "depth_recurrent": ("golf.models.depth_recurrent", "DepthRecurrentConfig", "DepthRecurrent"),
    "gdn_hybrid": ("golf.models.gdn_hybrid", "GdnHybridConfig", "GdnHybrid"),
    "transformer": ("golf.models.transformer", "TransformerConfig", "Transformer"),
}


def _load(family: str, index: int) -> Any:
    names = FAMILIES[family]
    return getattr(import_module(names[0]), names[index])


def config_from_dict(data: Any, *, where: str = "model") -> ModelConfig:
    """The config dataclass of ``data["family"]``, strictly checked.

    Raises ``GolfError`` for an unknown family (listing the known ones) and ``ParamsError`` for any wrong key.
    """
    family = data.get("family") if isinstance(data, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise params.ParamsError(f"{where}.family: found {params.quoted(family)}, wanted one of {known}")
    config: ModelConfig = params.from_dict(_load(family, 1), data, where=where)
    return config


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """The inverse of ``config_from_dict``: plain scalars, ready for JSON."""
    return params.to_dict(config)


def build_model(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """A freshly initialized float32 model; the weights follow from torch's global seed alone."""
    if vocab_size < 2:
        raise GolfError(f"vocab_size: found {vocab_size}, wanted 2 or more")
    model: LanguageModel = _load(config.family, 2)(config, vocab_size)
    return model
