"""Names of model families, and the way from a plain dictionary to a model.

To add a family: write its frozen config dataclass (field ``family`` a ``Literal`` with its name) and its
``LanguageModel`` class taking ``(config, vocab_size)`` in one module, and name both in ``FAMILIES``. A family's module
is imported when a model of it is asked for, no sooner, so that what reads imports (``golf.closure``) can leave out the
families that are not in use.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import Any

from golf import params
from golf.models.base import LanguageModel

__all__ = ["FAMILIES", "build_model", "config_from_dict", "config_to_dict"]

FAMILIES = MappingProxyType(  # family: module, config dataclass, model class
    {
        "depth_recurrent": ("golf.models.depth_recurrent", "DepthRecurrentConfig", "DepthRecurrent"),
        "gdn_hybrid": ("golf.models.gdn_hybrid", "GdnHybridConfig", "GdnHybrid"),
        "transformer": ("golf.models.transformer", "TransformerConfig", "Transformer"),
    }
)


def _classes(family: str) -> tuple[Any, Any]:
    name, config, model = FAMILIES[family]
    module = importlib.import_module(name)
    return getattr(module, config), getattr(module, model)


def config_from_dict(data: Any, *, where: str = "model") -> Any:
    """The config dataclass of ``data["family"]``, strictly checked.

    Raises ``ParamsError`` for an unknown family (listing the known ones) and for any wrong key.
    """
    family = data.get("family") if isinstance(data, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        raise params.ParamsError(f"{where}.family: found {family!r}, wanted one of {', '.join(sorted(FAMILIES))}")
    return params.from_dict(_classes(family)[0], data, where=where)


def config_to_dict(config: Any) -> dict[str, Any]:
    """The inverse of ``config_from_dict``: plain scalars, ready for JSON."""
    return params.to_dict(config)


def build_model(config: Any, vocab_size: int) -> LanguageModel:
    """A freshly initialized float32 model; the weights follow from torch's global seed alone."""
    if vocab_size < 2:
        raise ValueError(f"vocab_size: found {vocab_size}, wanted 2 or more")
    model: LanguageModel = _classes(config.family)[1](config, vocab_size)
    return model
