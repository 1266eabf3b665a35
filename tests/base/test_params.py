"""Strict parameters: every wrong key is an error that names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from golf.base.params import ParamsError, from_dict, load_section, read_params, to_dict


@dataclasses.dataclass(frozen=True)
class Inner:
    stride: int


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float
    steps: int
    name: str
    on: bool
    kind: Literal["mean", "ema"]
    phases: tuple[tuple[float, int], ...]
    levels: dict[str, int]
    limit: int | None
    inner: Inner

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}, wanted >= 0")


GOOD = {
    "rate": 1,
    "steps": 3,
    "name": "x",
    "on": True,
    "kind": "mean",
    "phases": [[0.4, 2], [1, 4]],
    "levels": {"mlp": 31},
    "limit": None,
    "inner": {"stride": 64},
}


def test_good_values_convert_and_come_back() -> None:
    config = from_dict(Config, GOOD)
    assert config.rate == 1.0 and isinstance(config.rate, float)
    assert config.phases == ((0.4, 2), (1.0, 4))
    assert from_dict(Config, to_dict(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 1}, "params: unknown key `stepz`; did you mean `steps`?"),
        ({"zebra": 1}, "params: unknown key `zebra`; known keys: rate, steps"),
        ({"rate": "fast"}, "params.rate: found 'fast' (str), wanted float"),
        ({"rate": True}, "params.rate: found True (bool), wanted float"),
        ({"steps": 2.5}, "params.steps: found 2.5 (float), wanted int"),
        ({"steps": True}, "params.steps: found True (bool), wanted int"),
        ({"steps": -1}, "params: steps is -1, wanted >= 0"),
        ({"name": 5}, "params.name: found 5 (int), wanted str"),
        ({"on": 1}, "params.on: found 1 (int), wanted bool"),
        ({"kind": "median"}, "params.kind: found 'median' (str), wanted one of mean, ema"),
        ({"phases": [[0.4]]}, "params.phases[0]: found [0.4] (list), wanted tuple[float, int]"),
        ({"levels": {"mlp": "all"}}, "params.levels.mlp: found 'all' (str), wanted int"),
        ({"limit": "none"}, "params.limit: found 'none' (str), wanted int"),
        ({"inner": {}}, "params.inner: missing key `stride` (int)"),
        ({"inner": 3}, "params.inner: found 3 (int), wanted a section with keys"),
    ],
)
def test_wrong_values_are_named(change: dict, message: str) -> None:
    with pytest.raises(ParamsError) as error:
        from_dict(Config, {**GOOD, **change})
    assert str(error.value).startswith(message)


def test_missing_key_is_named() -> None:
    with pytest.raises(ParamsError, match=r"^params: missing key `rate` \(float\)$"):
        from_dict(Config, {key: value for key, value in GOOD.items() if key != "rate"})


def test_yaml_reads_scientific_notation_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("evaluate:\n  sliding: {stride: 64}\ntrain: {lr: 2e-05}\n")
    assert read_params(tmp_path / "p.yaml")["train"]["lr"] == 2e-5
    assert load_section(tmp_path / "p.yaml", "evaluate.sliding", Inner) == Inner(64)


def test_json_serves_machines_without_yaml(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"inner": {"stride": 8}}')
    assert load_section(tmp_path / "p.json", "inner", Inner) == Inner(8)


def test_file_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"gone.yaml: no such parameter file; `golf params --preset cpu_small > "):
        read_params(tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(ParamsError, match=r"bad.yaml: not readable as YAML"):
        read_params(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ParamsError, match=r"list.yaml: found list at the top, wanted one section per stage"):
        read_params(tmp_path / "list.yaml")
    (tmp_path / "p.yaml").write_text("train: {}\n")
    with pytest.raises(ParamsError, match=r"p.yaml: section `quantize` is missing"):
        load_section(tmp_path / "p.yaml", "quantize", Inner)
