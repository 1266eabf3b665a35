"""Audit of other people's results from their logs alone: bytes, size, seeds, phases.

A log that states both a loss (nats per token) and a score (bits per byte) states, without meaning to, how many bytes
per token it divided by: ``loss / (ln 2 * bpb)``. Compared with the stream's true figure this catches the largest
family of invalid results in the field without a GPU: over all merged records the figures of one stream lie within
0.007 % of each other.

FAIL is an accusation, so it needs a figure that no sound run has and that one known fault explains. What nothing
explains is UNKNOWN, with what would settle it; a corrected score is given only for the run's own stream.

Sources of the known streams and miscounts: logs of merged openai/parameter-golf records (bytes per token of each
tokenizer), audit threads #1719, #1804 (leading space), #1143 and #1289 (byte fallback), #2071 and #2138 (CaseOps
sentinels), #897 (missing space piece). Units: tokens are scored targets, bytes are UTF-8 bytes of the normalized
validation text.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from golf.audit.read import Run
from golf.base.score import bits_per_byte

__all__ = ["FULL_SPLIT_BYTES", "Finding", "MISCOUNTS", "Miscount", "STREAMS", "Stream", "audit_run", "audit_seeds"]

FULL_SPLIT_BYTES = 151_080_891  # all 50,000 documents, PR #1804; sp1024 drops a tail of 527 bytes: 151,080,364


@dataclasses.dataclass(frozen=True)
class Stream:
    """One tokenizer's full validation stream."""

    name: str
    tokens: int  # scored targets
    num_bytes: int  # UTF-8 bytes those targets decode to
    note: str = ""  # what a reader of its scores must know

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per scored target."""
        return self.num_bytes / self.tokens


@dataclasses.dataclass(frozen=True)
class Miscount:
    """A known fault: the byte count it reports is ``factor`` times the true one, or ``fixed`` bytes for any token."""

    name: str
    factor: float
    evidence: str
    streams: tuple[str, ...]  # where it was seen; elsewhere it is looked for only when the stream is known
    tolerance: float = 0.004  # relative; the factor moves a little with tokenizer and subset
    fixed: float = 0.0

    def bytes_per_token(self, stream: Stream) -> float:
        """The figure that ``stream`` shows with this fault."""
        return self.fixed or self.factor * stream.bytes_per_token


STREAMS = (
    Stream("sp1024", 62_021_632, 151_080_364),
    Stream("sp4096", 45_510_000, 151_080_364),
    Stream("sp8192", 40_540_803, 151_080_891),
    Stream("caseops-sp8192", 47_851_520, 151_074_309),
    Stream("byte260", 151_130_891, 151_080_891),  # a token for each byte and for the start of each document
    Stream("bytes", 151_080_891, 151_080_891),
    Stream(
        "sp1024-first-export", 63_779_840, 155_769_747,
        "; its scores compare with NaiveBaseline's only, later runs use another validation text",
    ),
)  # fmt: skip

MISCOUNTS = (
    Miscount("leading space byte counted twice, byte pieces as 6", 1.17704, "#1545 family, #1804", ("sp8192",)),
    Miscount("leading space byte counted twice", 1.16714, "#1698 family, #1719", ("sp8192",), 0.003),
    Miscount("byte-fallback pieces counted as 3 (U+FFFD)", 1.0413, "#1143, #1184, #1289", ("sp1024",)),
    Miscount("CaseOps sentinels counted as text", 1.0895, "#2071, #2138", ("caseops-sp8192",)),
    Miscount("three byte pieces per space: the tokenizer lacks the bare space piece", 1.20, "#897", (), 0.01),
    Miscount("fixed 3.5 bytes per token", 0.0, "#875", ("sp1024",), 0.0, fixed=3.5),
)


LIMIT_BYTES = 16_000_000
TOLERANCE = 2e-4  # relative, beyond the digits printed: means over seeds, tails dropped, tokenizers trained again
FAULT_TOLERANCE = 5e-4  # of a fault's figure where the run does not say which stream it is of
COARSE = 0.01  # digits that leave more than this open tell no stream from a fault
TAIL_TOKENS = 1 << 16  # scripts score whole windows and drop the rest


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the verdict."""

    check: str  # bytes | size | floor | phases | tokens | seeds | spread
    verdict: str  # PASS | FAIL | UNKNOWN
    text: str


def audit_run(run: Run, *, stream: Stream | None = None) -> list[Finding]:
    """All single-run checks. ``stream`` names the tokenizer; without it the run's own words or its figure do."""
    counted = _bytes(run, stream)
    return [counted, *_tokens(run, stream), _size(run), *_floor(run, counted), *_phases(run)]


