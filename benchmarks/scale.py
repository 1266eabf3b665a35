"""Stages that stand still while GPUs wait, at the size of the competition: seconds, and memory at its highest.

    python -m benchmarks.scale mixture --tokens 20000000       # stage `hedge` as it is, over 77 bytes a token in files
    python -m benchmarks.scale tokenize --tokens 20000000 --shard FINEWEB.bin --model FINEWEB.model   # one process
    python -m benchmarks.scale score --preset h100x8_10min     # a GPU: an untrained model scores 1,000,000 targets

Texts of `mixture` and `score` are synthetic: words that come again as those of a language do, so that a token has about
as many earlier contexts. Seconds of `mixture` and `tokenize` are of processor time. Scores of such texts mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from golf.scoring.text import ValidationText

VOCAB, BOS, DOCUMENT = 1024, 1, 1000
COMPETITION = 62_021_632  # targets of its validation text
MODES = ("roundtrip", "sliding", "streaming", "ttt")  # of `score`, the last only when named


def synthetic(num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int64 (N,) and where documents begin."""
    rng = np.random.default_rng(0)
    words = [rng.integers(260, VOCAB, 1 + rng.integers(1, 5)) for _ in range(20_000)]
    picks = np.minimum(rng.zipf(1.3, num_tokens // 2) - 1, len(words) - 1)
    tokens = np.concatenate([words[pick] for pick in picks])[:num_tokens].astype(np.int64)
    starts = np.arange(0, len(tokens), DOCUMENT)
    tokens[starts] = BOS
    return tokens, starts


@contextmanager
def timed(what: str, tokens: int) -> Iterator[None]:
    """Prints the seconds of processor time of what runs in here, and what the competition's text would take."""
    begin = time.process_time()
    yield
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    full = seconds * COMPETITION / tokens
    print(f"{what:<28} {seconds:7.1f} s   62 M tokens: {full:6.0f} s   peak so far {peak:.2f} GB", flush=True)


def made_up_record(path: Path, text: ValidationText, meta: dict[str, Any], temperatures: int) -> None:
    """A record of made-up numbers as `evaluate streaming` leaves it, written piece by piece: it may exceed memory."""
    from golf.mixture.record import PIECE
    from golf.scoring.likeliest import LikeliestRows
    from golf.scoring.record_stream import probe_targets

    rng, size = np.random.default_rng(1), len(text.tokens)
    shown, samples = LikeliestRows(text), probe_targets(text.num_targets, 256) + 1
    rows = rng.normal(size=(len(samples), VOCAB))
    rows -= np.log(np.exp(rows).sum(1, keepdims=True))
    shown.rows[:] = -np.log(VOCAB)
    whole = shown.tensors()
    made: dict[str, tuple[Any, tuple[int, ...], Callable[..., Any]]] = {
        f"base.{name}": (kind, shape, numbers)
        for name, kind, shape, numbers in (
            ("nll", np.float64, (size,), lambda shape: rng.exponential(3.0, shape)),
            ("entropy", np.float64, (size,), lambda shape: rng.uniform(0.1, 5, shape)),
            ("argmax_log_prob", np.float64, (size,), lambda shape: -rng.exponential(1.0, shape)),
            ("candidate_log_prob", np.float64, (size, 3), lambda shape: -rng.exponential(4.0, shape)),
            ("argmax", np.int32, (size,), lambda shape: rng.integers(0, VOCAB, shape)),
            ("scored", np.bool_, (size,), lambda shape: np.ones(shape)),
        )
    }
    made["nats"] = np.float64, (size - 1,), made["base.nll"][2]
    made["tempered"] = np.float64, (temperatures, size - 1), made["base.nll"][2]
    whole |= {"base.sample_positions": samples, "base.sample_log_probs": rows, "sample_log_probs": rows}
    kinds = {np.dtype(np.float64): "F64", np.dtype(np.float32): "F32", np.dtype(np.int64): "I64",
             np.dtype(np.int32): "I32", np.dtype(np.uint16): "U16", np.dtype(np.bool_): "BOOL"}  # fmt: skip
    sizes = {name: (np.dtype(kind), shape) for name, (kind, shape, _) in made.items()}
    sizes |= {name: (array.dtype, array.shape) for name, array in whole.items()}
    header: dict[str, Any] = {"__metadata__": {"meta": json.dumps(meta)}}
    places, end = {}, 0
    for name in sorted(sizes, key=lambda name: (-sizes[name][0].itemsize, name)):
        kind, shape = sizes[name]
        places[name], begin, end = end, end, end + kind.itemsize * math.prod(shape)
        header[name] = {"dtype": kinds[kind], "shape": list(shape), "data_offsets": [begin, end]}
    text_of = json.dumps(header).encode()
    text_of += b" " * (-len(text_of) % 8)
    with open(path, "wb") as file:
        file.write(len(text_of).to_bytes(8, "little") + text_of)
        file.truncate(8 + len(text_of) + end)
    for name, (kind, shape) in sizes.items():
        array = np.memmap(path, kind, "r+", 8 + len(text_of) + places[name], shape)
        for first in range(0, shape[0], PIECE):
            piece = array[first : first + PIECE]
            piece[:] = made[name][2](piece.shape) if name in made else whole[name][first : first + PIECE]
        if name.endswith("scored"):
            array[0] = False
        array.flush()


def mixture(num_tokens: int) -> None:
    """Stage `hedge` in a process of its own, over a text and a record in files; its kernels are compiled before."""
    from golf.base.params import load_section, to_dict
    from golf.data.shards import ShardWriter
    from golf.scoring.record_stream import StreamingConfig
    from golf.scoring.text import ValidationText

    streaming = load_section(Path("params.yaml"), "evaluate.streaming", StreamingConfig)
    for size in (min(20_000, num_tokens), num_tokens):
        tokens, starts = synthetic(size)
        text = ValidationText(tokens, starts, np.full(len(starts), 2400), VOCAB)
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            writer = ShardWriter(root / "artifacts/tokens/val", vocab_size=VOCAB, bos_id=BOS, tokenizer_sha256="0" * 64)
            for begin in starts.tolist():
                writer.add(tokens[begin : begin + DOCUMENT], 2400)
            writer.close()
            (root / "artifacts/evaluate").mkdir()
            meta = {"artifact_sha256": "0" * 64, "tokenizer_sha256": "0" * 64, "vocab_size": VOCAB}
            path = root / "artifacts/evaluate/streaming_tokens.safetensors"
            made_up_record(path, text, meta | {"config": to_dict(streaming)}, len(streaming.temperatures))
            del text, tokens
            child = subprocess.Popen([sys.executable, "-m", "stages.hedge", "--root", name])
            _, status, used = os.wait4(child.pid, 0)
            if status:
                raise SystemExit("stage hedge failed")
            told = json.loads((root / "metrics/evaluate_hedge.json").read_text(encoding="utf-8"))
    seconds = used.ru_utime + used.ru_stime
    print(f"counted {told['hedge_counting_seconds']:.1f}, mixed {told['hedge_mixing_seconds']:.1f} s of the clock; "
          f"{told['hedge_count_mismatches']} mismatches, row error {told['hedge_max_row_error']:.1e}")  # fmt: skip
    print(f"stage hedge, {size} tokens: {seconds:.1f} s ({used.ru_stime:.1f} of them the system's), peak "
          f"{used.ru_maxrss / 1e6:.2f} GB; a million tokens: {seconds / size * 1e6:.2f} s")  # fmt: skip


def tokenize(num_tokens: int, model: Path, shard: Path) -> None:
    """Stage `tokenize` of shards, in one process: the documents of ``shard`` again and again, its first ones held."""
    from golf.base.params import from_dict
    from golf.cli.params import compose
    from golf.data.competition import map_shard
    from golf.data.tokenize import TokenizeConfig, tokenize_corpus

    ids = np.array(map_shard(shard))
    starts = np.flatnonzero(ids == BOS)
    cut = int(starts[len(starts) // 20])
    train = np.tile(ids[cut : starts[-1]], -(-num_tokens // (starts[-1] - cut)))[:num_tokens]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "shards")
        folder.mkdir()
        for side, tokens in (("train", train), ("val", ids[:cut])):
            header = np.zeros(256, "<i4")
            header[:3] = 20240520, 1, len(tokens)
            (folder / f"fineweb_{side}_000000.bin").write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())
        values = compose(Path("conf"), preset="h100x8_10min")["tokenize"]
        values |= {"path": str(folder), "tokenizer": str(model.resolve()), "holdout_fraction": 0.001}
        with timed("stage tokenize", num_tokens):
            tokenize_corpus(from_dict(TokenizeConfig, values), name, processes=1)


def score(num_targets: int, preset: str, modes: tuple[str, ...]) -> None:
    """``modes`` of a preset's untrained model on the GPU, wall seconds."""
    import torch

    from golf.cli.params import compose
    from golf.models.registry import build_model, config_from_dict
    from golf.scoring.modes import load_modes, run_mode
    from golf.scoring.text import ValidationText

    tokens, starts = synthetic(num_targets + 1)
    text = ValidationText(tokens, starts, np.full(len(starts), 2400), VOCAB)
    values = compose(Path("conf"), preset=preset)
    model = build_model(config_from_dict(values["model"]), VOCAB).to("cuda")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "params.json")
        path.write_text(json.dumps(values), encoding="utf-8")
        configs = load_modes(path, modes)
    for mode, config in configs.items():
        begin = time.perf_counter()
        run_mode(mode, model, text, config)
        seconds = time.perf_counter() - begin
        peak = torch.cuda.max_memory_allocated() / 2**30
        full = seconds * COMPETITION / num_targets
        print(f"{mode:<28} {seconds:7.1f} s   62 M targets: {full:6.0f} s   peak {peak:.1f} GiB", flush=True)


def kernels() -> None:
    """What each GPU preset would run on here, as the first lines of its log say."""
    import torch

    from golf.cli.params import compose
    from golf.models.registry import build_model, config_from_dict
    from golf.training import ready

    for path in sorted(Path("conf/preset").glob("*h100*.yaml")):
        values = compose(Path("conf"), preset=path.stem)
        model, train = build_model(config_from_dict(values["model"]), VOCAB).to("cuda"), values["train"]
        length = train["sequence_length"]
        slow, told = ready.kernels(model, train["micro_batch_tokens"] // length, length, torch.device("cuda:0"))
        print(f"{path.stem}: {told}" + (f"; SLOW: {slow}" if slow else ""))


def main() -> None:
    """One of the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mixture", "tokenize", "score", "kernels"))
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--model", type=Path, default=Path("data/fineweb_1024_bpe.model"), help="of `tokenize`")
    parser.add_argument("--shard", type=Path, default=Path("data/fineweb10B_sp1024/fineweb_val_000000.bin"))
    parser.add_argument("--preset", default="h100x8_10min", help="of `score`")
    parser.add_argument("--mode", action="append", choices=MODES, help=f"of `score` (default: {', '.join(MODES[:3])})")
    args = parser.parse_args()
    if args.what == "mixture":
        mixture(args.tokens)
    elif args.what == "tokenize":
        tokenize(args.tokens, args.model, args.shard)
    elif args.what == "kernels":
        kernels()
    else:
        score(args.tokens, args.preset, tuple(args.mode or MODES[:3]))


if __name__ == "__main__":
    main()
