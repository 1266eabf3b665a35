"""Stage `code`: a fingerprint of the code that each stage runs, which that stage depends on.

In: the sources, `model.family` and `tokenize.tokenizer` of the parameters. Out: artifacts/code/STAGE.txt, a digest for
each file of the stage's import closure; only the family that the parameters name counts, comments and docstrings do
not. The tokenizer model that `tokenize` reads, where it is a file, is in the fingerprint of that stage.
"""

from __future__ import annotations

from pathlib import Path

from golf.base.code import Code
from golf.base.files import atomic_directory, sha256_file
from golf.base.main import run_stage
from golf.base.params import read_params

SOURCES = Path(__file__).resolve().parent.parent


def run(params: Path, root: Path) -> None:
    """Write the fingerprints; wrong parameters are left to the stages that read them."""
    values = read_params(params)
    family = _value(values, "model", "family")
    code = Code(SOURCES, [family] if family else None)
    with atomic_directory(root / "artifacts/code") as folder:
        for stage in sorted(path.stem for path in (SOURCES / "stages").glob("[a-z]*.py")):
            text = code.fingerprint(f"stages.{stage}")
            if stage == "tokenize":
                text += _tokenizer(root, _value(values, "tokenize", "tokenizer"))
            (folder / f"{stage}.txt").write_text(text, encoding="utf-8")


def _value(params: dict[str, object], section: str, key: str) -> str:
    values = params.get(section)
    return str(values.get(key) or "") if isinstance(values, dict) else ""


def _tokenizer(root: Path, name: str) -> str:
    path = root / name
    return f"{sha256_file(path)} {name}\n" if name != "train" and path.is_file() else ""


if __name__ == "__main__":
    run_stage(run, description=__doc__)
