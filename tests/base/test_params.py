"""Strict parameters: every wrong key is an error that names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from golf.base.params import Ge, Gt, Le, Lt, ParamsError, from_dict, load_section, read_params, to_dict


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
            raise ValueError(f"steps is {self.steps}, expected >= 0")


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
        ({"rate": "fast"}, "params.rate: found 'fast' (str), expected float"),
        ({"rate": True}, "params.rate: found True (bool), expected float"),
        ({"steps": 2.5}, "params.steps: found 2.5 (float), expected int"),
        ({"steps": True}, "params.steps: found True (bool), expected int"),
        ({"steps": -1}, "params: steps is -1, expected >= 0"),
        ({"name": 5}, "params.name: found 5 (int), expected str"),
        ({"on": 1}, "params.on: found 1 (int), expected bool"),
        ({"kind": "median"}, "params.kind: found 'median' (str), expected one of mean, ema"),
        ({"phases": [[0.4]]}, "params.phases[0]: found [0.4] (list), expected tuple[float, int]"),
        ({"levels": {"mlp": "all"}}, "params.levels.mlp: found 'all' (str), expected int"),
        ({"limit": "none"}, "params.limit: found 'none' (str), expected int"),
        ({"inner": {}}, "params.inner: missing key `stride` (int)"),
        ({"inner": 3}, "params.inner: found 3 (int), expected a section with keys"),
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
    with pytest.raises(ParamsError, match=r"list.yaml: found list at the top, expected one section per stage"):
        read_params(tmp_path / "list.yaml")
    (tmp_path / "p.yaml").write_text("train: {}\n")
    with pytest.raises(ParamsError, match=r"p.yaml: section `quantize` is missing"):
        load_section(tmp_path / "p.yaml", "quantize", Inner)


@dataclasses.dataclass(frozen=True)
class Bounded:
    steps: Annotated[int, Ge(1), Le(10**7)]
    share: Annotated[float, Gt(0), Lt(1)]
    edges: tuple[Annotated[float, Ge(0)], ...]
    levels: dict[str, Annotated[int, Ge(7), Le(127)]]
    clip: Annotated[float, Gt(0)] | None


BOUNDED: dict[str, Any] = {"steps": 1, "share": 0.5, "edges": [0, 1.5], "levels": {"mlp": 127}, "clip": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "p.steps: found 0 (int), expected int, 1 or more and at most 10,000,000"),
        ({"steps": 10**18}, "p.steps: found 1000000000000000000 (int), expected int, 1 or more and at most 10,000,000"),
        ({"share": 0}, "p.share: found 0 (int), expected float, more than 0 and less than 1"),
        ({"share": 1.0}, "p.share: found 1.0 (float), expected float, more than 0 and less than 1"),
        ({"share": float("nan")}, "p.share: found nan (float), expected float"),
        ({"edges": [0, -1e-9]}, "p.edges[1]: found -1e-09 (float), expected float, 0 or more"),
        ({"edges": [float("inf")]}, "p.edges[0]: found inf (float), expected float"),
        ({"levels": {"mlp": 3}}, "p.levels.mlp: found 3 (int), expected int, 7 or more and at most 127"),
        ({"clip": 0.0}, "p.clip: found 0.0 (float), expected float, more than 0"),
    ],
)
def test_a_number_out_of_its_bounds_is_named(change: dict[str, Any], message: str) -> None:
    assert from_dict(Bounded, BOUNDED).levels == {"mlp": 127}
    with pytest.raises(ParamsError) as error:
        from_dict(Bounded, BOUNDED | change, where="p")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**18])
def test_bug_a_huge_number_overflowed_or_ran_for_ever(value: int) -> None:
    for change in ({"rate": value if abs(value) > 10**18 else float("nan")}, {"steps": value * 10}):
        with pytest.raises(ParamsError, match=r"params\.(rate|steps): found .{1,60} expected (float|int)$"):
            from_dict(Config, {**GOOD, **change})


def nested(depth: int) -> Any:
    """2 ** depth leaves in ``depth`` lists, as YAML's anchors write them."""
    value: Any = ["x"]
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "change",
    [{"name": nested(60)}, {"rate": "y" * 10**7}, {"levels": {"k" * 10**6: "z"}}, {"k" * 10**6: 1}, {"a\x1b[2J\nb": 1}],
)
def test_bug_messages_repeated_whole_values_and_control_characters(change: dict[str, Any]) -> None:
    with pytest.raises(ParamsError) as error:
        from_dict(Config, {**GOOD, **change})
    assert len(str(error.value)) < 400 and str(error.value).isprintable()


def test_a_text_with_a_zero_byte_is_no_parameter() -> None:
    with pytest.raises(ParamsError, match=r"params.name: found 'a\\x00b' \(str\), expected str"):
        from_dict(Config, {**GOOD, "name": "a\0b"})


def test_parameter_files_are_utf8_whatever_the_locale_and_their_errors_one_line(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes("a: {b: größe} # ü\n".encode())
    assert read_params(tmp_path / "p.yaml") == {"a": {"b": "größe"}}
    (tmp_path / "p.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ParamsError, match=r"p.yaml: not readable as YAML: .*0xff"):
        read_params(tmp_path / "p.yaml")
    (tmp_path / "p.yaml").write_text("a: [1\n" + "x: [\n" * 1000)
    with pytest.raises(ParamsError) as error:
        read_params(tmp_path / "p.yaml")
    assert str(error.value).isprintable() and len(str(error.value)) < 400
