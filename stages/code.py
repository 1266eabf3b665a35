"""Stage `code`: a fingerprint of the code that each stage runs, which that stage depends on.

In: the sources, `model.family` and `tokenize.tokenizer` of the parameters. Out: artifacts/code/STAGE.txt, a digest for
each file of the stage's import closure; only the family that the parameters name counts, comments and docstrings do
not. The tokenizer model that `tokenize` reads, where it is a file, is in the fingerprint of that stage.
"""

from __future__ import annotations

import argparse
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
                text += _tokenizer(args.root, _value(params, "tokenize", "tokenizer"))
            (folder / f"{stage}.txt").write_text(text, encoding="utf-8")


def _value(params: dict[str, object], section: str, key: str) -> str:
    values = params.get(section)
    return str(values.get(key) or "") if isinstance(values, dict) else ""


def _tokenizer(root: Path, name: str) -> str:
    path = root / name
    return f"{sha256_file(path)} {name}\n" if name != "train" and path.is_file() else ""


if __name__ == "__main__":
    main_guard(main, name="code")
