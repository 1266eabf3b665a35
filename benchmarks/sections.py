"""Sections of the parameters that benchmarks make without a parameter file."""

from __future__ import annotations

from typing import Any

from golf.quantize.config import QUANTIZED_ROLES, GptqConfig, QuantizeConfig, RoleConfig

__all__ = ["PERCENTILES", "quantize_section"]

PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)


def quantize_section(
    method: Any, clip: float, *, levels: int = 31, column_exponent: float = 0.5, row_exponent: float = 0.0
) -> QuantizeConfig:
    """Section `quantize` with one setting for all roles and no grid for control tensors."""
    gptq = GptqConfig(damping=0.01, column_exponent=column_exponent, act_order=False, row_exponent=row_exponent)
    roles = dict.fromkeys(QUANTIZED_ROLES, RoleConfig(None, None))
    return QuantizeConfig(method, dict.fromkeys(QUANTIZED_ROLES, levels), PERCENTILES, clip, gptq, roles, 0.0)
