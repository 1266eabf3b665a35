"""Run all checks on an artifact: the real scorers on a sample of real tokens, the text in full, the files alone.

Shapes: N tokens of the sample, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.artifact.decode import Decoded, load_artifact
from golf.artifact.ship import CompressConfig, pack_decoder
from golf.base.errors import GolfError
from golf.base.files import read_json, require, write_json
from golf.base.params import Count, load_section
from golf.data.shards import documents_of
from golf.data.tokenizer import Tokenizer
from golf.scoring.modes import MODES, load_modes
from golf.scoring.network import RoundtripConfig
from golf.scoring.text import ScoringError, ValidationText, load_text
from golf.verify import checks, text
from golf.verify.checks import CheckResult
from golf.verify.sandbox import check_self_contained
from golf.verify.scorers import ModeScorer, config_value, mode_scorer
from golf.verify.two_processes import SecondProcess, second_process

__all__ = [
    "Inputs",
    "VerifyConfig",
    "VerifyError",
    "format_result",
    "metrics_of",
    "prefixes_of",
    "sample_tokens",
    "verify",
    "verify_files",
]

CHUNK_LIMIT = 1e-3  # nats; a pass of another length takes other matrix kernels, which round otherwise
SAMPLE_DOCUMENTS = 4
SOURCES = Path(__file__).resolve().parents[2]
REPEATS = 3  # times that a passage stands in the prefix before it begins once more


class VerifyError(GolfError):
    """Parameters of `verify` that fit nothing."""


@dataclass(frozen=True)
class VerifyConfig:
    """Section `verify`: ``modes`` checked, ``targets`` of the sample, ``flips`` positions from which the future is
    replaced (and cuts of the text), ``choices`` last tokens run per prefix at most."""

    modes: tuple[str, ...]
    targets: Count
    flips: Count
    choices: Count

    def __post_init__(self) -> None:
        for mode in self.modes:
            if mode not in MODES:
                raise VerifyError(f"modes: found {mode}, expected some of {', '.join(MODES)}")
        if not self.modes:
            raise VerifyError(f"modes: found none, expected some of {', '.join(MODES)}")


@dataclass(frozen=True)
class Inputs:
    """Files of one artifact and the parameters of the modes by name. ``tokens`` is the folder of ``tokenize``.
    ``run_decoder``: run the code in ``decoder`` even when it is not what this golf ships with such an artifact."""

    artifact: Path
    decoder: Path
    tokens: Path
    limit_bytes: int
    modes: Mapping[str, Any]
    run_decoder: bool = False


def verify_files(
    params: Path, *, artifact: Path, decoder: Path, tokens: Path, metrics: Path | None, run_decoder: bool
) -> int:
    """Check with the section `verify` of ``params`` and those of the modes it names; 1 when a check failed, else 0.

    Prints one line a check and writes the measured values to ``metrics`` before it says so.
    """
    config = load_section(params, "verify", VerifyConfig)
    limit_bytes = load_section(params, "compress", CompressConfig).limit_bytes
    inputs = Inputs(artifact, decoder, tokens, limit_bytes, load_modes(params, config.modes), run_decoder)
    begin = time.perf_counter()
    results = verify(inputs, config, each=lambda result: print(format_result(result), flush=True))
    seconds = time.perf_counter() - begin
    if metrics is not None:
        write_json(metrics, metrics_of(results, seconds))
    failed = [f"{result.scorer} {result.name}" for result in results if result.passed is False]
    print(f"verify: {len(results)} checks in {seconds:.1f} s, failed: {', '.join(failed) or 'none'}", flush=True)
    return int(bool(failed))


def verify(inputs: Inputs, config: VerifyConfig, *, each: Callable[[CheckResult], None]) -> list[CheckResult]:
    """All checks, cheapest first; ``each`` hears every result as it comes. Scores run on the CPU.

    Raises ``GolfError`` for files that are missing or damaged and for a sample that fits no window.
    """
    found = []
    for result in _results(inputs, config):
        each(result)
        found.append(result)
    return found


def _results(inputs: Inputs, config: VerifyConfig) -> Iterator[CheckResult]:
    decoded = load_artifact(inputs.artifact)
    val = load_text(inputs.tokens / "val", vocab_size=decoded.vocab_size, tokenizer_sha256=decoded.tokenizer_sha256)
    yield text.check_size(inputs.artifact, inputs.decoder, limit_bytes=inputs.limit_bytes)
    yield from _text_checks(inputs, decoded, val)
    yield _alone(inputs, decoded, val, config)
    tokens = sample_tokens(val, config.targets)
    bos_id = int(val.tokens[0])
    kept = {"vocab_size": decoded.vocab_size, "bos_id": bos_id}
    scorers = [mode_scorer(name, decoded.model, inputs.modes[name], **kept) for name in config.modes]
    cut = {scorer.name: _cut(scorer, len(tokens) - 1).config for scorer in scorers}
    with second_process(inputs.artifact, cut, tokens, bos_id=bos_id) as child:
        for scorer in scorers:
            yield from _scorer_checks(scorer, tokens, config, child)


def _text_checks(inputs: Inputs, decoded: Decoded, val: ValidationText) -> Iterator[CheckResult]:
    tokenizer = Tokenizer(decoded.tokenizer_model)
    others = {name: inputs.tokens / name for name in ("train", "holdout") if (inputs.tokens / name).is_dir()}
    if others:
        streams = {name: documents_of(folder) for name, folder in others.items()}
        yield text.check_disjoint(documents_of(inputs.tokens / "val"), streams)
    if len(others) < 2:
        missing = ", ".join({"train", "holdout"} - set(others))
        yield CheckResult("text", "splits_here", None, 0.0, None, "documents", f"not compared, not here: {missing}")
    official = text.official_decoder(decoded.tokenizer_model)
    yield text.check_bytes(tokenizer.table.token_bytes, official, documents_of(inputs.tokens / "val"), val.doc_bytes)
    manifest = read_json(inputs.tokens / "manifest.json", made_by="`python -m stages.tokenize`")
    val_documents = documents_of(inputs.tokens / "val")
    yield text.check_text(official, val_documents, manifest, found=tokenizer.divisor, split="val")
    yield text.check_divisor(
        manifest,
        found=tokenizer.divisor,
        tokenizer_sha256=decoded.tokenizer_sha256,
        num_bytes=val.num_bytes,
        num_tokens=len(val.tokens),
        split="val",
    )


def _alone(inputs: Inputs, decoded: Decoded, val: ValidationText, config: VerifyConfig) -> CheckResult:
    """The round trip over the first tokens of the split, as the stage scores them (fp32), here and sealed off."""
    import torch

    require(inputs.decoder, made_by="`python -m stages.compress`")
    if not inputs.run_decoder and inputs.decoder.read_bytes() != pack_decoder(SOURCES, inputs.artifact.read_bytes()):
        note = f"{inputs.decoder.name} is not what this golf ships, so its code was not run; --run-decoder runs it"
        return CheckResult("files", "self_contained", None, 0.0, None, "nats", note)
    section = inputs.modes.get("roundtrip")
    window = int(section.window) if section else int(next(iter(inputs.modes.values())).window)
    roundtrip = RoundtripConfig(window, int(section.batch) if section else 8, "fp32")
    num_tokens = min(len(val.tokens), max(config.targets, window) + 1)
    here = mode_scorer("roundtrip", decoded.model, roundtrip, vocab_size=decoded.vocab_size, bos_id=int(val.tokens[0]))
    return check_self_contained(
        inputs.artifact,
        inputs.decoder,
        inputs.tokens / "val",
        expected_nats=math.fsum(here.score(val.tokens[:num_tokens])),
        window=window,
        num_tokens=num_tokens,
        threads=torch.get_num_threads(),
    )


def _cut(scorer: ModeScorer, num_targets: int) -> ModeScorer:
    """The scorer with its stream in three segments: the sample is short, without this it would be one."""
    return scorer.changed(segment=-(-num_targets // 3))


def _scorer_checks(
    scorer: ModeScorer, tokens: np.ndarray, config: VerifyConfig, child: SecondProcess
) -> Iterator[CheckResult]:
    window, num_targets = int(config_value(scorer.config, "window")), len(tokens) - 1
    if window + 2 > num_targets:
        raise ScoringError(
            f"{scorer.name}: window is {window} tokens, the sample has {num_targets} targets: raise verify.targets, or "
            "give the split more text (tokenize.val_max_bytes)"
        )
    whole = scorer.changed(segment=num_targets)  # a plan laid from the front, as that of windows is
    cut = _cut(scorer, num_targets)
    yield checks.check_scores(cut, tokens)
    at = np.linspace(2, num_targets, config.flips).astype(int).tolist()
    yield checks.check_causality(cut, tokens, at)
    cuts = np.linspace(window + 2, num_targets, config.flips).astype(int).tolist()
    yield checks.check_order(whole, tokens, cuts)
    if isinstance(whole, checks.ReplayScorer):
        yield checks.check_commits(whole, tokens[: window + 2])
    yield checks.check_coverage(cut, tokens)
    prefixes = prefixes_of(tokens, _prefix_length(scorer), window)
    few = whole.changed(sampled_rows=1)  # thousands of runs follow, and each would materialize them
    yield checks.check_row_sums(few, prefixes)
    if scorer.name == "hedge":
        yield _reported_rows(whole, tokens)
    yield checks.check_target_unread(few.memoized(), prefixes, choices=config.choices)
    variants, exact = _variants(cut, child), cut.changed(precision="fp32")
    halved = _half_the_chunk(exact)
    if exact.config == cut.config:
        variants, halved = variants | halved, {}
    yield from checks.check_same_score(cut, variants, tokens)
    if halved:
        yield from checks.check_same_score(exact, halved, tokens)
    starts = np.flatnonzero(tokens == scorer.bos_id)
    if len(starts) > 1:
        yield checks.check_documents(whole, tokens, int(starts[len(starts) // 2]))
    yield checks.check_range(whole, tokens)


def _prefix_length(scorer: ModeScorer) -> int:
    """Tokens of the shortest prefix whose last window is whole and is not the text's first where windows overlap."""
    return int(config_value(scorer.config, "window")) + int(config_value(scorer.config, "stride") or 0)


