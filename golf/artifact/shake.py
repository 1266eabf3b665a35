"""The part of the sources that a program can reach, and short names for it: what the shipped decoder is made of.

A top-level statement stays when a name that it binds is used by a statement that stays, beginning with the roots; a
method stays when its name is used as an attribute anywhere, or Python or torch calls it. This errs to one side: names
too many stay, none too few, as long as nobody puts a name together at run time and top-level statements do nothing but
bind names. That both hold of these sources is tested by running the result.
"""

from __future__ import annotations

import ast
import builtins
import copy
import itertools
import keyword
import string
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

__all__ = ["Modules", "plain", "shake", "shorten"]

Modules = dict[str, ast.Module]
_CALLED = {"forward"}  # by torch; Python calls names between double underscores
_KNOWN_BASES = {"ABC", "Module", "NamedTuple"}  # from outside, and they call no other method that we write
_SCOPES = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.Lambda  # have names of their own
_Name = tuple[str, str]  # module, name in it; the name "" is the module itself


def shake(modules: Mapping[str, ast.Module], roots: Collection[_Name], attributes: Collection[str]) -> Modules:
    """``modules`` reduced to what ``roots`` reach; ``attributes`` are names that the caller will use of objects."""
    bound = {module: {name for item in tree.body for name in _binds(item)} for module, tree in modules.items()}
    classes = {node.name for tree in modules.values() for node in tree.body if isinstance(node, ast.ClassDef)}
    known = {module: _aliases(modules, module) for module in modules}
    uses = {
        id(node): _uses(node, module, modules, known[module])
        for module, tree in modules.items()
        for item in tree.body
        for node in _parts(item)
    }
    names, used, before = set(roots), set(attributes), (0, 0)
    while before != (before := (len(names), len(used))):
        for module in {module for module, _ in names} & set(modules):
            wanted = {name for other, name in names if other == module}
            for item in _kept(modules[module], wanted, used, classes):
                for node in _parts(item):
                    found, attrs = uses.get(id(node)) or _uses(node, module, modules, known[module])
                    names |= {(other, name) for other, name in found if name in bound.get(other, ())}
                    names |= {(other, "") for other, _ in found if other in modules}
                    used |= attrs
    return {
        module: ast.fix_missing_locations(ast.Module(list(_kept(tree, wanted, used, classes)), []))
        for module, tree in sorted(modules.items())
        if (wanted := {name for other, name in names if other == module})
    }


def _parts(item: ast.stmt) -> list[ast.AST]:
    """A statement in the pieces that stay or go; those of imports are chosen anew each time."""
    if isinstance(item, ast.ClassDef):
        return [*item.decorator_list, *item.bases, *item.keywords, *item.body]
    return [item]


