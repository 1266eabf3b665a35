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

import numpy as np

__all__ = [
    "OPERATORS", "Case", "apply_case", "case_of", "operator_bytes", "options_of", "restore_case", "split_literals",
    "tag", "visible",
]  # fmt: skip

Case = Literal["none", "caseops", "caseops_merged"]
OPERATORS = TITLE, CAPITALS, NEXT, ESCAPE = "\ue001", "\ue002", "\ue003", "\ue004"
_ANY = "[\ue001-\ue004]"
_SPACE, _ESCAPED = re.compile("(\u2581)"), re.compile(f"(\u2581|{ESCAPE}{_ANY})")

_RUN = re.compile(f"( ?)(?<![A-Za-z])([a-z]*+[A-Z][A-Za-z]*+)|{_ANY}")
_OPERATOR = re.compile(rb"\xee\x80([\x81-\x84])")
_CAPITAL = re.compile("[A-Z]")
_MARKED = re.compile(  # the operators in UTF-8: EE 80 81 to EE 80 84
    rb"\xee\x80(?:\x84(\xee\x80[\x81-\x84])|\x82( ?[a-z]++)|\x81( ?[a-z])|\x83([a-z])|[\x81-\x84])"
)


def apply_case(text: str, case: Case) -> str:
    """``text`` with operators instead of capitals; as it is where the form is ``none``."""
    if case == "none":
        return text

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


def restore_case(data: bytes, case: Case) -> bytes:
    """The text of what ``apply_case`` made, both as UTF-8.

    Total: an operator that has nothing to act on (a text cut off behind it, one that a model wrote) stands for nothing.
    So a longer beginning of a text restores to a longer beginning.
    """
    if case == "none":
        return data

    def plain(match: re.Match[bytes]) -> bytes:
        return match[match.lastindex].upper() if match.lastindex else b""

    return _MARKED.sub(plain, data)


def split_literals(text: str, case: Case) -> list[str]:
    """``apply_case`` of ``text`` in parts; the last character of each second one must be coded byte by byte.

    That is U+2581, which a piece would mean as a space, and an operator behind its escape, which would count no byte.
    """
    return (_SPACE if case == "none" else _ESCAPED).split(apply_case(text, case))


def tag(case: Case) -> bytes:
    """What the model of a tokenizer ends with; nothing for ``none``."""
    name = case.encode()
    return b"" if case == "none" else bytes([0x1A, len(name) + 2, 0x0A, len(name)]) + name


def case_of(model: bytes) -> Case:
    """The form that a SentencePiece model was trained with here; that of every other model is ``none``."""
    forms: tuple[Case, ...] = ("caseops", "caseops_merged")
    return next((case for case in forms if model.endswith(tag(case))), "none")


def options_of(case: Case) -> dict[str, Any]:
    """Options of SentencePiece's trainer: pieces of their own, or characters that may be part of a piece.

    A character is merged only with those of its script, so the second form takes no notice of scripts.
    """
    if case == "none":
        return {}
    if case == "caseops":
        return {"user_defined_symbols": list(OPERATORS)}
    return {"required_chars": "".join(OPERATORS), "split_by_unicode_script": False}


def operator_bytes(pieces: Sequence[bytes], case: Case) -> np.ndarray:
    """Bytes of each piece that are operators, int16 (V,): they stand for no text (escaped ones are never pieces)."""
    sizes = [0 if case == "none" else 3 * len(_OPERATOR.findall(piece)) for piece in pieces]
    return np.array(sizes, dtype=np.int16)


def visible(piece: bytes) -> bytes:
    """A piece with its operators as arrows, for people."""
    return _OPERATOR.sub(lambda m: "\u2191\u21d1\u219f\u238b"[m[1][0] - 0x81].encode(), piece)
