"""Known validation streams and the known ways of miscounting their bytes.

Sources: logs of merged openai/parameter-golf records (bytes per token of each tokenizer), audit threads #1719, #1804
(leading space), #1143 and #1289 (byte fallback), #2071 and #2138 (CaseOps sentinels), #897 (missing space piece).
Units: tokens are scored targets, bytes are UTF-8 bytes of the normalized validation text.
"""

from __future__ import annotations

import dataclasses

__all__ = ["FULL_SPLIT_BYTES", "MISCOUNTS", "STREAMS", "Miscount", "Stream"]

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
