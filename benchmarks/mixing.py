"""Gain and speed of the online mixture over a static base model, on real text.

    python -m benchmarks.mixing --tokens FILE --train FILE [--limit N] [--check N] [--report docs/results/mixing.md]

FILE is a `.bin` of the competition (256 int32 header, then uint16 ids) or a `.npy` of ids; documents begin with id 1.
The base is an interpolated n-gram model (absolute discounting, orders 1 to 5) of the training tokens: cheap, honest and
fully normalized, in place of a neural model. Give the bytes of the text with `--bytes` to print bits per byte.
Everything is measured on one core.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from golf.base.jit import kernel
from golf.base.score import bits_per_byte
from golf.mixture.batch import MixResult, mix
from golf.mixture.bias import DocumentBias, chunk_bounds
from golf.mixture.config import LayerConfig, MixtureConfig, RecordConfig
from golf.mixture.counts import candidates, count_contexts
from golf.mixture.document import count_documents
from golf.mixture.record import NeuralRecord, summarize_row

ORDERS, DISCOUNT, BOS = 5, 0.8, 1


def read_tokens(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path).astype(np.int32)
    return np.fromfile(path, dtype=np.uint16)[512:].astype(np.int32)


def count_ngrams(tokens: np.ndarray, bits: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per order the sorted packed n-grams (uint64) and their counts."""
    out = []
    keys = np.zeros(len(tokens), np.uint64)
    for order in range(ORDERS):
        keys = (keys[:-1] if order else keys) << np.uint64(bits)
        keys = keys | tokens[order:].astype(np.uint64)
        out.append(np.unique(keys, return_counts=True))
    return out


@kernel
def fill_rows(tokens, begin, end, bits, grams, counts, unigram, rows):  # type: ignore[no-untyped-def]
    """Log-probabilities of positions begin..end-1 from the tokens before each."""
    for t in range(begin, end):
        row = rows[t - begin]
        row[:] = unigram
        context = np.uint64(0)
        for order in range(1, min(len(grams) + 1, t + 1)):
            context |= np.uint64(tokens[t - order]) << np.uint64(bits * (order - 1))
            keys, times = grams[order - 1], counts[order - 1]
            low = np.searchsorted(keys, context << np.uint64(bits))
            high = np.searchsorted(keys, (context + np.uint64(1)) << np.uint64(bits))
            if low == high:
                break
            total = times[low:high].sum()
            row *= DISCOUNT * (high - low) / total
            for i in range(low, high):
                row[np.int64(keys[i] & np.uint64((1 << bits) - 1))] += (times[i] - DISCOUNT) / total
        row[:] = np.log(row)


class Base:
    """A static n-gram model as the stand-in of the neural pass."""

    def __init__(self, train: np.ndarray, vocab_size: int) -> None:
        self.vocab_size, self.bits = vocab_size, int(vocab_size - 1).bit_length()
        tables = count_ngrams(train, self.bits)
        self.unigram = (np.bincount(train, minlength=vocab_size) + 0.5) / (len(train) + 0.5 * vocab_size)
        self.grams = tuple(keys for keys, _ in tables[1:])
        self.counts = tuple(times.astype(np.int64) for _, times in tables[1:])

    def record(self, tokens: np.ndarray, starts: np.ndarray, ids: np.ndarray, config: RecordConfig,
               samples: int) -> NeuralRecord:  # fmt: skip
        """One pass over the text, with the document bias inside when the configuration has it."""
        num = len(tokens)
        check = np.unique(np.linspace(1, num - 1, samples).astype(np.int64))
        nll, entropy, top, scored = np.zeros(num), np.zeros(num), np.zeros(num), np.arange(num) > 0
        argmax, chosen, sampled = np.zeros(num, np.int32), np.zeros(ids.shape), np.zeros((len(check), self.vocab_size))
        bias = DocumentBias(self.vocab_size, config, torch.device("cpu"))
        buffer = np.zeros((config.bias_chunk_tokens, self.vocab_size))
        for begin, end, starts_document in chunk_bounds(starts, num, config.bias_chunk_tokens):
            rows = buffer[: end - begin]
            fill_rows(tokens, begin, end, self.bits, self.grams, self.counts, self.unigram, rows)
            if config.bias:
                truth = torch.from_numpy(tokens[begin:end].astype(np.int64))
                rows = bias.apply(torch.from_numpy(rows), truth, [(begin, end, starts_document)]).numpy()
            gather(rows, tokens, ids, begin, nll, entropy, argmax, top, chosen)
            for i in range(np.searchsorted(check, begin), np.searchsorted(check, end)):
                sampled[i] = rows[check[i] - begin]
        return NeuralRecord(nll, entropy, argmax, top, chosen, scored, check, sampled)


