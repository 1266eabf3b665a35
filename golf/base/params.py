"""Strict loading of parameter files into dataclasses.

Every stage reads one section of ``params.yaml`` into one frozen dataclass that lives beside the code using it.
An unknown, missing or mistyped key, or a number out of its bounds, is a ``ParamsError`` that names the key, what was
found and what was expected. Bounds stand in the type of a field: ``steps: Annotated[int, Ge(1), Le(10**7)]``.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import reprlib
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from golf.base.errors import GolfError

T = TypeVar("T")

__all__ = [
    "BelowOne", "Clip", "Count", "Gain", "Ge", "Gt", "Layers", "Le", "Lt", "Natural", "NonNegative", "ParamsError",
    "Positive", "Seed", "Share", "Size", "from_dict", "load_section", "quoted", "read_params", "to_dict",
]  # fmt: skip

_QUOTE = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = 80
_QUOTE.maxlong = 40
_QUOTE.maxlevel = 3


class ParamsError(GolfError):
    """A parameter file, section or key is wrong; the message names it."""


@dataclasses.dataclass(frozen=True)
class Ge:
    """Bound of a number in the type of its field: ``limit`` or more."""

    limit: float

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the bound; NaN never is."""
        return value >= self.limit

    def __str__(self) -> str:
        return f"{self.limit:,} or more"


@dataclasses.dataclass(frozen=True)
class Gt(Ge):
    """More than ``limit``."""

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        return value > self.limit

    def __str__(self) -> str:
        return f"more than {self.limit:,}"


@dataclasses.dataclass(frozen=True)
class Le(Ge):
    """At most ``limit``."""

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        return value <= self.limit

    def __str__(self) -> str:
        return f"at most {self.limit:,}"


@dataclasses.dataclass(frozen=True)
class Lt(Ge):
    """Less than ``limit``."""

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        return value < self.limit

    def __str__(self) -> str:
        return f"less than {self.limit:,}"


Natural = Annotated[int, Ge(0), Le(10**12)]
Count = Annotated[int, Ge(1), Le(10**9)]
Size = Annotated[int, Ge(1), Le(1 << 20)]  # of windows, batches, vectors: what is held in memory at once
Layers = Annotated[int, Ge(1), Le(1000)]
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
Positive = Annotated[float, Gt(0), Le(10**9)]
NonNegative = Annotated[float, Ge(0), Le(10**9)]
Share = Annotated[float, Ge(0), Le(1)]
Gain = Annotated[float, Ge(-1000), Le(1000)]
BelowOne = Annotated[float, Ge(0), Lt(1)]
Clip = Annotated[float, Gt(0), Le(1000)]  # standard deviations


def quoted(value: Any) -> str:
    """``value`` for a message: control characters escaped, long or deep ones cut without being walked to their end."""
    return _QUOTE.repr(value)


def read_params(path: str | Path) -> dict[str, Any]:
    """Read a ``.yaml`` or ``.json`` parameter file into plain dictionaries.

    YAML 1.2 rules apply (``2e-5`` is a number). Raises ``ParamsError`` when the file is missing or is no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ParamsError(f"{path}: no such parameter file; `golf params --preset cpu_small > {path}` writes one")
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else _read_yaml(path, text)
    except (ParamsError, OSError):
        raise
    except Exception as error:  # the two parsers have no common base class
        said = quoted(" ".join(str(error).split()))[1:-1]
        raise ParamsError(f"{path}: not readable as {path.suffix[1:].upper()}: {said}") from error
    if not isinstance(data, dict):
        raise ParamsError(f"{path}: found {type(data).__name__} at the top, expected one section per stage")
    return data


def _read_yaml(path: Path, text: str) -> Any:
    try:
        from ruamel.yaml import YAML
    except ModuleNotFoundError as error:
        raise ParamsError(f"{path}: reading YAML needs ruamel.yaml; install it or give a .json file") from error
    return YAML(typ="safe").load(text)


def load_section(path: str | Path, section: str, cls: type[T]) -> T:
    """Load one section (``train`` or dotted ``evaluate.sliding``) of a parameter file as the dataclass ``cls``."""
    data: Any = read_params(path)
    for part in section.split("."):
        if not isinstance(data, dict) or part not in data:
            raise ParamsError(f"{path}: section `{section}` is missing; `golf params --preset cpu_small` prints all")
        data = data[part]
    return from_dict(cls, data, where=f"{path}: {section}")


def from_dict(cls: type[T], data: Any, *, where: str = "params") -> T:
    """Build the dataclass ``cls`` from ``data``; every field must be present, nothing else may be.

    Field types may be int, float, bool, str, ``Literal``, ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``,
    dataclasses, and ``Annotated`` numbers with bounds. A whole number is taken for a float, never a float for an int;
    NaN, infinity and integers beyond 64 bits for nothing. ``ValueError`` raised by the dataclass's own
    ``__post_init__`` is passed on with the place in front.
    """
    if not isinstance(data, dict):
        raise ParamsError(f"{where}: found {_shown(data)}, expected a section with keys")
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(_key(key), names, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else f"; known keys: {', '.join(names)}"
            raise ParamsError(f"{where}: unknown key `{_key(key)}`{hint}")
    missing = [name for name in names if name not in data]
    if missing:
        raise ParamsError(f"{where}: missing key `{missing[0]}` ({_type_name(hints[missing[0]])})")
    values = {name: _convert(hints[name], data[name], f"{where}.{name}") for name in names}
    try:
        return cls(**values)
    except ParamsError:
        raise
    except ValueError as error:
        raise ParamsError(f"{where}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of ``from_dict``: plain dictionaries, lists and scalars, ready for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where=where)  # type: ignore[arg-type]
    if origin is Annotated:
        number = _convert(args[0], value, where)
        if all(bound.holds(number) for bound in args[1:]):
            return number
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where, hint)
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        raise ParamsError(f"{where}: found {_shown(value)}, expected one of {', '.join(map(str, args))}")
    if origin is tuple and isinstance(value, list | tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(args) == len(value):
            return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(args[1], item, f"{where}.{_key(key)}") for key, item in value.items()}
    if hint is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is int and type(value) is int and abs(value) < 1 << 63:
        return value
    if hint is bool and type(value) is bool or hint is str and type(value) is str and "\0" not in value:
        return value
    raise ParamsError(f"{where}: found {_shown(value)}, expected {_type_name(hint)}")


def _convert_union(args: tuple[Any, ...], value: Any, where: str, hint: Any) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [arg for arg in args if arg is not type(None)]
    for choice in choices:
        try:
            return _convert(choice, value, where)
        except ParamsError:
            if len(choices) == 1:
                raise
    raise ParamsError(f"{where}: found {_shown(value)}, expected {_type_name(hint)}")


def _key(key: Any) -> str:
    return quoted(key)[1:-1] if isinstance(key, str) else quoted(key)


def _shown(value: Any) -> str:
    return f"{quoted(value)} ({type(value).__name__})"


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        kind, *bounds = typing.get_args(hint)
        return f"{_type_name(kind)}, {' and '.join(map(str, bounds))}"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
