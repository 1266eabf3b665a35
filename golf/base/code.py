"""A module's code as data: the files it imports, their minified source, and a fingerprint of both.

Files are read, never run. DVC does not follow imports, so every stage of dvc.yaml depends on its fingerprint; the
shipped decoder is the minified closure of ``golf.artifact.decode``. Comments, docstrings, annotations change neither.

A top-level table ``FAMILIES`` or ``MODES = {name: (module, ...)}`` names modules that are imported when one is asked
for: ``families`` and ``modes`` choose whose code counts (``None``: all), and the tables' other entries do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from golf.base.errors import GolfError

__all__ = ["Code", "import_closure", "minify"]


def import_closure(module: str, root: str | Path, families: Collection[str] | None = None) -> list[str]:
    """Files (relative to ``root``, sorted, POSIX style) that ``module`` imports, itself and package files included.

    Imports inside functions count; those for type checkers alone do not. A string that is the full name of a module
    (``"golf.artifact.decode"``, to be run or packed) counts as its import. Only modules below ``root`` count. Raises
    ``GolfError`` when ``module`` itself is not there.
    """
    return sorted(Code(root, families).closure(module))


def minify(source: str, families: Collection[str] | None = None) -> str:
    """``source`` without comments, docstrings and function annotations; it runs the same (dataclass fields stay)."""
    return ast.unparse(ast.fix_missing_locations(_stripped(source, {"FAMILIES": families}))) + "\n"


class Code:
    """The modules below ``root``; each file is read once, however many modules are asked for."""

    def __init__(
        self, root: str | Path, families: Collection[str] | None = None, modes: Collection[str] | None = None
    ) -> None:
        self._root, self._chosen = Path(root), {"FAMILIES": families, "MODES": modes}
        self._files: dict[str, tuple[str, list[str], str] | None] = {}  # module: its file, imports and digest
        self._of_modes: set[str] = set()  # modules that hold a table of modes

    def of_modes(self, *modes: str) -> Code:
        """The same code with these modes alone; only the table of modes is read again."""
        other = Code(self._root, self._chosen["FAMILIES"], modes)
        other._files = {name: file for name, file in self._files.items() if name not in self._of_modes}
        return other

    def closure(self, module: str) -> dict[str, str]:
        """Digest of each file in the import closure of ``module``, by path."""
        if self._read(module) is None:
            raise GolfError(f"module {module} not found below {self._root}")
        files, seen, queue = {}, set(), [module]
        while queue:
            name = queue.pop()
            if name in seen or (file := self._read(name)) is None:
                continue
            seen.add(name)
            path, imports, digest = file
            files[path] = digest
            queue += [name.rpartition(".")[0], *imports]
        return files

    def fingerprint(self, module: str) -> str:
        """Text that changes where, and only where, the code that ``module`` loads does: a digest and path a line."""
        return "".join(f"{digest} {path}\n" for path, digest in sorted(self.closure(module).items()))

    def _read(self, name: str) -> tuple[str, list[str], str] | None:
        if name not in self._files:
            path = _find(name, self._root)
            if path is None:
                self._files[name] = None
            else:
                source = path.read_text(encoding="utf-8")
                if "\nMODES = {" in source:
                    self._of_modes.add(name)
                tree = _stripped(source, self._chosen)
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                values: list[str] = []
                nodes: list[ast.AST] = []
                _canonical(tree, values, nodes)
                digest = hashlib.sha256("\n".join(values).encode()).hexdigest()[:32]
                self._files[name] = path.relative_to(self._root).as_posix(), list(_imports(nodes, package)), digest
        return self._files[name]


def _find(name: str, root: Path) -> Path | None:
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):  # some other string with a dot in it
        return None
    candidates = root.joinpath(*parts[:-1], f"{parts[-1]}.py"), root.joinpath(*parts, "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _imports(nodes: list[ast.AST], package: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base]) if base else ".".join(parts)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node.value


def _canonical(node: Any, values: list[str], nodes: list[ast.AST]) -> None:
    """``values``: names and values of a tree in order, the same from every version of Python, unlike ``ast.dump``;
    ``nodes``: those that may name a module."""
    if isinstance(node, ast.AST):
        values.append(type(node).__name__)
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Constant):
            nodes.append(node)
        for field in node._fields:
            value = getattr(node, field, None)
            if value is not None and value != [] and field not in ("ctx", "kind", "type_comment"):
                values.append(field)
                _canonical(value, values, nodes)
    elif isinstance(node, list):
        values.append(str(len(node)))
        for item in node:
            _canonical(item, values, nodes)
    else:
        values.append(ascii(node))


def _stripped(source: str, chosen: Mapping[str, Collection[str] | None]) -> ast.Module:
    tree = _Strip(chosen).visit(ast.parse(source))
    assert isinstance(tree, ast.Module)
    return tree


class _Strip(ast.NodeTransformer):
    """Takes out what changes no result: docstrings, annotations of functions, imports for type checkers, ``__all__``,
    and the entries of a table (by its name) that are not chosen."""

    def __init__(self, chosen: Mapping[str, Collection[str] | None]) -> None:
        self._chosen = chosen

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return node if isinstance(node, ast.expr) else super().generic_visit(node)  # no statement is below one

    def _body(self, node: Any) -> Any:
        self.generic_visit(node)
        body = [item for item in node.body if not _is_docstring(item)]
        node.body = body or ([] if isinstance(node, ast.Module) else [ast.Pass()])
        return node

    visit_Module = visit_ClassDef = _body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.returns = None
        for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]:
            if arg is not None:
                arg.annotation = None
        return self._body(node)

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or None
        return node

    def visit_Assign(self, node: ast.Assign) -> Any:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if names == ["__all__"]:
            return None
        wanted = self._chosen.get(names[0]) if len(names) == 1 else None
        if wanted is not None and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            chosen = [(k, v) for k, v in pairs if isinstance(k, ast.Constant) and k.value in wanted]
            node.value.keys, node.value.values = [k for k, _ in chosen], [v for _, v in chosen]
        return self.generic_visit(node)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
