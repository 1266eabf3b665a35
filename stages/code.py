"""Stage `code`: a fingerprint of the code that each stage runs, which that stage depends on.

In: the sources, `model.family`, `tokenize.tokenizer` and `tokenize.val_path` of the parameters. Out:
artifacts/code/STAGE.txt, a digest for each file of the stage's import closure; only the family that the parameters name
counts, comments and docstrings do not. The tokenizer model and the validation files that `tokenize` reads, where there
are some, are in the fingerprint of that stage.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from golf.base.code import Code
from golf.base.files import atomic_directory, sha256_file
from golf.base.main import main_guard
from golf.base.params import read_params

SOURCES = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the fingerprints; wrong parameters are left to the stages that read them."""
    parser = argparse.ArgumentParser(prog="python -m stages.code", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--root", type=Path, default=Path("."))
    args = parser.parse_args()
    params = read_params(args.params)
    family = _value(params, "model", "family")
    code = Code(SOURCES, [family] if family else None)
    with atomic_directory(args.root / "artifacts/code") as folder:
        for stage in sorted(path.stem for path in (SOURCES / "stages").glob("[a-z]*.py")):
            text = code.fingerprint(f"stages.{stage}")
            if stage == "tokenize":
                text += "".join(
                    _inputs(args.root, _value(params, "tokenize", key)) for key in ("tokenizer", "val_path")
                )
            (folder / f"{stage}.txt").write_text(text, encoding="utf-8")


def _value(params: dict[str, object], section: str, key: str) -> str:
    values = params.get(section)
    return str(values.get(key) or "") if isinstance(values, dict) else ""


def _inputs(root: Path, name: str) -> str:
    """Hash and path of a file, or of each file in a folder; nothing for ``train`` and ``none``, which name no file."""
    path = root / name
    if name in ("", "train", "none"):
        return ""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return "".join(f"{sha256_file(file)} {os.path.relpath(file, root)}\n" for file in files if file.is_file())


if __name__ == "__main__":
    main_guard(main, name="code")