def _bytes(run: Run, stated: Stream | None) -> Finding:
    if run.loss is None or run.bpb is None:
        return Finding("bytes", "UNKNOWN", "the file states no loss beside its bits per byte")
    figure, own = run.loss / math.log(2.0) / run.bpb, stated or _own_stream(run)
    if run.rounding > COARSE:
        low, high = figure * (1 - run.rounding), figure * (1 + run.rounding)
        text = (
            f"{low:.4g} to {high:.4g} bytes per token by the digits printed: the same line with more digits settles it"
        )
        return Finding("bytes", "UNKNOWN", text)
    near = [stream for stream in STREAMS if _close(figure, stream.bytes_per_token, TOLERANCE + run.rounding)]
    if near and (own is None or own in near):
        stream = own or min(near, key=lambda one: abs(figure / one.bytes_per_token - 1))
        return Finding(
            "bytes", "PASS", f"{figure:.4f} bytes per token is the true figure of {stream.name}{stream.note}"
        )
    if own is None and run.tokens:
        return _of_own_tokenizer(run, figure, run.tokens)
    faults = _faults(figure, own, run.rounding) if not near else []
    if len(faults) == 1:
        return Finding("bytes", "FAIL", _miscounted(run.loss, figure, *faults[0], own=own))
    text = f"{figure:.4f} bytes per token"
    if own is not None:
        text += f", {own.name} has {own.bytes_per_token:.4f} (x {figure / own.bytes_per_token:.4f})"
    if near:
        return Finding("bytes", "UNKNOWN", f"{text}; it is the figure of {near[0].name}: say which of them was scored")
    known = "; ".join(f"{stream.name} with {fault.name}" for stream, fault in faults) or "no known stream or fault"
    settled = "the number of scored targets and the UTF-8 bytes of the text they decode to settle it"
    return Finding("bytes", "UNKNOWN", f"{text}: {known}; {settled}")


def _close(figure: float, other: float, tolerance: float) -> bool:
    return abs(figure / other - 1.0) <= tolerance


def _own_stream(run: Run) -> Stream | None:
    """The stream the run says it is of, by its number of targets or the name of its data set."""
    if run.tokens is not None:
        near = [s for s in STREAMS if 0 <= s.tokens - run.tokens <= TAIL_TOKENS]
        return min(near, key=lambda s: s.tokens, default=None)
    name = "caseops-sp8192" if "caseops" in run.dataset.lower() else run.dataset.lower()
    return next((s for s in STREAMS if s.name == name), None)


def _of_own_tokenizer(run: Run, figure: float, tokens: int) -> Finding:
    """A tokenizer we know nothing of, with its number of targets: all of them must make the validation text."""
    assert run.loss is not None
    share = figure * tokens / FULL_SPLIT_BYTES
    text = f"{figure:.4f} bytes for each of {tokens:,} targets"
    if -TAIL_TOKENS / tokens <= share - 1 + TOLERANCE + run.rounding and share - 1 <= TOLERANCE + run.rounding:
        return Finding("bytes", "PASS", f"{text} is the whole validation text, whatever the tokenizer")
    faults = [f for f in MISCOUNTS if f.factor and _close(share, f.factor, f.tolerance + run.rounding)]
    text += f" is {share:.4f} of the {FULL_SPLIT_BYTES:,} bytes of the validation text"
    if len(faults) == 1:
        corrected = bits_per_byte(run.loss * tokens, FULL_SPLIT_BYTES)
        text += f": {faults[0].name} [{faults[0].evidence}]; canonical score {corrected:.4f}"
        return Finding("bytes", "FAIL", text)
    return Finding("bytes", "UNKNOWN", f"{text}; the UTF-8 bytes of the text that was scored settle it")


def _faults(figure: float, own: Stream | None, rounding: float) -> list[tuple[Stream, Miscount]]:
    """Every fault of ``own``, or else of a stream where it was seen, that has this figure."""
    pairs = [(stream, fault) for fault in MISCOUNTS for stream in STREAMS
             if (stream == own if own else stream.name in fault.streams)]  # fmt: skip
    found = []
    for stream, fault in pairs:
        tolerance = fault.tolerance if own else min(fault.tolerance, FAULT_TOLERANCE)
        if _close(figure, fault.bytes_per_token(stream), tolerance + rounding):
            found.append((stream, fault))
    return found


def _miscounted(loss: float, figure: float, stream: Stream, fault: Miscount, *, own: Stream | None) -> str:
    ratio = figure / stream.bytes_per_token
    text = f"{figure:.4f} bytes per token, {stream.name} has {stream.bytes_per_token:.4f} (x {ratio:.4f})"
    if own is None:
        return f"{text}: {fault.name} [{fault.evidence}]; --tokenizer {stream.name} gives the corrected score"
    corrected = bits_per_byte(loss * stream.tokens, stream.num_bytes)
    return f"{text}: {fault.name} [{fault.evidence}]; canonical score {corrected:.4f}"


