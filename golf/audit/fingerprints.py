"""Known validation streams and the known ways of miscounting their bytes.

Sources: logs of merged openai/parameter-golf records (bytes per token of each tokenizer), audit threads #1719, #1804
(leading space), #1143 and #1289 (byte fallback), #2071 and #2138 (CaseOps sentinels), #897 (missing space piece).
Units: tokens are scored targets, bytes are UTF-8 bytes of the normalized validation text.
"""

from __future__ import annotations

import dataclasses

__all__ = ["FULL_SPLIT_BYTES", "MISCOUNTS", "STREAMS", "Miscount", "Stream", "nearest_miscount"]

FULL_SPLIT_BYTES = 151_080_891  # all 50,000 documents, PR #1804; sp1024 drops a tail of 527 bytes: 151,080,364


@dataclasses.dataclass(frozen=True)
class Stream:
    """One tokenizer's full validation stream."""

    name: str
    tokens: int  # scored targets
    num_bytes: int  # UTF-8 bytes those targets decode to

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per scored target."""
        return self.num_bytes / self.tokens


@dataclasses.dataclass(frozen=True)
class Miscount:
    """A known fault: the byte count it reports is ``factor`` times the true one."""

    name: str
    factor: float
    evidence: str
    tolerance: float = 0.004  # relative; the factor moves a little with tokenizer and subset


STREAMS = (
    Stream("sp1024", 62_021_632, 151_080_364),
    Stream("sp4096", 45_510_000, 151_080_364),
    Stream("sp8192", 40_540_803, 151_080_891),
    Stream("caseops-sp8192", 47_851_520, 151_074_309),
)

MISCOUNTS = (
    Miscount("leading space byte counted twice, byte pieces as 6", 1.17704, "#1545 family, #1804"),
    Miscount("leading space byte counted twice", 1.16714, "#1698 family, #1719", 0.003),
    Miscount("byte-fallback pieces counted as 3 (U+FFFD)", 1.0413, "#1143, #1184, #1289"),
    Miscount("CaseOps sentinels counted as text", 1.0895, "#2071, #2138"),
    Miscount("three byte pieces per space: the tokenizer lacks the bare space piece", 1.20, "#897", 0.02),
    Miscount("older validation export (NaiveBaseline), not comparable", 1.0310, "NaiveBaseline record", 0.0015),
    Miscount("fixed 3.5 bytes per token", 3.5 / 2.4359302, "#875", 0.002),
)


def nearest_miscount(factor: float) -> Miscount | None:
    """The known fault whose factor is nearest to ``factor``, if within its tolerance."""
    best = min(MISCOUNTS, key=lambda fault: abs(fault.factor / factor - 1.0))
    return best if abs(best.factor / factor - 1.0) <= best.tolerance else None
