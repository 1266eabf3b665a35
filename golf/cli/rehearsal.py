"""The parameters of a rehearsal: a preset with triggers that act within a few steps, on a tiny corpus.

Branches are what is rehearsed: every depth, schedule, method, coder and scorer of the preset stays. What carries none
(corpus, number of steps, text scored) is small on every machine. Without a GPU a model made for one is also narrowed
to 96 channels or so, its blocks, repeats, heads and layout kept, and sequences and samples are short.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from golf.files import write_text

__all__ = ["forced", "smaller", "synthetic_corpus"]

_VOCAB, _CPU_SEQUENCE, _CPU_PROVED, _CPU_CHOICES = 400, 64, 512, 32
_TRIGGERS = MappingProxyType(
    {"budget_seconds": 0.0, "warmdown": 0.6, "snapshot_every": 0.1, "snapshot_below": 0.9, "ema_decay": 0.9}
)
_CPU_WIDTH = 192  # the models made for CPUs have no more
_NARROW = MappingProxyType(  # at most, of any wider model
    {"width": 96, "delta_key_dim": 16, "delta_value_dim": 16, "hash_rows": 512, "hash_width": 16}
)


def forced(values: Mapping[str, Any], *, cuda: bool, compiled: bool, devices: int = 1) -> dict[str, Any]:
    """The composed parameters with a tiny corpus and triggers that act within a few steps.

    On GPUs the model stays whole and each of ``devices`` processes gets two of the preset's micro batches.
    """
    out = {section: dict(content) for section, content in values.items()}
    train = out["train"]
    phases = max(1, len(train["depth_phases"]))
    length = train["sequence_length"] if cuda else min(_CPU_SEQUENCE, train["sequence_length"])
    held_bytes = max(4000, 12 * length)  # three windows or more
    out["tokenize"].update(
        source="text", path="corpus", max_bytes=0, tokenizer="train", vocab_size=_VOCAB, train_bytes=1_000_000,
        val_fraction=0.1, holdout_fraction=0.1, val_max_bytes=held_bytes, holdout_max_bytes=held_bytes,
    )  # fmt: skip
    micro = train["micro_batch_tokens"] // length * length if cuda else length
    qat = dict(train["qat"])
    methods = {out["quantize"]["method"], *(own["method"] for own in out["quantize"]["roles"].values())}
    if methods <= {"sdclip", None}:  # QAT trains for no other grid
        qat.update(below=0.7, clip=out["quantize"]["clip"], levels=out["quantize"]["levels"])
    train.update(_TRIGGERS, qat=qat, compile=train["compile"] and (cuda or compiled))
    train.update(
        iterations=max(12, 6 * phases), sequence_length=length, micro_batch_tokens=micro,
        tokens_per_step=2 * micro * devices, momentum_warmup_steps=2, log_seconds=1e-6, checkpoint_seconds=1e-6,
    )  # fmt: skip
    out["calibrate"].update(tokens=4 * length, window=length)
    out["evaluate"] = {mode: _short(section, length) for mode, section in values["evaluate"].items()}
    if cuda:
        out["verify"]["targets"] = max(out["verify"]["targets"], 2 * length)
    else:
        _for_a_cpu(out, length)
    return out


def _short(section: Mapping[str, Any], length: int) -> dict[str, Any]:
    """An evaluation within ``length`` tokens of context."""
    most = {"window": length, "stride": length // 4, "chunk": length // 4, "warmup": 2 * length, "segment": 1024}
    return {**section, **_at_most(section, most)}


def _at_most(section: Mapping[str, Any], most: Mapping[str, int]) -> dict[str, Any]:
    return {key: min(section[key], limit) for key, limit in most.items() if key in section}


def _for_a_cpu(out: dict[str, Any], length: int) -> None:
    """A narrow model, a short proof and a short sample to verify, in place."""
    model = out["model"]
    if model["width"] > _CPU_WIDTH:
        model.update(_at_most(model, _NARROW))
        per_head = 2 * model["heads"]  # rotary embedding turns pairs of channels
        model["width"] = max(per_head, model["width"] // per_head * per_head)
    out["verify"].update(targets=4 * length, **_at_most(out["verify"], {"choices": _CPU_CHOICES}))
    out["prove"].update(_at_most(out["prove"], {"window": length, "max_tokens": _CPU_PROVED}))


def smaller(original: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Lines that say what is rehearsed smaller than the preset has it, and what that leaves out."""
    kept_on_gpus = ("sequence_length", "micro_batch_tokens")
    model = [f"model.{text}" for text in _less(original["model"], values["model"])]
    train = [f"train.{text}" for text in _less(original["train"], values["train"])]
    machine = model + [text for text in train if text.split()[0].removeprefix("train.") in kept_on_gpus]
    machine += ["no train.compile"] if original["train"]["compile"] and not values["train"]["compile"] else []
    short = [text for text in train if text.split()[0] in ("train.iterations", "train.tokens_per_step")]
    for name in ("calibrate", "evaluate", "verify", "prove"):
        short += [f"{name}.{text}" for text in _less(original[name], values[name])]
    lines = [f"short, like the synthetic corpus: {', '.join(short)}"] if short else []
    if machine:
        lines.insert(0, f"without a GPU, so its memory and speed are not rehearsed: {', '.join(machine)}")
    return lines


def _less(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """``key value for value`` of every number that is less than it was, sections within included."""
    for key, old in before.items():
        new = after[key]
        if isinstance(old, Mapping):
            yield from (f"{key}.{text}" for text in _less(old, new))
        elif isinstance(old, int | float) and new < old:
            yield f"{key} {new} for {old}"


def synthetic_corpus(folder: Path, *, documents: int = 300, words: int = 100) -> None:
    """Text files of made-up words in a skewed, repeating order; short, so that few bytes hold several documents."""
    import numpy as np

    rng = np.random.default_rng(0)
    letters = list("etaoinshrdlucmfwypvbgkjqxz")
    lexicon = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(400)]
    for number in range(documents):
        chosen = np.minimum(rng.zipf(1.3, words) - 1, len(lexicon) - 1)
        write_text(folder / f"{number:03d}.txt", " ".join(lexicon[i] for i in chosen) + ".\n")
