"""A file is decoded where torch is not there, and by code that was compiled in another way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from golf.textcodec.files import CodecConfig, unzip_file, zip_file, zip_tokens
from golf.textcodec.model import TextModel, open_model
from golf.textcodec.settings import lossless_tokenizer

COMMAND = """
import atexit
import sys
sys.modules["torch"] = None
atexit.register(lambda: print([name for name in ("scipy.linalg", "cffi", "tqdm") if name in sys.modules]))
sys.argv = ["golf", *sys.argv[1:]]
from golf.cli import main
main()
"""


def golf_without_torch(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_a_file_is_decoded_without_torch(artifact: Path, decoded: TextModel, tmp_path: Path, prose: str) -> None:
    """Nor SciPy or cffi, which numba would load at its first kernel: a quarter of the time that a short text takes."""
    (tmp_path / "text").write_text(prose[:300])
    zip_file(tmp_path / "text", tmp_path / "text.golfz", decoded, CodecConfig())
    done = golf_without_torch("unzip", tmp_path / "text.golfz", "--artifact", artifact, "-o", tmp_path / "back")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_text() == prose[:300]
    assert done.stdout.endswith("\n[]\n")


PIECES = """
import hashlib
import numpy as np
from golf.base.exact import exp_all, log_all
from golf.base import exact
from golf.base.jit import kernel
from golf.textcodec.coder import _soften, new_bias
from golf.textcodec.integer.product import pack_panels, product_of
rng = np.random.default_rng(0)
x, logits, row = rng.normal(size=997) * 9.0, rng.normal(size=(1, 997)) * 9.0, np.empty(997)
left, right = (rng.integers(-2048, 2049, shape).astype(np.int16) for shape in ((31, 200), (200, 70)))
out = np.zeros((31, 80))
product_of(left, pack_panels(right), out)
found = kernel(_soften, parts=(exact,), _nrt=False)(new_bias(None, 1, 997), 0, logits, row)
arrays = (exp_all(x), log_all(np.abs(x)), row, np.array(found), out)
print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""
PLAIN = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_LOOP_VECTORIZE": "0", "NUMBA_SLP_VECTORIZE": "0"}


def test_the_bits_do_not_depend_on_how_kernels_are_compiled(tmp_path: Path) -> None:
    """Exp, log, a softened row and a product, for this processor's instructions and for none but the oldest."""
    prints = []
    for changed in ({}, {**PLAIN, "NUMBA_CACHE_DIR": str(tmp_path)}):
        environment = {**os.environ, **changed}
        done = subprocess.run(
            [sys.executable, "-c", PIECES], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        prints.append(done.stdout)
    assert prints[0] == prints[1] != ""


def code_files(artifact: Path, text: Path, folder: Path) -> None:
    """The documents of ``text`` coded with bias and mixture by the exact network and by torch's, and decoded again."""
    model, whole = open_model(artifact), text.read_text()
    tokenizer = lossless_tokenizer(model)
    tokens = np.concatenate([tokenizer.document(document)[0] for document in whole.split("\n\n")]).astype(np.int64)
    for arithmetic in ("integer", "portable"):
        file, back = folder / f"{arithmetic}.golfz", folder / f"{arithmetic}.txt"
        config = CodecConfig(streams=2, window=64, arithmetic=arithmetic)  # type: ignore[arg-type]
        zip_tokens([tokens], file, model, config, total_bytes=len(whole))
        unzip_file(file, back, model)
        assert back.read_text() == whole.replace("\n\n", "")


@pytest.mark.slow  # every kernel of the codec is compiled once more
def test_whole_files_do_not_depend_on_how_kernels_are_compiled(artifact: Path, tmp_path: Path, prose: str) -> None:
    (tmp_path / "text").write_text(prose[:3000])
    files = []
    for name, changed in {"own": {}, "plain": {**PLAIN, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}}.items():
        (tmp_path / name).mkdir()
        program = "import sys, pathlib, test_without_torch as t; t.code_files(*map(pathlib.Path, sys.argv[1:]))"
        command = [sys.executable, "-c", program, str(artifact), str(tmp_path / "text"), str(tmp_path / name)]
        environment = {**os.environ, **changed}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent, check=False
        )
        assert done.returncode == 0, done.stderr
        files.append([(tmp_path / name / f"{kind}.golfz").read_bytes() for kind in ("integer", "portable")])
    assert files[0] == files[1] and min(map(len, files[0])) > 500
