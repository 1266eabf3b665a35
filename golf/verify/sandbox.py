"""Is the artifact self-contained? Copy it, decoder and tokens to an empty folder and score there, sealed off."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from golf.base.files import FileError, require, scratch_directory
from golf.base.params import quoted
from golf.verify import sandbox_child
from golf.verify.checks import CheckResult

__all__ = ["check_self_contained", "score_sealed"]

SCRIPT = Path(sandbox_child.__file__)  # imported so that it belongs to the import closure of the stage
TIMEOUT_SECONDS = 300
LURES = 5  # things that the child tries and must not be able to do


def score_sealed(
    artifact: Path, decoder: Path, val: Path, *, window: int, num_tokens: int, threads: int
) -> dict[str, Any]:
    """Run ``golf.verify.sandbox_child`` in a process of its own, with ``-I`` (neither PYTHONPATH nor working folder).

    Returns ``total_nats`` of the first ``num_tokens`` tokens, ``targets``, ``refused`` (lures refused, of ``LURES``)
    and ``inside`` (whether the package came out of the decoder). Raises ``FileError`` with the last line of what went
    wrong, also when there is no answer after ``TIMEOUT_SECONDS``.
    """
    with scratch_directory("golf-verify") as folder:
        folder = folder.resolve()
        shutil.copy(require(artifact, made_by="`python -m stages.compress`"), folder / "model.golf")
        shutil.copy(require(decoder, made_by="`python -m stages.compress`"), folder / "decoder.zip")
        shutil.copytree(require(val, made_by="`python -m stages.tokenize`"), folder / "val")
        shutil.copy(SCRIPT, folder / "sandbox_child.py")
        request = {"folder": str(folder), "window": window, "num_tokens": num_tokens, "threads": threads}
        request["lure"] = str(artifact.resolve())
        try:
            done = subprocess.run(
                [sys.executable, "-I", "sandbox_child.py"],
                input=json.dumps(request),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                cwd=folder,
                # an environment of its own: home and numba's cache lie inside the seal
                env={"PATH": os.defpath, "HOME": str(folder), "NUMBA_CACHE_DIR": str(folder / "numba")},
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FileError(f"{artifact}: {decoder.name} gave no score in {TIMEOUT_SECONDS} s") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, no message"])[-1]
            raise FileError(f"{artifact}: does not score alone with {decoder.name}: {quoted(last)[1:-1]}")
        try:
            answer = json.loads(done.stdout.strip().splitlines()[-1])
            found = {key: int(answer[key]) for key in ("refused", "targets")}
            found["inside"] = Path(answer["golf"]).is_relative_to(folder / "decoder.zip")
            return {**found, "total_nats": float.fromhex(answer["total_nats"])}
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
            last = quoted(done.stdout[-200:])
            raise FileError(f"{artifact}: {decoder.name} answered {last}, which is no score") from error


def check_self_contained(
    artifact: Path, decoder: Path, val: Path, *, expected_nats: float, window: int, num_tokens: int, threads: int
) -> CheckResult:
    """The score without anything else is ``expected_nats`` to the last digit; ``value`` is the difference in nats."""
    try:
        found = score_sealed(artifact, decoder, val, window=window, num_tokens=num_tokens, threads=threads)
    except FileError as error:
        return CheckResult("files", "self_contained", False, math.inf, 0.0, "nats", str(error))
    difference = abs(found["total_nats"] - expected_nats)
    sealed = found["refused"] == LURES and found["inside"]
    text = f"{found['targets']:,} targets scored in an empty folder, no network: {found['total_nats']!r}"
    text += f" nats, here {expected_nats!r}" if difference else " nats, equal to the last digit"
    text += "" if sealed else "; the folder was not sealed, so nothing is proved"
    return CheckResult("files", "self_contained", difference == 0.0 and sealed, difference, 0.0, "nats", text)