def _reported_rows(scorer: ModeScorer, tokens: np.ndarray) -> CheckResult:
    """Errors of the whole rows that the mode materializes in every run, by its own report."""
    details = scorer.run(tokens).details
    errors = {key: float(details[key]) for key in details if key.endswith(("sum_error", "row_error", "mismatches"))}
    rows = sum(int(value) for key, value in details.items() if key.endswith("sampled_rows"))
    worst = max(errors.values(), default=math.inf) if rows else math.inf
    shown = ", ".join(f"{key} {value:.2g}" for key, value in errors.items()) or "the mode reports no whole row"
    passed = bool(worst <= checks.SUM_LIMIT)
    text_line = f"{rows} whole rows: {shown}"
    return CheckResult(scorer.name, "reported_rows", passed, worst, checks.SUM_LIMIT, "probability", text_line)


def _variants(scorer: ModeScorer, child: SecondProcess) -> dict[str, tuple[checks.Scorer, float]]:
    """The scorer with other batches and streams, and shared by two real processes."""
    batch = config_value(scorer.config, "batch")
    found: dict[str, tuple[checks.Scorer, float]] = {}
    if batch is not None:
        found["batch_1"] = (scorer.changed(batch=1), 0.0)
        found["batch_5"] = (scorer.changed(batch=5), 0.0)
    if config_value(scorer.config, "streams") is not None:
        found["streams_1"] = (scorer.changed(streams=1), 0.0)
        found["streams_2"] = (scorer.changed(streams=2), 0.0)
    found["two_processes"] = (dataclasses.replace(scorer, ranks=child.join()), 0.0)
    return found