@kernel
def gather(rows, tokens, ids, begin, nll, entropy, argmax, top, chosen):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        t = begin + i
        entropy[t], argmax[t] = summarize_row(rows[i], np.exp(rows[i]))
        nll[t], top[t] = -rows[i, tokens[t]], rows[i, argmax[t]]
        for j in range(ids.shape[1]):
            chosen[t, j] = rows[i, max(ids[t, j], 0)]


def timed_mix(tokens: np.ndarray, starts: np.ndarray, record: NeuralRecord, config: MixtureConfig,
              vocab_size: int) -> tuple[MixResult, float, float]:  # fmt: skip
    """Result, CPU seconds of counting and of mixing (without the checks), both after compilation."""
    counted = {"orders": config.orders, "vocab_size": vocab_size, "near_tokens": config.layers.near_tokens}
    begin = time.process_time()
    table = count_contexts(tokens, starts, **counted)  # type: ignore[arg-type]
    documents = count_documents(tokens, starts, config.layers.document_orders, near_tokens=config.layers.near_tokens)
    counting = time.process_time() - begin
    result = mix(tokens, table, record, config, documents)
    bare = replace(record, sample_positions=record.sample_positions[:0], sample_log_probs=record.sample_log_probs[:0])
    times = []
    for _ in range(3):  # the best of three: a virtual machine's clock varies by a third
        begin = time.process_time()
        mix(tokens, table, bare, config, documents)
        times.append(time.process_time() - begin)
    return result, counting, min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, help="text to score")
    parser.add_argument("--train", type=Path, required=True, help="text the static base learns from")
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--bytes", type=int, default=2504866, help="UTF-8 bytes of the scored text")
    parser.add_argument("--limit", type=int, default=0, help="score the first N tokens only; 0 scores all")
    parser.add_argument("--check", type=int, default=200, help="positions at which the whole distribution is summed")
    parser.add_argument("--report", type=Path, help="write the table to this file")
    args = parser.parse_args()
    tokens = read_tokens(args.tokens)
    num_bytes = args.bytes if not args.limit else round(args.bytes * args.limit / len(tokens))
    tokens = tokens[: args.limit or None]
    starts = np.flatnonzero(tokens == BOS)
    base = Base(read_tokens(args.train), args.vocab_size)
    lines = ["| document bias | scorer | bpb | gain over base | M tokens/s on one core |", "|---|---|---|---|---|"]
    plain, notes = 0.0, []
    for bias in (False, True):
        config = MixtureConfig(RecordConfig(bias=bias))
        table = count_contexts(tokens, starts, orders=config.orders, vocab_size=args.vocab_size,
                               near_tokens=config.layers.near_tokens)  # fmt: skip
        ids = candidates(table, count=config.record.candidates, orders=config.record.candidate_orders)
        record = base.record(tokens, starts, ids, config.record, args.check)
        result, counting, mixing = timed_mix(tokens, starts, record, config, args.vocab_size)
        off = LayerConfig(cascade=False, final=False), LayerConfig(chain=False, final=False)
        seconds = {"neural": 0.0, "mixture": mixing}
        for name, part in zip(("chain", "cascade"), off, strict=True):
            seconds[name] = timed_mix(tokens, starts, record, replace(config, layers=part), args.vocab_size)[2]
        bare = replace(config, layers=LayerConfig(document_orders=()))
        without, _, seconds["without document"] = timed_mix(tokens, starts, record, bare, args.vocab_size)
        plain = plain or bits_per_byte(float(result.nats["neural"].sum()), num_bytes)
        for name, nats in [*result.nats.items(), ("without document", without.nats["mixture"])]:
            score = bits_per_byte(float(nats.sum()), num_bytes)
            speed = f"{len(tokens) / seconds[name] / 1e6:.2f}" if seconds[name] else "-"
            lines.append(f"| {'on' if bias else 'off'} | {name} | {score:.4f} | {plain - score:+.4f} | {speed} |")
        proof = result.report
        notes.append(
            f"Document bias {'on' if bias else 'off'}: counting {len(tokens) / counting / 1e6:.2f} M tokens/s; at "
            f"{len(proof.positions)} positions max abs(sum - 1) {proof.max_sum_error:.1e}, target error "
            f"{proof.target_errors.max(initial=0.0):.1e}, count mismatches {proof.count_mismatches}; "
            f"memory {result.num_bytes / 1e6:.0f} MB\n"
        )
    print("\n".join([*lines, "", *notes]))
    if args.report:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        page = "\n".join([f"{len(tokens)} tokens, commit {commit}\n", *lines, "", *notes])
        args.report.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
