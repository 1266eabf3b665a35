"""Score an artifact with nothing but its shipped decoder: this file is copied beside them and run on its own.

It reads a JSON request on stdin and answers on stdout. The round trip is written a second time here, from the
definition: whole windows that do not overlap, nats of a float64 softmax. An audit hook refuses every socket and every
file outside the folder and Python's own (torch opens its libraries below Python, where no hook sees them).
Shapes: B windows, W tokens in each, V vocabulary.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["allowed_roots", "main", "seal", "score_windows"]

WINDOWS_PER_PASS = 8
MIN_ROWS = 64  # fewer rows take another matrix kernel with other rounding


def allowed_roots(folder: Path) -> tuple[str, ...]:
    """Folders whose files may be opened: ours, Python's and the system's."""
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return tuple({str(folder), *python, "/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev"})


def seal(folder: Path) -> None:
    """From now on sockets and files outside ``allowed_roots`` raise ``PermissionError``; there is no way back."""
    roots = tuple(Path(root).resolve() for root in allowed_roots(folder))

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith("socket."):
            raise PermissionError(f"network is sealed off: {event}")
        if event == "open" and isinstance(args[0], str | bytes):
            name = args[0].decode(errors="replace") if isinstance(args[0], bytes) else args[0]
            path = Path(name).resolve()
            if not any(path == root or root in path.parents for root in roots):
                raise PermissionError(f"file outside the sealed folder: {path}")

    sys.addaudithook(refuse)


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
    refused = 0
    try:
        Path(request["lure"]).read_bytes()
    except PermissionError:
        refused += 1
    import torch
    from safetensors.numpy import load_file

    import golf
    from golf.artifact.decode import load_artifact

    try:
        import socket

        socket.create_connection(("127.0.0.1", 9), timeout=1.0)
    except PermissionError:
        refused += 1
    torch.set_num_threads(request["threads"])
    decoded = load_artifact(folder / "model.golf")
    shards = [load_file(path)["tokens"] for path in sorted((folder / "val").glob("shard_*.safetensors"))]
    tokens = np.concatenate(shards)[: request["num_tokens"]].astype(np.int64)
    nats = score_windows(decoded.model, tokens, request["window"])
    answer = {"total_nats": math.fsum(nats).hex(), "refused": refused, "golf": str(golf.__file__), "targets": len(nats)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
