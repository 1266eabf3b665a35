"""The house plan, enforced: layers import downwards only, libraries stay free of process state, files stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

LAYERS = [
    {"base"},
    {"audit", "data", "models"},
    {"quantize", "mixture"},
    {"artifact"},
    {"training", "scoring", "textcodec", "report"},
    {"imports"},
    {"cli", "verify"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAX_FILE_LINES = 330
MAX_FUNCTION_LINES = 70  # of its own; the aim is 50, one hot loop needs more


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Every node of a source file, parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """The trees of all sources are millions of objects."""
    yield
    nodes_of.cache_clear()


def imported_golf_modules(path: Path) -> set[str]:
    names = set()
    for node in nodes_of(path):
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
            below = LEVEL[other] < LEVEL[mine] or other == mine
            below = below or LEVEL[mine] == LEVEL[other] == len(LAYERS) - 1
            if not below:
                found.append(f"{path.relative_to(root)} (layer {LEVEL[mine]}) imports {name} (layer {LEVEL[other]})")
    return found


def test_every_room_has_a_layer(root: Path) -> None:
    rooms = {room(root, path) for path in library_files(root)} - {"__init__"}
    assert rooms == set(LEVEL)


def test_imports_point_downwards(root: Path) -> None:
    assert breaches(root) == []


def test_a_breach_is_seen(tmp_path: Path) -> None:
    (tmp_path / "golf" / "base").mkdir(parents=True)
    (tmp_path / "golf" / "base" / "score.py").write_text("from golf.models import base\n")
    assert breaches(tmp_path) == ["golf/base/score.py (layer 0) imports golf.models (layer 1)"]


def test_the_library_never_imports_stages_and_stages_never_each_other(root: Path) -> None:
    for path in [*library_files(root), *sorted((root / "stages").glob("*.py"))]:
        for node in nodes_of(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "stages"], path


def test_the_library_reads_no_environment_and_no_argv(root: Path) -> None:
    for path in library_files(root):
        if room(root, path) == "cli" or path == root / "golf" / "base" / "main.py":
            continue
        for node in nodes_of(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("os", "environ"), ("os", "getenv"), ("sys", "argv")}, path


def test_text_files_are_utf_8_whatever_the_locale(root: Path) -> None:
    """`params.yaml` and the sources were once read in the locale's encoding: ASCII where it is C."""
    for path in [p for name in ("golf", "stages", "benchmarks", "tests/support") for p in (root / name).rglob("*.py")]:
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and opens_text(node):
                where = f"{path.relative_to(root)}:{node.lineno}"
                assert any(keyword.arg == "encoding" for keyword in node.keywords), f"{where}: no encoding"


