"""Stages that stand still while GPUs wait, at the size of the competition: seconds, and memory at its highest.

    python -m benchmarks.scale mixture --tokens 20000000       # counting, mixing, proofs of 256 rows: stage `hedge`
    python -m benchmarks.scale tokenize --tokens 20000000 --shard FINEWEB.bin --model FINEWEB.model   # one process
    python -m benchmarks.scale score --preset h100x8_10min     # a GPU: an untrained model scores 1,000,000 targets

Texts of `mixture` and `score` are synthetic: words that come again as those of a language do, so that a token has about
as many earlier contexts. Seconds of `mixture` and `tokenize` are of processor time. Scores of such texts mean nothing.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

VOCAB, BOS, DOCUMENT = 1024, 1, 1000
COMPETITION = 62_021_632  # targets of its validation text


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


def mixture(num_tokens: int) -> None:
    """`score_mixture` on a record of made-up numbers, as stage `hedge` runs it."""
    from golf.base.params import from_dict
    from golf.cli.params import compose
    from golf.mixture.record import NeuralRecord, StreamRecord
    from golf.scoring import mixture_score
    from golf.scoring.record_stream import StreamingConfig, probe_targets
    from golf.scoring.text import ValidationText

    values = compose(Path("conf"))["evaluate"]
    streaming = from_dict(StreamingConfig, values["streaming"])
    hedge = from_dict(mixture_score.HedgeConfig, values["hedge"])
    tokens, starts = synthetic(num_tokens)
    text = ValidationText(tokens, starts, np.full(len(starts), 2400), VOCAB)
    rng = np.random.default_rng(1)

    def made_up() -> NeuralRecord:
        size = len(tokens)
        rows = rng.normal(size=(min(256, size - 1), VOCAB))
        rows -= np.log(np.exp(rows).sum(1, keepdims=True))
        return NeuralRecord(
            rng.exponential(3.0, size), rng.uniform(0.1, 5, size), rng.integers(0, VOCAB, size).astype(np.int32),
            -rng.exponential(1.0, size), -rng.exponential(4.0, (size, 3)), np.arange(size) > 0,
            probe_targets(size - 1, 256) + 1, rows,
        )  # fmt: skip

    record = StreamRecord(made_up(), made_up(), rng.exponential(3.0, (2, len(tokens) - 1)))
    small = 20_000  # compile the kernels first
    head = ValidationText(tokens[:small], starts[: small // DOCUMENT], text.doc_bytes[: small // DOCUMENT], VOCAB)
    mixture_score.Contexts(head.tokens, head.doc_starts, orders=(1, 2), vocab_size=VOCAB)
    for name in ("Contexts", "count_documents", "mix", "mix_hedge", "make_curves"):
        original = getattr(mixture_score, name)

        def watched(*args: object, _original: object = original, _name: str = name, **more: object) -> object:
            with timed(_name, num_tokens):
                return _original(*args, **more)  # type: ignore[operator]

        setattr(mixture_score, name, watched)
    with timed("stage hedge, in all", num_tokens):
        mixture_score.score_mixture(text, record, streaming, hedge)


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


def score(num_targets: int, preset: str) -> None:
    """Round trip and streaming of a preset's untrained model on the GPU, wall seconds."""
    import json

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
        configs = load_modes(path, ("roundtrip", "sliding", "streaming"))
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
    args = parser.parse_args()
    if args.what == "mixture":
        mixture(args.tokens)
    elif args.what == "tokenize":
        tokenize(args.tokens, args.model, args.shard)
    elif args.what == "kernels":
        kernels()
    else:
        score(args.tokens, args.preset)


if __name__ == "__main__":
    main()
