"""The import closure follows every way of importing; the fingerprint changes with what runs and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from golf.base.code import Code, import_closure, minify


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_closure_follows_absolute_relative_and_lazy_imports(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "top.py": "import os\nimport pkg.a\n\ndef late():\n    from pkg import lazy\n",
            "pkg/__init__.py": "",
            "pkg/a.py": "from .b import thing\nfrom . import c\n",
            "pkg/b.py": "thing = 1\n",
            "pkg/c.py": "from pkg.sub import deep\n",
            "pkg/lazy.py": "",
            "pkg/unused.py": "",
            "pkg/sub/__init__.py": "",
            "pkg/sub/deep.py": "",
        },
    )
    assert import_closure("top", tmp_path) == [
        "pkg/__init__.py",
        "pkg/a.py",
        "pkg/b.py",
        "pkg/c.py",
        "pkg/lazy.py",
        "pkg/sub/__init__.py",
        "pkg/sub/deep.py",
        "top.py",
    ]


def test_closure_leaves_out_imports_for_type_checkers(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import types_only\nelse:\n    import runtime\n"
    write(tmp_path, {"top.py": text, "types_only.py": "", "runtime.py": ""})
    assert import_closure("top", tmp_path) == ["runtime.py", "top.py"]


def test_closure_survives_import_cycles(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "import b\n", "b.py": "import a\n"})
    assert import_closure("a", tmp_path) == ["a.py", "b.py"]


def test_closure_names_a_missing_module(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="module stages.nothing not found below"):
        import_closure("stages.nothing", tmp_path)


def test_closure_takes_the_full_name_of_a_module_for_an_import(tmp_path: Path) -> None:
    text = (
        'import subprocess\nsubprocess.run(["python", "-m", "pkg.child"])\nprint("pkg.child is not one", "a.b", "x")\n'
    )
    write(tmp_path, {"top.py": text, "pkg/__init__.py": "", "pkg/child.py": "", "x.py": ""})
    assert import_closure("top", tmp_path) == ["pkg/__init__.py", "pkg/child.py", "top.py"]


FILES = {
    "top.py": '''"""Words."""
from typing import TYPE_CHECKING
import pkg.registry
if TYPE_CHECKING:
    from pkg.b import B
__all__ = ["f"]
def f(x: int, *y: int) -> "B":
    """Words."""
    return x + 1  # one more
''',
    "pkg/__init__.py": "",
    "pkg/registry.py": 'FAMILIES = {"a": ("pkg.a", "A"), "b": ("pkg.b", "B")}\n',
    "pkg/a.py": "A = 1\n",
    "pkg/b.py": "B = 1\n",
}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("top.py", "# one more", "# some other words", False),
        ("top.py", '    """Words."""\n', "", False),
        ("top.py", '"""Words."""\nfrom', '"""Other\n\nwords."""\n\n\nfrom', False),
        ("top.py", "x: int, *y: int", "x: float, *y: str", False),
        ("top.py", "import B", "import C", False),
        ("top.py", '["f"]', '["f", "g"]', False),
        ("top.py", "x + 1", "(x\n        + 1)", False),
        ("top.py", "x + 1", "x + 2", True),
        ("top.py", "x + 1", "x - 1", True),
        ("top.py", "x: int", "x: int = 0", True),
        ("pkg/a.py", "A = 1", "A = 2", True),
        ("pkg/b.py", "B = 1", "B = 2", False),
        ("pkg/registry.py", '"B")}', '"B"), "c": ("pkg.c", "C")}', False),
        ("pkg/registry.py", '("pkg.a", "A")', '("pkg.a", "B")', True),
    ],
)
def test_fingerprint_changes_with_what_runs_alone(tmp_path: Path, file: str, old: str, new: str, changed: bool) -> None:
    write(tmp_path, FILES)
    before = Code(tmp_path, ["a"]).fingerprint("top")
    assert "pkg/a.py" in before and "pkg/b.py" not in before
    assert "pkg/b.py" in Code(tmp_path).fingerprint("top")
    assert old in FILES[file]
    write(tmp_path, {file: FILES[file].replace(old, new)})
    assert (Code(tmp_path, ["a"]).fingerprint("top") != before) == changed


def test_fingerprint_is_the_same_from_every_version_of_python(tmp_path: Path) -> None:
    """A frozen digest: a fresh clone under another Python must not run every stage again."""
    write(tmp_path, {"top.py": "def f(x, *, y=1.5):\n    return f'{x!r:>4}\u2581'\n"})
    assert Code(tmp_path).fingerprint("top").split() == ["4ef89179c881bb5035ff2d0eb7ec9668", "top.py"]


@pytest.mark.parametrize(
    ("stage", "rooms"),
    [
        ("tokenize", {"base", "data"}),
        ("train", {"base", "data", "models", "quantize", "training"}),
        ("average", {"base", "data", "models", "training"}),
        ("quantize", {"base", "data", "models", "quantize"}),
        ("hedge", {"base", "data", "mixture", "models", "scoring"}),
    ],
)
def test_bug_a_stage_depended_on_code_that_it_never_runs(root: Path, stage: str, rooms: set[str]) -> None:
    """A module's full name in a string of `golf.base.code` made every scorer a part of `train`."""
    files = import_closure(f"stages.{stage}", root, ["depth_recurrent"])
    found = {path.split("/")[1] for path in files if path.startswith("golf/") and path.count("/") > 1}
    assert found <= rooms, sorted(path for path in files if path.split("/")[1] in found - rooms)


def test_minified_source_runs_the_same() -> None:
    scope: dict[str, object] = {}
    exec(minify(FILES["top.py"].replace("import pkg.registry\n", "")), scope)
    function = scope["f"]
    assert callable(function) and function(1) == 2 and function.__doc__ is None
    assert minify(FILES["pkg/registry.py"], ["a"]) == "FAMILIES = {'a': ('pkg.a', 'A')}\n"


def test_the_code_of_a_score_is_in_no_stage_that_does_not_score(root: Path) -> None:
    """The table of modes was once named by a string in what reads code, so training depended on every scorer."""
    code = Code(root, ["transformer"])
    for stage in ("train", "average", "calibrate", "quantize", "fit", "compress"):
        assert not [path for path in code.closure(f"stages.{stage}") if "scoring" in path or "mixture" in path], stage
    roundtrip, hedge = (set(code.of_modes(mode).closure("stages.evaluate")) for mode in ("roundtrip", "hedge"))
    assert "golf/mixture/mixture.py" in hedge and not [path for path in roundtrip if "mixture" in path]
    assert "golf/scoring/ttt.py" not in roundtrip | hedge and "golf/scoring/ttt.py" in code.closure("stages.verify")