def opens_text(call: ast.Call) -> bool:
    """Whether a call is ``read_text`` or ``write_text`` of a path, or opens a file with no binary mode."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute) and owner != "files"  # golf.base.files.write_text writes UTF-8
    modes = [arg for arg in ast.walk(call) if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    compressed = owner in ("gzip", "lzma", "bz2") and not any(mode.value in ("rt", "wt") for mode in modes)
    binary = any("b" in mode.value and set(mode.value) <= set("rwxab+") for mode in modes)
    return name == "open" and owner not in ("os", "tarfile", "zipfile") and not compressed and not binary


@pytest.mark.parametrize(
    ("source", "text"),
    [("p.read_text()", True), ("write_text(p, t)", False), ("files.write_text(p, t)", False), ("open(p)", True),
     ("open(p, 'rb')", False), ("p.open('a')", True),
     ("open(p, 'r+b' if old else 'w+b')", False), ("gzip.open(p)", False), ("f.close()", False)],
)  # fmt: skip
def test_calls_that_open_text_are_told(source: str, text: bool) -> None:
    assert opens_text(ast.parse(source, mode="eval").body) == text  # type: ignore[arg-type]


INVARIANTS = {  # asserts here say what the lines above them have made true; nothing of a file or parameter reaches them
    *("artifact/bytes.py", "artifact/rans.py", "models/stream.py", "report/groups.py", "scoring/hedge.py"),
    *("scoring/results.py", "scoring/streaming.py", "textcodec/integer/exact.py", "textcodec/integer/rotary.py"),
}


def narrows(test: ast.expr) -> bool:
    """Whether an assertion tells the type checker what is known: ``isinstance``, ``is None``, ``is not None``."""
    if isinstance(test, ast.BoolOp):
        return all(map(narrows, test.values))
    called = getattr(getattr(test, "func", None), "id", "")
    return called == "isinstance" or isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is | ast.IsNot)


def test_no_assertion_carries_a_check(root: Path) -> None:
    """`python -O` drops them; bytes counted, targets scored once and tokens announced were checked by some."""
    for path in [*library_files(root), *sorted((root / "stages").glob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        if path.as_posix().endswith(tuple(INVARIANTS)) or "assert " not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            assert not isinstance(node, ast.Assert) or narrows(node.test), f"{path}:{node.lineno}"


MISUSE = {  # ValueError here says that the caller is wrong, not what a person gave: it must show its traceback
    *("artifact/columns.py", "artifact/context.py", "artifact/rans.py", "models/stream.py"),
    *("models/document_attention.py", "training/muon.py", "textcodec/integer/network.py"),
}


def test_errors_that_a_person_can_meet_are_golf_errors(root: Path) -> None:
    """``ValueError`` is left for ``__post_init__``, which the strict loader turns into a ``ParamsError``."""
    for path in [*library_files(root), *sorted((root / "stages").glob("*.py"))]:
        checks = [n for n in nodes_of(path) if isinstance(n, ast.FunctionDef) and n.name == "__post_init__"]
        allowed = {id(node) for check in checks for node in ast.walk(check)}
        for node in nodes_of(path):
            call = node.exc if isinstance(node, ast.Raise) else None
            named = call.func if isinstance(call, ast.Call) else call
            if isinstance(named, ast.Name) and named.id == "ValueError" and id(node) not in allowed:
                assert path.relative_to(root / "golf").as_posix() in MISUSE, f"{path}:{node.lineno}"


def test_no_pickle_and_no_eval_of_data(root: Path) -> None:
    """Checkpoints of others are pickles: one call reads them, which runs none of their code."""
    safe = "torch.load(path, 'cpu', weights_only=True, mmap=lazily)"
    for path in [*library_files(root), *sorted((root / "stages").glob("*.py"))]:
        calls = [node for node in nodes_of(path) if isinstance(node, ast.Call)]
        checked = {id(call.func) for call in calls if ast.unparse(call) == safe}
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pickle", "marshal", "shelve"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr not in {"load", "save"} or id(node) in checked, path


def test_only_golf_files_saves_safetensors(root: Path) -> None:
    for path in library_files(root):
        if path.name != "files.py":
            text = path.read_text()
            assert "save_file" not in text and not re.search(r"safetensors\S* import save", text), path


@pytest.mark.parametrize("folder", ["golf", "stages"])
def test_files_fit_in_the_head(root: Path, folder: str) -> None:
    for path in (root / folder).rglob("*.py"):
        lines = path.read_text().count("\n")
        assert lines <= MAX_FILE_LINES, f"{path.relative_to(root)} has {lines} lines"
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = own_lines(node)
                assert length <= MAX_FUNCTION_LINES, f"{path.relative_to(root)}:{node.name} has {length} lines"


@pytest.mark.parametrize("stage", ["code", "tokenize", "compress", "report"])
def test_light_stages_never_import_torch(root: Path, stage: str) -> None:
    program = f"import sys, stages.{stage}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_packages_are_empty_so_that_closures_stay_narrow(root: Path) -> None:
    for path in (root / "golf").rglob("__init__.py"):
        if path.parent.name != "cli":
            assert imported_golf_modules(path) == set(), path
