"""Sources reduced to what a program reaches, and short names: what stays runs the same, what goes is gone."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import pytest

from golf.artifact.shake import plain, shake, shorten

SOURCES = {
    "app": """
        from __future__ import annotations
        from dataclasses import dataclass
        import json, math
        from lib import helper, unused as other
        import lib
        from lib import deep
        LIMIT: int = 3
        TABLE = {n: n * n for n in range(LIMIT)}
        for limit in (1, 2):
            LIMIT += limit
        @dataclass
        class Point:
            x: int
            def norm(self): return abs(self.x) + LIMIT
            def never(self): return json.dumps(self.x)
            @property
            def double(self): return 2 * self.norm()
        class Base:
            def run(self): return self.hook()
            def hook(self): return 1
        class Child(Base):
            def hook(self): return helper(2)
        def main(x): return Point(x).double + Child().run() + deep() + lib.CONSTANT + TABLE[2]
        def idle(): return other(math.pi)
    """,
    "lib": """
        CONSTANT = 100
        UNUSED = 5
        def helper(n): return n + CONSTANT
        def unused(n): return n
        def deep():
            from late import value
            return value
    """,
    "late": """
        value = 1000
        def nothing(): return 0
    """,
}


def trees() -> dict[str, ast.Module]:
    return {name: plain(ast.parse(textwrap.dedent(text))) for name, text in SOURCES.items()}


def test_only_what_the_root_reaches_stays() -> None:
    text = {name: ast.unparse(tree) for name, tree in shake(trees(), [("app", "main")], ()).items()}
    for gone in ("idle", "unused", "UNUSED", "never", "json", "math", "nothing"):
        assert not any(gone in source for source in text.values()), gone
    for stays in ("LIMIT += limit", "def norm", "def double", "def hook", "x: int"):
        assert stays in text["app"], stays
    assert "LIMIT = 3" in text["app"]  # annotations of variables go, those of fields stay
    assert set(text) == {"app", "lib", "late"}
    assert set(shake(trees(), [("late", "value")], ())) == {"late"}


def test_attributes_that_the_caller_uses_keep_their_methods() -> None:
    text = ast.unparse(shake(trees(), [("app", "main")], {"never"})["app"])
    assert "def never" in text and "import json" in text


def test_modules_named_in_a_tuple_are_reached() -> None:
    modules = {"app": ast.parse("TABLE = {'one': ('late', 'value')}\ndef main():\n    return TABLE"), **trees()}
    assert "value = 1000" in ast.unparse(shake(modules, [("app", "main")], ())["late"])


def test_a_class_with_a_base_from_outside_keeps_its_methods() -> None:
    source = "import threading\nclass Worker(threading.Thread):\n    def run(self):\n        return 1\n"
    assert "def run" in ast.unparse(shake({"app": ast.parse(source)}, [("app", "Worker")], ())["app"])


FUNCTION = """
offset = 7
def outer(first, second=2, *rest, key=3, **more):
    total = sum(value * 2 for value in rest) + offset
    def inner(number):
        nonlocal total
        total += number
        return [total + len for len in range(number)]
    try:
        first / 0
    except ZeroDivisionError as error:
        text = f"{error} {total=}"
    scale = lambda amount, second=second: amount * second + key
    if (walrus := scale(amount=first)) > 0:
        total += walrus
    for index, (left, right) in enumerate([(1, 2), (3, 4)]):
        total += index * left - right
    return inner(second), total, text, more
class Thing:
    def __init__(self, argument):
        self.argument = argument
    def method(self, parameter):
        result = self.argument + parameter
        return result
"""


def outcome(source: str) -> Any:
    space: dict[str, Any] = {}
    exec(compile(source, "x", "exec"), space)
    return space["outer"](4, 3, 5, 6, key=9, extra=1), space["Thing"](argument=3).method(4)


def test_short_names_mean_the_same() -> None:
    modules = {"m": ast.parse(FUNCTION)}
    shorten(modules)
    short = ast.unparse(modules["m"])
    assert outcome(short) == outcome(FUNCTION)
    assert len(short) < 0.85 * len(ast.unparse(ast.parse(FUNCTION)))
    for stays in ("amount=", "error", "key", "total", "more", "rest", "argument", "offset", "len"):
        assert stays in short, stays
    for gone in ("left", "right", "parameter", "result", "walrus", "text"):
        assert gone not in short, gone


@pytest.mark.parametrize("word", ["locals()", "vars()", "eval('first')"])
def test_functions_that_look_at_their_names_are_left_alone(word: str) -> None:
    source = f"def f(first):\n    second = {word}\n    return second"
    modules = {"m": ast.parse(source)}
    shorten(modules)
    assert ast.unparse(modules["m"]) == source
