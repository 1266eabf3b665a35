"""Strict loading of parameter files into dataclasses.

Every stage reads one section of ``params.yaml`` into one frozen dataclass that lives beside the code using it.
An unknown, missing or mistyped key is a ``ParamsError`` that names the key, what was found and what was wanted.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from golf.base.errors import GolfError

T = TypeVar("T")

__all__ = ["ParamsError", "from_dict", "load_section", "read_params", "to_dict"]


class ParamsError(GolfError):
    """A parameter file, section or key is wrong; the message names it."""


def read_params(path: str | Path) -> dict[str, Any]:
    """Read a ``.yaml`` or ``.json`` parameter file into plain dictionaries.

    YAML 1.2 rules apply (``2e-5`` is a number). Raises ``ParamsError`` when the file is missing or is no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ParamsError(f"{path}: no such parameter file; `golf params --preset cpu_small > {path}` writes one")
    try:
        data = json.loads(path.read_text()) if path.suffix == ".json" else _read_yaml(path)
    except ParamsError:
        raise
    except Exception as error:  # the two parsers have no common base class
        raise ParamsError(f"{path}: not readable as {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(data, dict):
        raise ParamsError(f"{path}: found {type(data).__name__} at the top, wanted one section per stage")
    return data


def _read_yaml(path: Path) -> Any:
    try:
        from ruamel.yaml import YAML
    except ModuleNotFoundError as error:
        raise ParamsError(f"{path}: reading YAML needs ruamel.yaml; install it or give a .json file") from error
    return YAML(typ="safe").load(path.read_text())


def load_section(path: str | Path, section: str, cls: type[T]) -> T:
    """Load one section (``train`` or dotted ``evaluate.sliding``) of a parameter file as the dataclass ``cls``."""
    data: Any = read_params(path)
    where = str(path)
    for part in section.split("."):
        if not isinstance(data, dict) or part not in data:
            raise ParamsError(f"{where}: section `{section}` is missing; `golf params --preset cpu_small` prints all")
        data = data[part]
    return from_dict(cls, data, where=f"{where}: {section}")


def from_dict(cls: type[T], data: Any, *, where: str = "params") -> T:
    """Build the dataclass ``cls`` from ``data``; every field must be present, nothing else may be.

    Field types may be int, float, bool, str, ``Literal``, ``X | None``, ``tuple[X, ...]``, ``dict[str, X]`` and
    dataclasses. A whole number is taken for a float, never a float for an int. ``ValueError`` raised by the
    dataclass's own ``__post_init__`` is passed on with the place in front.
    """
    if not isinstance(data, dict):
        raise ParamsError(f"{where}: found {_shown(data)}, wanted a section with keys")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else f"; known keys: {', '.join(names)}"
            raise ParamsError(f"{where}: unknown key `{key}`{hint}")
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
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    assert isinstance(plain, dict)
    return plain


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where=where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where, hint)
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise ParamsError(f"{where}: found {_shown(value)}, wanted one of {', '.join(map(str, args))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(args) == len(value):
            return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict and isinstance(value, dict):
        return {str(key): _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ParamsError(f"{where}: found {_shown(value)}, wanted {_type_name(hint)}")


def _convert_union(args: tuple[Any, ...], value: Any, where: str, hint: Any) -> Any:
    if value is None and type(None) in args:
        return None
    for arg in args:
        if arg is type(None):
            continue
        try:
            return _convert(arg, value, where)
        except ParamsError:
            if len([a for a in args if a is not type(None)]) == 1:
                raise
    raise ParamsError(f"{where}: found {_shown(value)}, wanted {_type_name(hint)}")


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
