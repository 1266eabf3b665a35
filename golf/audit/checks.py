"""Audit of other people's results from their logs alone: bytes, size, seeds, phases.

A log that states both a loss (nats per token) and a score (bits per byte) states, without meaning to, how many bytes
per token it divided by: ``loss / (ln 2 * bpb)``. Compared with the stream's true figure this catches the largest
family of invalid results in the field without a GPU (design facts: implied bytes of every merged record lie within
0.007 % of each other).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from golf.audit.fingerprints import STREAMS, Stream, nearest_miscount
from golf.audit.read import Run
from golf.base.score import bits_per_byte

__all__ = ["Finding", "audit_run", "audit_seeds"]

LIMIT_BYTES = 16_000_000
TOLERANCE = 2e-4  # relative spread of implied bytes over all merged records is 7e-5


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the verdict."""

    check: str  # bytes | size | floor | phases | tokens | seeds | spread
    verdict: str  # PASS | FAIL | UNKNOWN
    text: str


def audit_run(run: Run, *, stream: Stream | None = None) -> list[Finding]:
    """All single-run checks. ``stream`` names the tokenizer; without it the nearest known stream is meant."""
    return [*_bytes(run, stream), *_tokens(run, stream), _size(run), *_floor(run), *_phases(run)]


def _bytes(run: Run, stream: Stream | None) -> list[Finding]:
    if run.loss is None or run.bpb is None or run.bpb <= 0:
        return [Finding("bytes", "UNKNOWN", "the file states no loss beside its bits per byte")]
    implied = run.loss / (math.log(2.0) * run.bpb)
    known = [stream] if stream else sorted(STREAMS, key=lambda s: abs(math.log(s.bytes_per_token / implied)))
    for candidate in known:
        if abs(implied / candidate.bytes_per_token - 1.0) <= TOLERANCE:
            return [Finding("bytes", "PASS", f"{implied:.4f} bytes per token is the true figure of {candidate.name}")]
    for candidate in known:
        fault = nearest_miscount(implied / candidate.bytes_per_token)
        if fault is not None:
            return [Finding("bytes", "FAIL", _miscounted(run.loss, implied, candidate, fault.name, fault.evidence))]
    nearest = known[0]
    cause = "no known stream or fault has this figure; state the tokenizer and the text"
    return [Finding("bytes", "FAIL", _miscounted(run.loss, implied, nearest, cause, "unexplained"))]


def _miscounted(loss: float, implied: float, stream: Stream, cause: str, evidence: str) -> str:
    corrected = bits_per_byte(loss * stream.tokens, stream.num_bytes)
    return (
        f"{implied:.4f} bytes per token, {stream.name} has {stream.bytes_per_token:.4f} "
        f"(x {implied / stream.bytes_per_token:.4f}): {cause} [{evidence}]; canonical score {corrected:.4f}"
    )


def _tokens(run: Run, stream: Stream | None) -> list[Finding]:
    if run.tokens is None or stream is None:
        return []
    share = run.tokens / stream.tokens
    if abs(share - 1.0) <= 1e-4:  # up to one window of tail is commonly dropped
        return [Finding("tokens", "PASS", f"{run.tokens:,} targets: the whole {stream.name} stream")]
    return [Finding("tokens", "FAIL", f"{run.tokens:,} targets, {share:.1%} of the {stream.tokens:,} of {stream.name}")]


def _size(run: Run) -> Finding:
    if run.total_bytes is None:
        return Finding("size", "UNKNOWN", "the file states no total size")
    over = run.total_bytes - LIMIT_BYTES
    if over <= 0:
        return Finding("size", "PASS", f"{run.total_bytes:,} bytes, {-over:,} under the cap")
    mib = f" (reads {run.total_bytes / 2**20:.2f} MiB: the cap is decimal)" if run.total_bytes <= 2**24 else ""
    return Finding("size", "FAIL", f"{run.total_bytes:,} bytes, {over:,} over the cap of {LIMIT_BYTES:,}{mib}")


def _floor(run: Run) -> list[Finding]:
    if run.bpb is not None and run.bpb < 1.0:
        text = f"{run.bpb:.4f} is below any valid score known at 16 MB (1.056): suspect a peek or no distribution"
        return [Finding("floor", "FAIL", text)]
    return []


def _phases(run: Run) -> list[Finding]:
    found = []
    iterations, warmdown = run.settings.get("iterations"), run.settings.get("warmdown_iters")
    if iterations and warmdown and run.steps:
        start = iterations - warmdown
        if run.steps < start:
            text = f"warmdown was to start at step {start:.0f}, the run ended at {run.steps}: it never fired"
            found.append(Finding("phases", "FAIL", text))
    for phase, keys in (("swa", ("swa_enabled",)), ("qat", ("late_qat", "qat_enabled"))):
        if any(run.settings.get(key) for key in keys) and phase not in run.fired:
            found.append(Finding("phases", "FAIL", f"{phase} is configured, the log shows no start of it"))
    return found


def audit_seeds(runs: Sequence[Run], *, claimed_std: float | None = None) -> list[Finding]:
    """Checks over several seeds of one configuration: distinct seeds, n >= 3, the n-1 standard deviation."""
    scores = [run.bpb for run in runs if run.bpb is not None]
    if len(scores) < 2:
        return [Finding("seeds", "UNKNOWN", "one score: nothing can be said of its spread")]
    seeds = [run.seed for run in runs if run.seed is not None]
    found = []
    if len(set(seeds)) < len(seeds):
        found.append(Finding("seeds", "FAIL", f"seeds {seeds} repeat"))
    elif len(scores) < 3:
        found.append(Finding("seeds", "FAIL", f"{len(scores)} seeds, the rule asks for 3"))
    else:
        found.append(Finding("seeds", "PASS", f"{len(scores)} scores"))
    sample, population = statistics.stdev(scores), statistics.pstdev(scores)
    text = f"mean {statistics.fmean(scores):.5f}, standard deviation {sample:.5f} (n-1)"
    if claimed_std is not None and abs(claimed_std - sample) > 0.02 * sample:
        why = "the population formula (n)" if abs(claimed_std - population) <= 0.02 * population else "neither formula"
        return [*found, Finding("spread", "FAIL", f"{text}; claimed {claimed_std:.5f} is {why}")]
    return [*found, Finding("spread", "PASS", text)]
