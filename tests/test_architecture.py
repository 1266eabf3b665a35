"""The house plan, enforced: layers import downwards only, libraries stay free of process state, files stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LAYERS = [
    {"params", "files", "score", "progress", "guard", "closure", "numba_cache", "processes"},
    {"corpus", "tokens", "schedule", "models", "optim", "coding", "quantize", "mixing"},
    {"batches", "container", "integer", "tokenize"},
    {"training", "decode", "scoring", "shipping", "textcodec"},
    {"report", "cli", "verify"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Which rooms of the same layer may be used by which: everything else on one layer is a stranger to its neighbours.
SAME_LAYER = {
    ("scoring", "decode"),  # scores are made from the decoded artifact only
    ("textcodec", "decode"),  # ... and texts are coded with it
    ("quantize", "models"),  # the tensor roles of a model choose its quantizer
    ("optim", "models"),  # ... and its optimiser group
    ("coding", "quantize"),
    ("tokens", "corpus"),
}
MAX_FILE_LINES = 330
MAX_FUNCTION_LINES = 70  # of its own; the aim is 50, one hot loop needs more


def imported_golf_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "golf":
                names |= {f"golf.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("golf.")}


def library_files(root: Path) -> list[Path]:
    return sorted((root / "golf").rglob("*.py"))


def room(root: Path, path: Path) -> str:
    return path.relative_to(root / "golf").parts[0].removesuffix(".py")


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without those of functions defined inside it (they are measured by themselves)."""
    inner = [node for node in ast.iter_child_nodes(function) if isinstance(node, ast.FunctionDef)]
    return (function.end_lineno or 0) - function.lineno + 1 - sum(own_lines(node) for node in inner)


def breaches(root: Path) -> list[str]:
    found = []
    for path in library_files(root):
        mine = room(root, path)
        if mine == "__init__":
            continue
        for name in imported_golf_modules(path):
            other = name.split(".")[1]
            below = LEVEL[other] < LEVEL[mine] or other == mine or (mine, other) in SAME_LAYER
            if LEVEL[mine] == LEVEL[other] == 0 or LEVEL[mine] == len(LAYERS) - 1:
                below = below or LEVEL[mine] == LEVEL[other]
            if not below:
                found.append(f"{path.relative_to(root)} (layer {LEVEL[mine]}) imports {name} (layer {LEVEL[other]})")
    return found


def test_every_room_has_a_layer(root: Path) -> None:
    rooms = {room(root, path) for path in library_files(root)} - {"__init__"}
    assert rooms <= set(LEVEL)


def test_imports_point_downwards(root: Path) -> None:
    assert breaches(root) == []


def test_a_breach_is_seen(tmp_path: Path) -> None:
    (tmp_path / "golf" / "models").mkdir(parents=True)
    (tmp_path / "golf" / "score.py").write_text("from golf.models import base\n")
    assert breaches(tmp_path) == ["golf/score.py (layer 0) imports golf.models (layer 1)"]


def test_the_library_never_imports_stages_and_stages_never_each_other(root: Path) -> None:
    for path in [*library_files(root), *sorted((root / "stages").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "stages"], path


def test_the_library_reads_no_environment_and_no_argv(root: Path) -> None:
    for path in library_files(root):
        if room(root, path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("os", "environ"), ("os", "getenv"), ("sys", "argv")}, path


def test_no_pickle_and_no_eval_of_data(root: Path) -> None:
    for path in [*library_files(root), *sorted((root / "stages").glob("*.py"))]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pickle", "marshal", "shelve"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr not in {"load", "save"}, path


def test_only_golf_files_saves_safetensors(root: Path) -> None:
    for path in library_files(root):
        if path.name != "files.py":
            assert "save_file" not in path.read_text(), path


@pytest.mark.parametrize("folder", ["golf", "stages"])
def test_files_fit_in_the_head(root: Path, folder: str) -> None:
    for path in (root / folder).rglob("*.py"):
        lines = path.read_text().count("\n")
        assert lines <= MAX_FILE_LINES, f"{path.relative_to(root)} has {lines} lines"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = own_lines(node)
                assert length <= MAX_FUNCTION_LINES, f"{path.relative_to(root)}:{node.name} has {length} lines"


@pytest.mark.parametrize("stage", ["tokenize", "compress", "report"])
def test_light_stages_never_import_torch(root: Path, stage: str) -> None:
    from golf.closure import import_closure

    for name in import_closure(f"stages.{stage}", root):
        for node in (root / name).read_text().splitlines():
            assert not node.strip().startswith(("import torch", "from torch")) or "files.py" in name, name


def test_packages_are_empty_so_that_closures_stay_narrow(root: Path) -> None:
    for path in (root / "golf").rglob("__init__.py"):
        if path.parent.name != "cli":
            assert imported_golf_modules(path) == set(), path
