"""A second process that scores along: does a score depend on how many processes share the work?

The process that verifies is rank 0, a child is rank 1; they meet over a file and talk over gloo, as two processes of
torchrun do. The child decodes the artifact by itself and runs its share of each mode, in the order of the request. In
between it waits for rank 0, whose other checks of a large model may take hours; it ends when rank 0 does.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from golf.artifact.decode import load_artifact
from golf.base.distributed import Ranks
from golf.base.files import scratch_directory
from golf.base.params import from_dict, to_dict
from golf.scoring.modes import mode_of
from golf.scoring.text import ScoringError
from golf.verify.scorers import mode_scorer

__all__ = ["SecondProcess", "main", "second_process"]

START_SECONDS = 900  # a loaded machine imports and decodes slowly
GROUP_TIMEOUT = datetime.timedelta(hours=12)  # of one mode to the next; a rank that dies closes its connections


class SecondProcess:
    """Rank 1 of 2, started and not yet met. ``join`` once, then run the modes of the request in its order."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self._folder, self._process, self._joined = folder, process, False

    def join(self) -> Ranks:
        """Meet the child (at the first call) and return this process's rank. Raises ``ScoringError`` when it died."""
        if not self._joined:
            begin = time.monotonic()
            while not (self._folder / "ready").exists():
                if self._process.poll() is not None or time.monotonic() - begin > START_SECONDS:
                    self._process.kill()
                    _, errors = self._process.communicate()
                    last = (errors.strip().splitlines() or ["no message"])[-1]
                    raise ScoringError(f"the second process of `verify` did not come up: {last}")
                time.sleep(0.05)
            (self._folder / "go").touch()
            _meet(self._folder, 0)
            self._joined = True
        return Ranks(0, 2)

    def leave(self) -> None:
        """End the group and the child."""
        if self._joined:
            import torch

            torch.distributed.destroy_process_group()
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def second_process(
    artifact: Path, configs: Mapping[str, Any], tokens: np.ndarray, *, bos_id: int
) -> Iterator[SecondProcess]:
    """Start rank 1 for ``configs`` (by mode) on ``tokens`` (N,).

    It loads while rank 0 does other checks; a mode must then be run on rank 0 once for each entry, in order.
    """
    import torch

    with scratch_directory("golf-verify") as folder:
        np.save(folder / "tokens.npy", tokens)
        modes = [[mode, to_dict(config)] for mode, config in configs.items()]
        request = {"artifact": str(artifact.resolve()), "modes": modes, "bos_id": bos_id, "folder": str(folder)}
        request |= {"threads": torch.get_num_threads(), "parent": os.getpid()}
        process = subprocess.Popen(
            [sys.executable, "-m", "golf.verify.two_processes"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, encoding="utf-8", cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        process.stdin = None  # so that communicate() does not flush it again
        child = SecondProcess(folder, process)
        try:
            yield child
        finally:
            child.leave()


def _meet(folder: Path, rank: int) -> None:
    import torch

    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=GROUP_TIMEOUT)


def _wait_for(go: Path, parent: int) -> None:
    """Until rank 0, process ``parent``, is there to be met; ``SystemExit`` when it has died."""
    while not go.exists():
        if os.getppid() != parent:
            raise SystemExit(1)
        time.sleep(0.05)


def main() -> None:
    """Rank 1: read the request on stdin, meet rank 0, run this rank's share of each mode."""
    request = json.load(sys.stdin)
    import torch

    torch.set_num_threads(request["threads"])
    folder = Path(request["folder"])
    decoded = load_artifact(request["artifact"])
    tokens = np.load(folder / "tokens.npy", allow_pickle=False)
    kept = {"vocab_size": decoded.vocab_size, "bos_id": int(request["bos_id"])}
    (folder / "ready").touch()
    _wait_for(folder / "go", int(request["parent"]))
    _meet(folder, 1)
    for mode, values in request["modes"]:
        config: Any = from_dict(mode_of(mode).config, values, where=mode)
        text = mode_scorer(mode, decoded.model, config, **kept).text(tokens)
        mode_of(mode).run(mode, decoded.model, text, config, Ranks(1, 2))
    torch.distributed.barrier()  # until rank 0 has read all and ends this process


if __name__ == "__main__":
    main()
