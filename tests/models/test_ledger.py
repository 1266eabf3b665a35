"""Parameter counts of the published models, from the shipped configuration files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from golf.base.params import ParamsError, read_params
from golf.models.base import LanguageModel
from golf.models.registry import FAMILIES, build_model, config_from_dict, config_to_dict


def _shipped(root: Path, name: str, **changes: object) -> LanguageModel:
    with torch.device("meta"):
        return build_model(config_from_dict(read_params(root / f"conf/model/{name}.yaml") | changes), 1024)


@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [
        ("depth_recurrent_832", {}, 17_140_056),
        ("depth_recurrent_832_r5", {}, 17_150_040),
        ("depth_recurrent_832", {"repeats": 6}, 17_160_024),
        ("depth_recurrent_880", {}, 23_662_344),
        ("depth_recurrent_832", {"width": 640, "blocks": 6, "repeats": 2}, 19_211_568),
        ("transformer_512", {}, 17_059_912),
    ],
)
def test_parameter_counts_match_the_published_logs(
    root: Path, name: str, changes: dict[str, object], count: int
) -> None:
    model = _shipped(root, name, **changes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.num_parameters() == count


def test_one_block_of_the_832_model_has_its_published_size(root: Path) -> None:
    model = _shipped(root, "depth_recurrent_832")
    sizes = {name: p.numel() for name, p in model.named_parameters() if name.startswith("blocks.0.")}
    assert sum(sizes.values()) == 4_848_904
    assert sum(n for name, n in sizes.items() if model.role(name) == "attention") == 2_076_672
    assert sum(n for name, n in sizes.items() if model.role(name) == "mlp") == 2_768_896
    assert sum(n for name, n in sizes.items() if model.role(name) == "control") == 3_336


def test_scale_tables_are_allocated_for_the_full_number_of_repeats(root: Path) -> None:
    for name, count in (("depth_recurrent_832", 37_440), ("depth_recurrent_832_r5", 47_424)):
        model = _shipped(root, name)
        tables = ("loop_vectors", "value_scales", "cross_repeat_scales")
        assert sum(model.get_parameter(table).numel() for table in tables) == count


SHIPPED = sorted((Path(__file__).parents[2] / "conf/model").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_round_trips(path: Path) -> None:
    data = read_params(path)
    assert config_to_dict(config_from_dict(data)) == data


def test_small_configurations_have_about_1_6_million_parameters(root: Path) -> None:
    for name in ("depth_recurrent_small", "transformer_small"):
        assert 1_500_000 < _shipped(root, name).num_parameters() < 1_700_000


def test_quantizable_names_are_the_18_matrices_and_3_tables(root: Path) -> None:
    model = _shipped(root, "depth_recurrent_832")
    names = model.quantizable_names()
    assert len(names) == 21
    assert all(model.get_parameter(name).ndim == 2 for name in names)
    assert sum(model.get_parameter(name).numel() for name in names) == 17_092_608
    roles = [model.role(name) for name in names]
    assert (roles.count("embedding"), roles.count("attention"), roles.count("mlp")) == (3, 12, 6)


def test_role_of_an_unknown_name_is_a_key_error(root: Path) -> None:
    with pytest.raises(KeyError, match="blocks.9"):
        _shipped(root, "depth_recurrent_832").role("blocks.9.mlp.input.weight")


def test_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ParamsError, match=r"family: found 'mamba', expected one of .*depth_recurrent.*transformer"):
        config_from_dict({"family": "mamba"})
    with pytest.raises(ParamsError, match="found None"):
        config_from_dict([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 7}, "heads: found 7, expected a divisor of width 832"),
        ({"kv_heads": 3}, "kv_heads: found 3, expected a divisor of heads 8"),
        ({"width": 24, "heads": 8}, "head width 3"),
        ({"xsa_last": 13}, "xsa_last: found 13, expected 0 to 12"),
        ({"value_tables": -1}, "value_tables: found -1"),
        ({"repeats": 0}, "repeats: found 0 .*, expected int, 1 or more"),
        ({"norm_eps": 0.0}, "norm_eps: found 0.0"),
        ({"mlp_ratio": 0.0001}, "mlp_ratio"),
        ({"widht": 3}, "did you mean `width`"),
    ],
)
def test_wrong_configurations_name_the_key(root: Path, changes: dict[str, object], message: str) -> None:
    data = read_params(root / "conf/model/depth_recurrent_832.yaml")
    with pytest.raises(ParamsError, match=message):
        config_from_dict(data | changes)


def test_vocabulary_of_one_is_refused(root: Path) -> None:
    config = config_from_dict(read_params(root / "conf/model/depth_recurrent_small.yaml"))
    with pytest.raises(ValueError, match="vocab_size: found 1"):
        build_model(config, 1)


def test_every_family_has_a_shipped_configuration(root: Path) -> None:
    shipped = {read_params(path)["family"] for path in (root / "conf/model").glob("*.yaml")}
    assert shipped == set(FAMILIES) - {"decoder"}  # whose configuration comes with the model that is imported


def test_configurations_are_frozen(root: Path) -> None:
    config = config_from_dict(read_params(root / "conf/model/depth_recurrent_small.yaml"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 3  # type: ignore[misc]