def _half_the_chunk(scorer: ModeScorer) -> dict[str, tuple[checks.Scorer, float]]:
    """The scorer with half the chunk, where it has one; in bf16 passes of other lengths round 0.02 nats apart."""
    chunk = config_value(scorer.config, "chunk")
    return {} if chunk is None else {"half_the_chunk": (scorer.changed(chunk=max(1, chunk // 2)), CHUNK_LIMIT)}


def sample_tokens(val: ValidationText, targets: int) -> np.ndarray:
    """About ``targets`` + 1 tokens: the beginnings of the first documents, BOS in front of each."""
    ends = [*val.doc_starts[1:].tolist(), len(val.tokens)]
    documents = [(int(a), int(b)) for a, b in zip(val.doc_starts, ends, strict=True) if b - a > 1]
    share, parts, expected = -(-(targets + 1) // SAMPLE_DOCUMENTS), [], targets + 1
    for start, end in documents:
        if expected <= 0:
            break
        take = min(end - start, share, expected)
        parts.append(val.tokens[start : start + take])
        expected -= take
    if expected > 0:  # short documents only
        return val.tokens[: targets + 1]
    return np.concatenate(parts)


def prefixes_of(tokens: np.ndarray, length: int, window: int) -> dict[str, np.ndarray]:
    """Two prefixes of ``length`` tokens: the text's own, and one that is in the middle of a passage's 4th repeat."""
    natural = tokens[:length]
    passage = natural[1 : 1 + max(2, min(length, window) * 2 // 9)]
    ending = np.concatenate([*[passage] * REPEATS, passage[: len(passage) // 2]])[-length:]
    return {"natural": natural, "repeated": np.concatenate([natural[: length - len(ending)], ending])}


def metrics_of(results: Sequence[CheckResult], seconds: float) -> dict[str, Any]:
    """Flat JSON: ``SCORER_CHECK_UNIT`` for each measured value (null where it is no number) and the counts."""
    flat: dict[str, Any] = {
        f"{r.scorer}_{r.name}_{r.unit}": r.value if math.isfinite(r.value) else None for r in results
    }
    verdicts = [result.verdict for result in results]
    counts = {f"verify_{verdict.lower()}_checks": verdicts.count(verdict) for verdict in ("PASS", "FAIL", "NOTE")}
    failed = {f"{r.scorer}_{r.name}_failed": r.text for r in results if r.verdict == "FAIL"}
    return {**counts, "verify_seconds": seconds, **flat, **failed}


def format_result(result: CheckResult) -> str:
    """One line: verdict, scorer, check, measured value against its limit, what was done."""
    whole = math.isfinite(result.value) and result.value == int(result.value)
    value = f"{int(result.value):,}" if whole else f"{result.value:.2e}"
    limit = "" if result.limit is None else f" (limit {result.limit:,g})"
    return f"{result.verdict:<5}{result.scorer:<11}{result.name:<26}{value} {result.unit}{limit}: {result.text}"