def _tokens(run: Run, stream: Stream | None) -> list[Finding]:
    if run.tokens is None or stream is None:
        return []
    share, own = run.tokens / stream.tokens, _own_stream(run)
    if 0 <= stream.tokens - run.tokens <= TAIL_TOKENS:
        return [Finding("tokens", "PASS", f"{run.tokens:,} targets: the whole {stream.name} stream")]
    text = f"{run.tokens:,} targets, {share:.1%} of the {stream.tokens:,} of {stream.name}"
    if own is not None:
        return [Finding("tokens", "UNKNOWN", f"{text}: the number of {own.name}; say which of them was scored")]
    return [Finding("tokens", "FAIL" if share < 1 else "UNKNOWN", text)]


def _size(run: Run) -> Finding:
    if run.total_bytes is None:
        return Finding("size", "UNKNOWN", "the file states no total size")
    over = run.total_bytes - LIMIT_BYTES
    if over <= 0:
        return Finding("size", "PASS", f"{run.total_bytes:,} bytes, {-over:,} under the cap")
    mib = f" (reads {run.total_bytes / 2**20:.2f} MiB: the cap is decimal)" if run.total_bytes <= 2**24 else ""
    text = f"{run.total_bytes:,} bytes, {over:,} over the cap of {LIMIT_BYTES:,}{mib}"
    if run.code_bytes is not None and over < run.code_bytes:
        room = run.code_bytes - over
        text += f"; {run.code_bytes:,} of them are source as it is, which packed into {room:,} would fit"
        return Finding("size", "UNKNOWN", f"{text}: the size of the code as shipped settles it")
    return Finding("size", "FAIL", text)


def _floor(run: Run, counted: Finding) -> list[Finding]:
    if run.bpb is None or run.bpb >= 1.0:
        return []
    text = f"{run.bpb:.4f} is below any valid score known at 16 MB (1.056)"
    if counted.verdict == "PASS":
        return [Finding("floor", "FAIL", f"{text}: suspect a peek or no distribution")]
    return [Finding("floor", "UNKNOWN", f"{text} on the challenge's validation text: say which text was scored")]


def _phases(run: Run) -> list[Finding]:
    found = []
    iterations, warmdown = run.settings.get("iterations"), run.settings.get("warmdown_iters")
    if iterations and warmdown and run.steps and run.steps < iterations - warmdown:
        text = f"warmdown was to start at step {iterations - warmdown:.0f}, the run ended at {run.steps}"
        if run.settings.get("max_wallclock_seconds"):
            text += ": it never fired if it is counted in steps; the last multipliers of the learning rate settle it"
            found.append(Finding("phases", "UNKNOWN", text))
        else:
            found.append(Finding("phases", "FAIL", f"{text}: it never fired"))
    for phase, keys in (("swa", ("swa_enabled",)), ("qat", ("late_qat", "qat_enabled"))):
        if any(run.settings.get(key) for key in keys) and phase not in run.fired:
            found.append(Finding("phases", "FAIL", f"{phase} is configured, the log shows no start of it"))
    return found


def audit_seeds(runs: Sequence[Run], *, claimed_std: float | None = None) -> list[Finding]:
    """Checks over several seeds of one configuration: distinct seeds, n >= 3, the n-1 standard deviation.

    Copies of one log (same seed, same score) count once, and files that name no seed (means) only among themselves.
    """
    seeded = [run for run in runs if run.seed is not None]
    distinct = {(run.seed, run.path if run.seed is None else "", run.loss, run.bpb): run for run in seeded or runs}
    scores = [run.bpb for run in distinct.values() if run.bpb is not None]
    if len(scores) < 2:
        return [Finding("seeds", "UNKNOWN", "one score: nothing can be said of its spread")]
    seeds = [run.seed for run in distinct.values() if run.seed is not None]
    again = len(seeds) - len(set(seeds))
    if len(scores) - again >= 3:
        repeated = f", {again} of them of a seed seen before" if again else ""
        found = [Finding("seeds", "PASS", f"{len(scores)} scores{repeated}")]
    elif again:
        text = f"seeds {seeds} repeat, the rule asks for 3"  # of one script, or of several: the figures do not tell
        found = [Finding("seeds", "UNKNOWN" if claimed_std is None else "FAIL", text)]
    else:
        found = [
            Finding("seeds", "UNKNOWN", f"{len(scores)} seeds, the rule asks for 3: the log of a third settles it")
        ]
    sample, population = statistics.stdev(scores), statistics.pstdev(scores)
    text = f"mean {statistics.fmean(scores):.5f}, standard deviation {sample:.5f} (n-1)"
    if claimed_std is not None and abs(claimed_std - sample) > 0.02 * sample:
        why = "the population formula (n)" if abs(claimed_std - population) <= 0.02 * population else "neither formula"
        return [*found, Finding("spread", "FAIL", f"{text}; claimed {claimed_std:.5f} is {why}")]
    return [*found, Finding("spread", "PASS", text)]
