"""Names of model families, and the way from a plain dictionary to a configuration. No torch.

To add a family: write its frozen config dataclass (field ``family`` a ``Literal`` with its name) and its
``LanguageModel`` class taking ``(config, vocab_size)``, and list modules and names of both in ``FAMILIES``. A family is
imported when it is asked for: neither a stage's fingerprint nor the shipped decoder holds the code of another one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from golf.base import params

if TYPE_CHECKING:
    from golf.models.configs.depth_recurrent import DepthRecurrentConfig
    from golf.models.configs.gdn_hybrid import GdnHybridConfig
    from golf.models.configs.record import RecordConfig
    from golf.models.configs.transformer import TransformerConfig
    from golf.models.decoder import DecoderConfig

    ModelConfig = DecoderConfig | DepthRecurrentConfig | GdnHybridConfig | RecordConfig | TransformerConfig

__all__ = ["FAMILIES", "config_from_dict", "config_to_dict", "max_depth"]

FAMILIES = {  # name: configuration, model, each as module and class; `golf.base.code` reads it without importing it
    "decoder": (("golf.models.decoder", "DecoderConfig"), ("golf.models.decoder", "Decoder")),
    "depth_recurrent": (
        ("golf.models.configs.depth_recurrent", "DepthRecurrentConfig"),
        ("golf.models.depth_recurrent", "DepthRecurrent"),
    ),
    "gdn_hybrid": (("golf.models.configs.gdn_hybrid", "GdnHybridConfig"), ("golf.models.gdn_hybrid", "GdnHybrid")),
    "record": (("golf.models.configs.record", "RecordConfig"), ("golf.models.record", "Record")),
    "transformer": (
        ("golf.models.configs.transformer", "TransformerConfig"),
        ("golf.models.transformer", "Transformer"),
    ),
}


def config_from_dict(data: Any, *, where: str = "model") -> ModelConfig:
    """The config dataclass of ``data["family"]``, strictly checked.

    Raises ``GolfError`` for an unknown family (listing the known ones) and ``ParamsError`` for any wrong key.
    """
    family = data.get("family") if isinstance(data, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise params.ParamsError(f"{where}.family: found {params.quoted(family)}, expected one of {known}")
    (module, name), _ = FAMILIES[family]
    config: ModelConfig = params.from_dict(getattr(import_module(module), name), data, where=where)
    return config


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """The inverse of ``config_from_dict``: plain scalars, ready for JSON."""
    return params.to_dict(config)


def max_depth(config: ModelConfig) -> int:
    """Repeats of the model at full depth; a flat family has no such key, and 1."""
    repeats: int = getattr(config, "repeats", 1)
    return repeats
