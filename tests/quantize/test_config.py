"""Section `quantize`: what a role has of its own acts on that role alone; wrong values are named."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf.base.params import ParamsError, from_dict, to_dict
from golf.cli.params import compose
from golf.quantize.config import FitConfig, QuantizeConfig, RoleConfig
from golf.quantize.pipeline import Quantizer
from golf.quantize.rounding import entropy_bits
from golf.quantize.tensors import row_steps
from tiny import flat, quantize_config, shaken

MODEL = flat(negative_slope=0.0)
ROLES = ("embedding", "attention", "mlp")
CONFIG = quantize_config("sdclip")


def quantize(config: QuantizeConfig) -> Any:
    model = shaken(MODEL, 40)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    hessians: dict[str, Any] = dict.fromkeys(model.quantizable_names())
    return Quantizer(state, model, config, meta={"model": MODEL, "vocab_size": 40}, hessians=hessians).run().model


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "own", [RoleConfig("gptq_trellis", None), RoleConfig(None, 20.0), RoleConfig("gptq_lite", 3.0)]
)
def test_what_a_role_has_of_its_own_acts_on_that_role_alone(role: str, own: RoleConfig) -> None:
    plain, found = quantize(CONFIG), quantize(dataclasses.replace(CONFIG, roles=CONFIG.roles | {role: own}))
    for name, tensor in found.tensors.items():
        same = np.array_equal(tensor.values, plain.tensors[name].values)
        assert same == (tensor.role != role), name
        assert tensor.trellis == (tensor.role == role and own.method == "gptq_trellis")


@pytest.mark.parametrize("preset", ["cpu_small", "record_h100x8_10min"])
def test_the_published_recipe_of_the_manual_has_its_steps_and_bits(root: Path, preset: str) -> None:
    """Steps in standard deviations and bits of Gaussian rows, from the numbers of PR #1855."""
    page = (root / "docs/training.md").read_text().split("<!-- published:")[1]
    keys = re.findall(r"-S (\S+)", page)
    values = compose(root / "conf", preset=preset, overrides=keys)
    config, table = from_dict(QuantizeConfig, values["quantize"]), shaken(MODEL | {"width": 128}, 400, noise=0.0)
    assert values["fit"]["target_bytes"] == 0 and set(config.methods) == {"gptq"}
    state = {name: tensor.numpy() for name, tensor in table.state_dict().items()}
    rng, names = np.random.default_rng(0), table.quantizable_names()
    state |= {name: rng.standard_normal(state[name].shape).astype(np.float32) for name in names}
    hessians: dict[str, Any] = dict.fromkeys(names)
    meta = {"model": to_dict(table.config), "vocab_size": 400}
    tensors = Quantizer(state, table, config, meta=meta, hessians=hessians).run().model.tensors
    published = {"embedding": (14 / 63, 4.217), "attention": (13 / 31, 3.301), "mlp": (11.5 / 31, 3.478)}
    for tensor in tensors.values():
        step, bits = published[tensor.role]
        assert row_steps(tensor.row_scale) == pytest.approx(step * state[tensor.name].std(axis=1), rel=0.045)
        assert entropy_bits(tensor.values) / tensor.values.size == pytest.approx(bits, abs=0.04)
    assert {tensor.role for tensor in tensors.values()} == set(published)


def test_hessians_are_needed_when_one_role_needs_them() -> None:
    assert not CONFIG.needs_hessians
    assert dataclasses.replace(CONFIG, roles=CONFIG.roles | {"mlp": RoleConfig("gptq", None)}).needs_hessians


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("roles", {"mlp": {"method": None, "clip": None}}, "roles: found mlp, expected exactly embedding"),
        ("roles.mlp", {"method": "awq", "clip": None}, "roles.mlp.method: found 'awq'"),
        ("roles.mlp", {"method": None, "clip": -1.0}, "roles.mlp.clip: found -1.0"),
        ("roles.mlp", {"method": None}, "roles.mlp: missing key `clip`"),
        ("roles.mlp", {"method": None, "clip": None, "bits": 4}, "roles.mlp: unknown key `bits`"),
        ("control_step", 2, "control_step: found 2"),
        ("gptq.row_exponent", 0.7, "row_exponent: found 0.7"),
    ],
)
def test_wrong_values_are_named(key: str, value: Any, message: str) -> None:
    data = to_dict(CONFIG)
    assert from_dict(QuantizeConfig, data) == CONFIG
    *path, last = key.split(".")
    section = data
    for part in path:
        section = section[part]
    section[last] = value
    with pytest.raises(ParamsError, match=message):
        from_dict(QuantizeConfig, data, where="quantize")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("target_bytes", -1, "fit.target_bytes: found -1"),
        ("split", "role", "fit.split: found 'role'"),
        ("tokens", 0, "fit.tokens: found 0 .*, expected int, 1 or more"),
        ("window", 0, "fit.window: found 0 .*, expected int, 1 or more"),
    ],
)
def test_wrong_values_of_the_fit_are_named(key: str, value: Any, message: str) -> None:
    config = FitConfig(target_bytes=0, split="none", tokens=2048, window=256)
    assert from_dict(FitConfig, to_dict(config)) == config and not config.acts
    with pytest.raises(ParamsError, match=message):
        from_dict(FitConfig, to_dict(config) | {key: value}, where="fit")


def test_the_trellis_of_one_role_forbids_act_order() -> None:
    gptq = dataclasses.replace(CONFIG.gptq, act_order=True)
    dataclasses.replace(CONFIG, gptq=gptq)
    with pytest.raises(ValueError, match="gptq.act_order: found true"):
        dataclasses.replace(CONFIG, gptq=gptq, roles=CONFIG.roles | {"mlp": RoleConfig("gptq_trellis", None)})