def _binds(item: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement gives a value."""
    stack: list[ast.AST] = [item]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
            continue
        if isinstance(node, _SCOPES):
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.alias):
            yield _alias(node)
        stack += ast.iter_child_nodes(node)


def _alias(node: ast.alias) -> str:
    return (node.asname or node.name).split(".")[0]


def _kept(
    tree: ast.Module, wanted: Collection[str], used: Collection[str], classes: Collection[str]
) -> Iterator[ast.stmt]:
    """Top-level statements that bind a expected name or none at all, without imports and methods that nobody uses.

    A class with a base from outside may be called by it, so that all of its methods stay.
    """
    for item in tree.body:
        if isinstance(item, ast.Import | ast.ImportFrom):
            future = isinstance(item, ast.ImportFrom) and item.module == "__future__"
            if names := [alias for alias in item.names if future or _alias(alias) in wanted]:
                item = copy.copy(item)
                item.names = names
                yield item
        elif not (bound := set(_binds(item))) or bound & set(wanted):
            yield _without_methods(item, used, classes) if isinstance(item, ast.ClassDef) else item


def _without_methods(item: ast.ClassDef, used: Collection[str], classes: Collection[str]) -> ast.ClassDef:
    bases = {ast.unparse(base).split(".")[-1] for base in item.bases}
    if not bases <= {*classes, *_KNOWN_BASES}:
        return item

    def stays(node: ast.stmt) -> bool:
        if not isinstance(node, ast.FunctionDef):
            return True
        return node.name in used or node.name in _CALLED or node.name.startswith("__") and node.name.endswith("__")

    item = copy.copy(item)
    item.body = [node for node in item.body if stays(node)] or [ast.Pass()]
    return item


def _aliases(modules: Mapping[str, ast.Module], module: str) -> dict[str, set[str]]:
    """Names under which other modules are known anywhere in ``module``."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(modules[module]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
                if name in modules:
                    found.setdefault(_alias(alias), set()).add(name)
    return found


def _uses(
    item: ast.AST, module: str, modules: Mapping[str, ast.Module], aliases: Mapping[str, set[str]]
) -> tuple[set[_Name], set[str]]:
    """What a statement uses: names of modules, and attributes of whatever object."""
    names: set[_Name] = set()
    attributes = set()
    for node in ast.walk(item):
        if isinstance(node, ast.Name):
            names.add((module, node.id))
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
            if isinstance(node.value, ast.Name):
                names |= {(other, node.attr) for other in aliases.get(node.value.id, ())}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names |= {(f"{base}.{a.name}", "") if f"{base}.{a.name}" in modules else (base, a.name) for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # getattr(object, "name")
            attributes |= {node.value} if node.value.isidentifier() else set()
        elif isinstance(node, ast.Tuple):  # ("golf.models.transformer", "Transformer"): imported by name
            texts = [element.value for element in node.elts if isinstance(element, ast.Constant)]
            if texts and isinstance(texts[0], str) and texts[0] in modules:
                names |= {(texts[0], str(text)) for text in texts[1:]}
    return names, attributes


class _Plain(ast.NodeTransformer):
    """Takes annotations off variables, which only dataclasses, named tuples and their readers look at."""

    def __init__(self) -> None:
        self._fields = False  # whether the statements are fields

    def _inside(self, node: ast.AST, fields: bool) -> ast.AST:
        outer, self._fields = self._fields, fields
        self.generic_visit(node)
        self._fields = outer
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.body:
            node.body = [ast.Pass()]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node, bool(node.decorator_list) or any("Tuple" in ast.unparse(b) for b in node.bases))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._inside(node, False)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if self._fields:
            return node
        return None if node.value is None else ast.copy_location(ast.Assign([node.target], node.value), node)


def plain(tree: ast.Module) -> ast.Module:
    """``tree`` without annotations of variables, and without the future import where no annotation is left."""
    _Plain().visit(tree)
    if not any(isinstance(node, ast.AnnAssign) for node in ast.walk(tree)):
        tree.body = [
            item for item in tree.body if not (isinstance(item, ast.ImportFrom) and item.module == "__future__")
        ]
    return ast.fix_missing_locations(tree)


def shorten(modules: Modules) -> None:
    """Give local variables of functions short names, in place.

    A name is changed in a whole function, inner ones included, and only if it means nothing outside of it: it is bound
    inside, is neither a builtin nor bound by the module, and nobody passes it by keyword or spells it in a string.
    Different names stay different, so every name means what it meant.
    """
    spelled = {
        text
        for tree in modules.values()
        for node in ast.walk(tree)
        for text in ([node.arg] if isinstance(node, ast.keyword) else [getattr(node, "value", None)])
        if isinstance(text, str)
    }
    fixed = spelled | set(dir(builtins)) | set(keyword.kwlist) | set(keyword.softkwlist)
    for tree in modules.values():
        bound = fixed | {name for item in tree.body for name in _binds(item)}
        for item in tree.body:
            for node in item.body if isinstance(item, ast.ClassDef) else [item]:
                if isinstance(node, ast.FunctionDef):
                    _shorten_function(node, bound)


def _shorten_function(function: ast.FunctionDef, fixed: Collection[str]) -> None:
    counts: Counter[str] = Counter()
    inside, outside = set(), set(fixed)
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            counts[node.id] += 1
            inside |= set() if isinstance(node.ctx, ast.Load) else {node.id}
        elif isinstance(node, ast.arg):
            counts[node.arg] += 1
            inside.add(node.arg)
        elif isinstance(node, ast.arguments):
            outside |= {arg.arg for arg in (*node.kwonlyargs, node.kwarg, node.vararg) if arg is not None}
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outside |= set(node.names)
        elif isinstance(node, ast.alias):
            outside.add(_alias(node))
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            if node is not function:
                outside.add(node.name)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            if node.name:
                outside.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            outside.add(node.rest)
    if counts.keys() & {"locals", "vars", "dir", "eval", "exec"} or any(
        isinstance(node, ast.ClassDef) for node in ast.walk(function)
    ):
        return
    if function.name.startswith("__"):  # Python and torch may pass these by keyword
        outside |= {arg.arg for arg in function.args.args}
    letters = string.ascii_letters + "_"
    free = (name for size in (1, 2) for name in map("".join, itertools.product(letters, repeat=size)))
    short = (name for name in free if name not in outside and name not in counts)
    names = {name: next(short) for name in sorted(inside - outside, key=lambda n: (-counts[n], n)) if len(name) > 1}
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = names.get(node.arg, node.arg)
