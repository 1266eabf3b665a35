"""The import closure of a module: the files of this repository it loads, found by reading, not running.

DVC does not follow imports, so each stage lists exactly these files as deps; the shipped decoder is the closure of
``golf.decode``. Imports inside functions count too.
"""

from __future__ import annotations

import ast
from pathlib import Path

from golf.errors import GolfError

__all__ = ["import_closure"]


def import_closure(module: str, root: str | Path) -> list[str]:
    """Files (relative to ``root``, sorted, POSIX style) that ``module`` imports, itself and package files included.

    Only modules below ``root`` count. Raises ``ValueError`` when ``module`` itself is not there.
    """
    root = Path(root)
    if _find(module, root) is None:
        raise GolfError(f"module {module} not found below {root}")
    found: dict[str, Path] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        path = _find(name, root)
        if path is None or name in found:
            continue
        found[name] = path
        queue.extend(_parents(name))
        queue.extend(_imports(name, path))
    return sorted(path.relative_to(root).as_posix() for path in found.values())


def _find(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _imports(name: str, path: Path) -> list[str]:
    names: list[str] = []
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _runtime_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base]) if base else ".".join(parts)
            names.append(base)
            names.extend(f"{base}.{alias.name}" for alias in node.names)
    return names


def _runtime_nodes(tree: ast.AST) -> list[ast.AST]:
    """All nodes except those under ``if TYPE_CHECKING:``, which never run."""
    nodes: list[ast.AST] = []
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            stack.extend(node.orelse)
            continue
        nodes.append(node)
        stack.extend(ast.iter_child_nodes(node))
    return nodes
