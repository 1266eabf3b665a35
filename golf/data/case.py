"""Case operators: an ASCII word with capitals as its lower-case letters and marks that say which are large.

``restore_case`` undoes ``apply_case`` on every text. A *run* is a maximal stretch of ASCII letters; all else passes as
it is and ends a run. A run without capitals stays; one of two letters or more, all capital, is U+E002 and its small
letters; else U+E001 stands in front if the first letter is a capital, and U+E003 before each further capital. An
operator that is in the text gets U+E004 in front. ``caseops`` puts the first mark right before the letters;
``caseops_merged`` before a space that precedes them, where it can end the piece of the word before.

A tokenizer carries its form at the end of its model: a second SentencePiece ``normalizer_spec`` with nothing but a
name, which readers merge with the first. Source: the rules of CaseOps, openai/parameter-golf PR #1729; the mark
before a space is ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

__all__ = [
    "ESCAPED", "OPERATORS", "Case", "apply_case", "case_of", "operator_bytes", "restore_case", "tag",
    "training_options", "visible",
]  # fmt: skip

Case = Literal["none", "caseops", "caseops_merged"]
OPERATORS = TITLE, CAPITALS, NEXT, ESCAPE = "\ue001", "\ue002", "\ue003", "\ue004"
_ANY = "[\ue001-\ue004]"
ESCAPED = re.compile(f"({ESCAPE}{_ANY}|\u2581)")  # what is coded byte by byte, so that no piece can mean two things

_RUN = re.compile(f"( ?)(?<![A-Za-z])([a-z]*+[A-Z][A-Za-z]*+)|{_ANY}")
_CAPITAL = re.compile("[A-Z]")
_MARKED = re.compile(  # the operators in UTF-8: EE 80 81 to EE 80 84
    rb"\xee\x80(?:\x84(\xee\x80[\x81-\x84])|\x82( ?[a-z]++)|\x81( ?[a-z])|\x83([a-z])|[\x81-\x84])"
)


def apply_case(text: str, case: Case) -> str:
    """``text`` with operators instead of capitals, in a form that is not ``none``."""

    def marked(match: re.Match[str]) -> str:
        space, run = match[1], match[2]
        if run is None:
            return ESCAPE + match[0]
        if len(run) > 1 and run.isupper():
            mark, word = CAPITALS, run.lower()
        else:
            mark = TITLE if run[0].isupper() else ""
            word = run[0].lower() + _CAPITAL.sub(lambda letter: NEXT + letter[0].lower(), run[1:])
        return mark + space + word if case == "caseops_merged" else space + mark + word

    return _RUN.sub(marked, text)


def restore_case(data: bytes) -> bytes:
    """The text of what ``apply_case`` made in either form, both as UTF-8.

    Total: an operator that has nothing to act on (a text cut off behind it, one that a model wrote) stands for nothing.
    So a longer beginning of a text restores to a longer beginning.
    """

    def plain(match: re.Match[bytes]) -> bytes:
        return match[match.lastindex].upper() if match.lastindex else b""

    return _MARKED.sub(plain, data)


def tag(case: Case) -> bytes:
    """What the model of a tokenizer ends with; nothing for ``none``."""
    name = case.encode()
    return b"" if case == "none" else bytes([0x1A, len(name) + 2, 0x0A, len(name)]) + name


def case_of(model: bytes) -> Case:
    """The form that a SentencePiece model was trained with here; that of every other model is ``none``."""
    forms: tuple[Case, ...] = ("caseops", "caseops_merged")
    return next((case for case in forms if model.endswith(tag(case))), "none")


def training_options(case: Case) -> dict[str, Any]:
    """Options of SentencePiece's trainer: pieces of their own, or characters that may be part of a piece.

    A character is merged only with those of its script, so the second form takes no notice of scripts.
    """
    if case == "caseops":
        return {"user_defined_symbols": list(OPERATORS)}
    return {"required_chars": "".join(OPERATORS), "split_by_unicode_script": False}


def operator_bytes(pieces: Sequence[bytes]) -> list[int]:
    """Bytes of each piece that are operators: they stand for no byte of text (escaped ones are never whole pieces)."""
    return [3 * len(re.findall(rb"\xee\x80[\x81-\x84]", piece)) for piece in pieces]


def visible(piece: bytes) -> bytes:
    """A piece with its operators as arrows, for people."""
    return re.sub(rb"\xee\x80([\x81-\x84])", lambda m: "\u2191\u21d1\u219f\u238b"[m[1][0] - 0x81].encode(), piece)
