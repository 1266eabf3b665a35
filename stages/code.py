"""Stage `code`: a fingerprint of the code that each stage runs, which that stage depends on.

In: the sources, `model.family`, `tokenize.tokenizer` and `tokenize.val_path` of the parameters; of an import
`texts.other.path` and the family of a checkpoint.
Out: artifacts/code/STAGE.txt, of `evaluate` one for each mode: a digest for each file of the stage's import closure.
Only the family that the parameters name counts, comments and docstrings do not. The tokenizer model and the validation
files that `tokenize` reads, where there are some, are in the fingerprint of that stage.
"""

from __future__ import annotations

import os
from pathlib import Path

from golf.base.code import Code
from golf.base.files import atomic_directory, sha256_file
from golf.base.main import run_stage
from golf.base.params import read_params
from golf.imports.folder import find_checkpoint

NETWORK_MODES = ("roundtrip", "sliding", "streaming", "ttt")
SOURCES = Path(__file__).resolve().parent.parent


def run(params: Path, root: Path) -> None:
    """Write the fingerprints; wrong parameters are left to the stages that read them."""
    values = read_params(params)
    family = _value(values, "model", "family") or _imported(root, values)
    code = Code(SOURCES, [family] if family else None)
    with atomic_directory(root / "artifacts/code") as folder:
        for stage in sorted(path.stem for path in (SOURCES / "stages").glob("[a-z]*.py")):
            text = code.fingerprint(f"stages.{stage}")
            if stage == "tokenize":
                names = (_value(values, "tokenize", key) for key in ("tokenizer", "val_path"))
                text += "".join(_inputs(root, name) for name in names)
            elif stage == "texts":
                text += _inputs(root, _value(values, "texts", "other", "path"))
            (folder / f"{stage}.txt").write_text(text, encoding="utf-8")
        for mode in NETWORK_MODES:
            text = code.of_modes(mode).fingerprint("stages.evaluate")
            (folder / f"evaluate_{mode}.txt").write_text(text, encoding="utf-8")


def _imported(root: Path, values: dict[str, object]) -> str:
    """The family of the model that `import.source` names; none where nothing is imported."""
    source = _value(values, "import", "source")
    checkpoint = find_checkpoint(root / source) if source else None
    return checkpoint.family if checkpoint else "decoder" if source else ""


def _value(params: dict[str, object], *keys: str) -> str:
    found: object = params
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return str(found or "")


def _inputs(root: Path, name: str) -> str:
    """Hash and path of a file, or of each file in a folder; nothing for ``train`` and ``none``, which name no file."""
    path = root / name
    if name in ("", "train", "none"):
        return ""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return "".join(f"{sha256_file(file)} {os.path.relpath(file, root)}\n" for file in files if file.is_file())


if __name__ == "__main__":
    run_stage(run, description=__doc__)
