"""The import closure follows every way of importing and stops at the repository's border."""

from __future__ import annotations

from pathlib import Path

import pytest

from golf.closure import import_closure


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


def test_closure_follows_model_families_imported_by_name(tmp_path: Path) -> None:
    files = {"top.py": 'FAMILIES = {"flat": ("golf.models.flat", "Flat")}\nnote = "golf.models.gone is not there"\n'}
    write(tmp_path, {**files, "golf/__init__.py": "", "golf/models/__init__.py": "", "golf/models/flat.py": ""})
    assert import_closure("top", tmp_path) == [
        "golf/__init__.py", "golf/models/__init__.py", "golf/models/flat.py", "top.py",
    ]  # fmt: skip


def test_closure_survives_import_cycles(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "import b\n", "b.py": "import a\n"})
    assert import_closure("a", tmp_path) == ["a.py", "b.py"]


def test_closure_names_a_missing_module(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="module stages.nothing not found below"):
        import_closure("stages.nothing", tmp_path)
