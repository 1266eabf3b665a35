"""`golf deps`: keep the code deps of dvc.yaml equal to the import closures.

DVC re-runs a stage when a listed file changes and does not follow imports: a missing file means a stale result, a
surplus one a needless re-run. Files without code (a package's docstring) are not listed: they change no result, and
DVC's own time grows with the list. Stages that read the artifact do not list the sources of its decoder either: the
packed decoder beside it holds the code of every one of them, without comments, and is made anew by ``compress``.
Files that are no Python source (data, artifacts) are left as they are written.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
from pathlib import Path
from typing import Any

from golf.closure import import_closure
from golf.errors import GolfError
from golf.files import write_text

__all__ = ["HELP", "add_arguments", "closures", "has_code", "run"]

# these stages pack the sources of the shipped decoder: to write it, or to count it in `quantize.target_bytes`
READ_AS_FILES = {"stages.compress": "golf.decode", "stages.quantize": "golf.decode"}
PACKED_DECODER = "artifacts/compress"  # a stage that depends on it depends on the code of the decoder
HELP = "compare or rewrite the code deps of dvc.yaml with the import closures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf deps`."""
    parser.add_argument("--write", action="store_true", help="rewrite dvc.yaml instead of reporting differences")
    parser.add_argument("--root", default=".", help="the repository's root (default: .)")


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _body(stage: Any) -> Any:
    return stage.get("do", stage)


def closures(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Per stage of dvc.yaml: the Python files it lists, and those it should."""
    pipeline = _yaml().load((root / "dvc.yaml").read_text())
    found = {}
    for name, stage in pipeline["stages"].items():
        body = _body(stage)
        match = re.search(r"python -m (stages\.\w+)", body["cmd"])
        if match is None:
            raise GolfError(f"dvc.yaml: stage {name}: found cmd `{body['cmd']}`, wanted `python -m stages.NAME`")
        listed = sorted(dep for dep in body["deps"] if dep.endswith(".py"))
        wanted = set(import_closure(match.group(1), root))
        if match.group(1) in READ_AS_FILES:
            wanted |= set(import_closure(READ_AS_FILES[match.group(1)], root))
        if PACKED_DECODER in body["deps"]:
            wanted -= set(import_closure("golf.decode", root))
        found[name] = (listed, sorted(path for path in wanted if has_code(root / path)))
    return found


def has_code(path: Path) -> bool:
    """Whether a Python file holds more than a docstring."""
    body = ast.parse(path.read_text()).body
    return len(body) > (ast.get_docstring(ast.Module(body, [])) is not None)


def run(args: argparse.Namespace) -> int:
    """Report (exit 1 on a difference) or rewrite."""
    root = Path(args.root)
    different = {name: pair for name, pair in closures(root).items() if pair[0] != pair[1]}
    for name, (listed, wanted) in different.items():
        for path in sorted(set(wanted) - set(listed)):
            print(f"{name}: + {path}")
        for path in sorted(set(listed) - set(wanted)):
            print(f"{name}: - {path}")
    if not different:
        print("dvc.yaml: the code deps of every stage equal its import closure")
        return 0
    if not args.write:
        return 1
    _rewrite(root, {name: wanted for name, (_, wanted) in different.items()})
    print(f"rewrote {root / 'dvc.yaml'}")
    return 0


def _rewrite(root: Path, wanted: dict[str, list[str]]) -> None:
    yaml = _yaml()
    pipeline = yaml.load((root / "dvc.yaml").read_text())
    for name, files in wanted.items():
        body = _body(pipeline["stages"][name])
        body["deps"] = [dep for dep in body["deps"] if not dep.endswith(".py")] + files
    stream = io.StringIO()
    yaml.dump(pipeline, stream)
    write_text(root / "dvc.yaml", stream.getvalue())
