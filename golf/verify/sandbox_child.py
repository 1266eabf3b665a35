"""Score an artifact with nothing but its shipped decoder: this file is copied beside them and run on its own.

It reads a JSON request on stdin and answers on stdout. The round trip is written a second time here, from the
definition: whole windows that do not overlap, nats of a float64 softmax. An audit hook refuses sockets, processes,
files outside the folder and Python's own, and changes outside the folder (torch opens its libraries where no hook sees
it).
Shapes: B windows, W tokens in each, V vocabulary.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["allowed_roots", "lures", "main", "seal", "score_windows"]

WINDOWS_PER_PASS = 8
MIN_ROWS = 64  # fewer rows take another matrix kernel with other rounding
_FORBIDDEN = (
    *("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
    *("os.startfile", "os.kill", "pty.", "ftplib.", "http.", "smtplib.", "urllib.", "webbrowser.", "winreg."),
)
_READING = frozenset({"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.getxattr", "os.listxattr", "os.putenv",
                      "os.unsetenv", "os.add_dll_directory", "os.chdir", "os.fchdir", "os.getlogin"})  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def allowed_roots(folder: Path) -> tuple[str, ...]:
    """Folders whose files may be opened for reading: ours, Python's and the system's."""
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return tuple({str(folder), *python, "/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev"})


def seal(folder: Path) -> None:
    """From now on sockets, other processes, files outside ``allowed_roots`` and changes of files outside ``folder``
    raise ``PermissionError``; there is no way back.

    It shows that nothing else is needed. It is no jail: code that means harm gets around an audit hook.
    """
    roots = tuple(Path(root).resolve() for root in allowed_roots(folder))

    def below(name: Any, folders: tuple[Path, ...]) -> bool:
        path = Path(os.fsdecode(name)).resolve()
        return any(path == root or root in path.parents for root in folders)

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"sealed off: {event}")
        if event == "open" and isinstance(args[0], str | bytes):
            writes = isinstance(args[1], str) and set(args[1]) & set("wax+") or (args[2] or 0) & _WRITING
            places = (folder, Path("/dev/null"), Path("/dev/shm")) if writes else roots
            if not below(args[0], places):
                raise PermissionError(f"sealed off: {'writing' if writes else 'reading'} {args[0]!r}")
        elif event.startswith(("os.", "shutil.")) and event not in _READING:
            names = [arg for arg in args if isinstance(arg, str | bytes | os.PathLike)]
            if not names or not all(below(name, (folder,)) for name in names):
                raise PermissionError(f"sealed off: {event} {args!r}")

    sys.addaudithook(refuse)


def lures(outside: Path) -> int:
    """How many of five forbidden things are refused: a file read, written and removed, a process, a connection."""
    import socket
    import subprocess

    def run() -> object:
        return subprocess.run([sys.executable, "-c", ""], check=False)

    beside = outside.with_name("golf-verify-lure")
    tried = (outside.read_bytes, beside.touch, beside.unlink, run, lambda: socket.create_connection(("127.0.0.1", 9)))
    refused = 0
    for attempt in tried:
        try:
            attempt()
        except PermissionError as error:
            refused += str(error).startswith("sealed off")
        except OSError:
            pass
    return refused


def score_windows(model: Any, tokens: np.ndarray, window: int) -> np.ndarray:
    """Nats float64 (N-1,) of every target of ``tokens`` (N,) in windows that do not overlap."""
    import torch

    num_targets = len(tokens) - 1
    passes = max(WINDOWS_PER_PASS, -(-MIN_ROWS // window))
    padded = -(-num_targets // (window * passes)) * window * passes
    ids = np.full(padded, int(tokens[-1]), dtype=np.int64)
    truth = np.zeros(padded, dtype=np.int64)
    ids[:num_targets], truth[:num_targets] = tokens[:-1], tokens[1:]
    nats = []
    with torch.inference_mode():
        for first in range(0, padded, window * passes):
            part = slice(first, first + window * passes)
            hidden = model.hidden(torch.from_numpy(ids[part].reshape(passes, window))).flatten(0, 1)
            logits = model.logits(hidden).double()
            target = logits.gather(1, torch.from_numpy(truth[part])[:, None])[:, 0]
            nats.append((torch.logsumexp(logits, dim=1) - target).clamp_min(0.0).numpy())
    return np.asarray(np.concatenate(nats)[:num_targets])


def main() -> None:
    """Answer one request: ``folder``, ``window``, ``num_tokens``, ``threads``, ``lure`` (a file to be refused)."""
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    sys.path.insert(0, str(folder / "decoder.zip"))
    seal(folder)
    refused = lures(Path(request["lure"]))
    import torch
    from safetensors.numpy import load_file

    import golf
    from golf.artifact.decode import load_artifact

    torch.set_num_threads(request["threads"])
    decoded = load_artifact(folder / "model.golf")
    shards = [load_file(path)["tokens"] for path in sorted((folder / "val").glob("shard_*.safetensors"))]
    tokens = np.concatenate(shards)[: request["num_tokens"]].astype(np.int64)
    nats = score_windows(decoded.model, tokens, request["window"])
    answer = {"total_nats": math.fsum(nats).hex(), "refused": refused, "golf": str(golf.__file__), "targets": len(nats)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
