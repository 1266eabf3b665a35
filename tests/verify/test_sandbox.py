"""A stranger's decoder is code: it is not run unless asked for, and what runs is sealed off and watched."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf.base.files import FileError, save_numpy
from golf.verify import run, sandbox
from golf.verify.sandbox import SCRIPT, check_self_contained, score_sealed

ATTEMPTS = {
    "os.system": "os.system('true')",
    "subprocess": "subprocess.run(['true'])",
    "fork": "os.fork()",
    "exec": "os.execv('/bin/true', ['true'])",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "remove": "os.remove(outside)",
    "rename out": "os.rename('inside', outside + '2')",
    "rename in": "os.rename(outside, 'inside')",
    "mkdir": "os.mkdir(outside + '.d')",
    "rmtree": "shutil.rmtree(os.path.dirname(outside))",
    "chmod": "os.chmod(outside, 0o777)",
    "link": "os.link(outside, 'inside2')",
    "symlink": "os.symlink('inside', outside + '.l')",
    "truncate": "os.truncate(outside, 0)",
    "kill": "os.kill(os.getppid(), 0)",
    "read": "open(outside).read()",
    "write": "open(outside, 'a')",
    "write below what may be read": "open('/usr/golf-verify-lure', 'w')",
    "open for writing": "os.open(outside, os.O_RDWR)",
    "create": "os.open(outside + '3', os.O_CREAT)",
    "connect": "socket.create_connection(('127.0.0.1', 9))",
    "resolve": "socket.getaddrinfo('localhost', 9)",
}


def test_what_the_seal_refuses_and_what_it_leaves(tmp_path: Path) -> None:
    folder, outside = tmp_path / "sealed", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("precious")
    program = f"""
import importlib.util, json, os, shutil, socket, subprocess, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("child", {str(SCRIPT)!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
outside, open_ = {str(outside)!r}, open
found = {{}}
child.seal(Path({str(folder)!r}))
Path("inside").write_text("x"); os.mkdir("d"); os.rename("inside", "d/i"); os.remove("d/i"); os.rmdir("d")
open_(os.devnull, "w").write("x"); open_(json.__file__).read(); Path("inside").write_text("x")
found["lures"] = child.lures(Path(outside))
import numba  # decoders compile
assert numba.njit(lambda x: x + 1)(1) == 2
for name, code in {ATTEMPTS!r}.items():
    try:
        exec(code)
        found[name] = "done"
    except PermissionError as error:
        found[name] = str(error)
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr
    assert found.pop("lures") == sandbox.LURES
    assert {name: said for name, said in found.items() if not said.startswith("sealed off: ")} == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "sealed"]
    assert outside.read_text() == "precious"


def stranger(folder: Path, code: str) -> dict[str, Any]:
    """Files of an artifact whose decoder runs ``code`` when it is imported."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        target.writestr("golf/__init__.py", code)
    (folder / "decoder.zip").write_bytes(packed.getvalue())
    (folder / "model.golf").write_bytes(b"GOLF")
    save_numpy(folder / "val" / "shard_000.safetensors", {"tokens": np.zeros(9, np.uint16)}, {})
    files = {"artifact": folder / "model.golf", "decoder": folder / "decoder.zip", "val": folder / "val"}
    return files | {"window": 4, "num_tokens": 9, "threads": 1}


def test_an_endless_loop_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a traceback of `subprocess.TimeoutExpired`."""
    monkeypatch.setattr(sandbox, "TIMEOUT_SECONDS", 1)
    result = check_self_contained(**stranger(tmp_path, "while True: pass"), expected_nats=0.0)
    assert result.verdict == "FAIL" and "decoder.zip gave no score in 1 s" in result.text


@pytest.mark.parametrize("printed", ["hello", "[]", '{"refused": 5, "targets": 8, "golf": 7}', "\x1b[2J" * 99, ""])
def test_an_answer_that_is_no_score_is_a_failed_check(
    printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = subprocess.CompletedProcess([], 0, stdout=printed, stderr="")
    monkeypatch.setattr(sandbox.subprocess, "run", lambda *command, **options: answered)
    with pytest.raises(FileError, match="decoder.zip answered .*, which is no score") as caught:
        score_sealed(**stranger(tmp_path, ""))
    assert "\x1b" not in str(caught.value)


def test_a_foreign_decoder_is_run_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Path] = []
    monkeypatch.setattr(run, "check_self_contained", lambda artifact, decoder, val, **rest: ran.append(decoder))
    monkeypatch.setattr(run, "mode_scorer", lambda *values, **more: Scorer())
    monkeypatch.setattr(run, "pack_decoder", lambda sources, artifact: b"what this golf ships")
    files = stranger(tmp_path, "raise SystemExit")
    mode = run.RoundtripConfig(4, 1, "fp32")
    text: Any = type("Text", (), {"tokens": np.zeros(9, np.int64)})
    config = run.VerifyConfig(("roundtrip",), 8, 1, 1)
    decoded: Any = type("Decoded", (), {"model": None, "vocab_size": 5})

    def check(**more: Any) -> Any:
        inputs = run.Inputs(files["artifact"], files["decoder"], tmp_path, 1, {"roundtrip": mode}, **more)
        return run._alone(inputs, decoded, text, config)

    result = check()
    assert ran == [] and result.verdict == "NOTE" and "its code was not run; --run-decoder runs it" in result.text
    check(run_decoder=True)
    monkeypatch.setattr(run, "pack_decoder", lambda sources, artifact: files["decoder"].read_bytes())
    check()
    assert ran == [files["decoder"]] * 2


class Scorer:
    def score(self, tokens: np.ndarray) -> np.ndarray:
        return np.zeros(len(tokens) - 1)
