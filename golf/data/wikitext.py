"""MediaWiki markup to prose, with the standard library.

Own cleaner, no parser: markup that has no place in running text (templates, tables, references, images, formulas,
link lists at the end) is removed, the rest is unwrapped to what a reader sees. It is a lossy view of the page;
what matters is that it is deterministic and linear in the length of the page, whatever the page holds: no pattern here
can match one stretch of text in two ways, and no search for a closing mark is made twice in vain.
"""

from __future__ import annotations

import html
import re

__all__ = ["clean_wikitext", "is_article", "is_redirect", "unescape"]

_NAMESPACES = (
    "category file help image media mediawiki portal special talk template user wikipedia wp "
    "category_talk help_talk image_talk mediawiki_talk portal_talk template_talk user_talk wikipedia_talk"
)
_NAMESPACE_SET = frozenset(_NAMESPACES.replace("_", " ").split(" ")) | {
    f"{name} talk" for name in _NAMESPACES.split(" ")
}
# Links to these are page furniture, not words of the sentence; a two- or three-letter prefix is another language.
_DROPPED_LINKS = frozenset({"category", "file", "image", "media", "template", "simple", "wikisource", "wikispecies"})
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z-]+)?")
_NOT_LANGUAGE = frozenset({"wp", "mr", "dr", "st", "ii", "iii"})
_LIST_SECTIONS = frozenset(
    ["external link", "external links", "external references", "links", "web links", "related articles"]
    + ["see also", "related topics", "further reading", "literature", "bibliography", "sources"]
    + ["reference", "references", "notes", "footnotes", "notes and references"]
)

_REDIRECT = re.compile(r"\s*#\s*redirect", re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_ELEMENT = re.compile(
    r"<(math|ref|gallery|timeline|pre|code|imagemap|hiero|score|source|table|references)\b(?:[^<>/]|/(?!>))*+/?>",
    re.IGNORECASE,
)
_BRACES = re.compile(r"\{\{|\}\}|\{\||\|\}(?!\})")
_EXTERNAL = re.compile(r"\[(?:https?|ftp|news|irc|mailto|gopher):[^\s\[\]]*(?:[ \t]++([^\[\]\n]*))?\]", re.IGNORECASE)
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_QUOTES = re.compile(r"'{2,5}")
_BREAK = re.compile(r"<(?:br|hr|p|/p|/?div|/?center|/?blockquote|/?li)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_MAGIC = re.compile(r"__[A-Z]{3,}__")
_MARKERS = ("*", "#", ":", ";")
_MARKER = re.compile(r"[*#:;]+[ \t]*")
_SPACES = re.compile(r"  +")
_LONG_REFERENCE = re.compile(r"&#[xX]?[0-9a-fA-F]{1000,};?")  # no character has a number of that length
_BRACKETED_END = re.compile(r"\([^()]*\)$")
_EMPTY_BRACKETS = re.compile(r"\((?:[ ,;:]|or|also|pronounced)*\)")
_SPACE_BEFORE = re.compile(r" (?:(?=\n)|([,.;:!?)])(?=[ \n]|$))")


def is_redirect(wikitext: str) -> bool:
    """Whether the page only points to another one."""
    return _REDIRECT.match(wikitext) is not None


def is_article(title: str) -> bool:
    """Whether a title belongs to the article namespace (no ``Talk:``, ``Image:``, ``Wikipedia:`` …)."""
    prefix, colon, _ = title.partition(":")
    return not colon or prefix.strip().lower() not in _NAMESPACE_SET


def unescape(text: str) -> str:
    """Characters for their XML and HTML references; one with a number of a thousand digits becomes U+FFFD."""
    return html.unescape(_LONG_REFERENCE.sub("\ufffd", text))


def clean_wikitext(wikitext: str) -> str:
    """The prose of a page: paragraphs and headings, one blank line between paragraphs, no markup.

    ``wikitext`` is the page source after XML unescaping. The result ends without a newline and may be empty.
    """
    text = _COMMENT.sub("", wikitext.replace("\r\n", "\n"))
    text = _drop_elements(text)
    text = _drop_braces(text)
    text = _EXTERNAL.sub(lambda match: match[1] or "", text)
    for _ in range(4):  # innermost first: an image caption may hold links
        text, count = _LINK.subn(_link_text, text)
        if not count:
            break
    text = _QUOTES.sub("", text)
    text = _TAG.sub("", _BREAK.sub("\n", text))
    # What is unescaped here was text to the wiki, so a "<" that appears now is no tag.
    text = unescape(_MAGIC.sub("", text).replace("[[", "").replace("]]", ""))
    text = text.replace("\u00a0", " ").replace("\t", " ").replace("\r", "")
    # Removed templates leave "( , )" and spaces before punctuation behind.
    text = _SPACES.sub(" ", _EMPTY_BRACKETS.sub("", text))
    return _join_lines(_SPACE_BEFORE.sub(r"\1", text).split("\n"))


def _drop_elements(text: str) -> str:
    """Remove ``<ref ... />`` and ``<ref ...> ... </ref>`` and the like; an element never closed stays."""
    pieces, position = [], 0
    unclosed: set[str] = set()  # names whose closing tag does not come again
    while match := _ELEMENT.search(text, position):
        name, end = match[1].lower(), match.end()
        if not match[0].endswith("/>"):
            closing = None if name in unclosed else re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, end)
            if closing is None:
                unclosed.add(name)
                pieces.append(text[position:end])
                position = end
                continue
            end = closing.end()
        pieces.append(text[position : match.start()])
        position = end
    return "".join(pieces) + text[position:]


def _drop_braces(text: str) -> str:
    """Remove balanced ``{{templates}}`` and ``{| tables |}``, nested in any way; stray braces lose only themselves."""
    open_at: dict[str, list[int]] = {"{{": [], "{|": []}  # where the openers still open stand, by kind
    cuts: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text):
        mark = match[0]
        if mark in ("{|", "|}") and not _begins_line(text, match.start()):
            continue  # "{{name|}}" and set notation hold these two characters as well
        if mark in open_at:
            open_at[mark].append(match.start())
            continue
        opener, other = ("{{", "{|") if mark == "}}" else ("{|", "{{")
        if not open_at[opener]:
            cuts.append(match.span())
            continue
        start = open_at[opener].pop()
        while open_at[other] and open_at[other][-1] > start:
            open_at[other].pop()
        while cuts and cuts[-1][0] >= start:
            cuts.pop()
        cuts.append((start, match.end()))
    # An opener that is never closed hides nothing but itself.
    pieces, position = [], 0
    for start, end in cuts:
        pieces.append(text[position:start])
        position = end
    pieces.append(text[position:])
    return "".join(pieces).replace("{{", "").replace("{|", "")


def _begins_line(text: str, position: int) -> bool:
    before = text[max(0, position - 8) : position].rpartition("\n")
    return not before[2].strip(" \t:*#") and (bool(before[1]) or position <= 8)


def _link_text(match: re.Match[str]) -> str:
    target, pipe, label = match[1].partition("|")
    shown = target.lstrip()
    if not shown.startswith(":"):
        prefix, colon, _ = shown.partition(":")
        prefix = prefix.strip().lower()
        if colon and (prefix in _DROPPED_LINKS or (_LANGUAGE.fullmatch(prefix) and prefix not in _NOT_LANGUAGE)):
            return ""
    else:
        target = shown[1:]
    if not pipe:
        return target
    if label.strip():
        return label
    shown = target.rpartition(":")[2]  # the "pipe trick" hides the namespace and what is in brackets at the end
    if bracketed := _BRACKETED_END.search(shown):
        return shown[: bracketed.start()].rstrip() + shown[bracketed.end() :]
    return shown


def _heading(line: str) -> tuple[int, str] | None:
    """Level and title of a line ``== title ==``, else None; signs beyond those of the level belong to the title."""
    line = line.strip(" \t")
    if len(line) < 2 or not (line.startswith("=") and line.endswith("=")):
        return None
    signs = len(line) - len(line.lstrip("="))
    if signs == len(line):  # nothing but signs: one of them must close
        return min(6, signs - 1), ""
    level = min(6, signs)
    return level, line[level:].rstrip("=").strip()


def _join_lines(lines: list[str]) -> str:
    out: list[str] = []
    headings: list[tuple[int, str]] = []  # headings wait until a line of text follows
    skip_level = 0  # inside a list section of this heading level
    for raw in lines:
        if (heading := _heading(raw)) is not None:
            level, title = heading
            if skip_level and level > skip_level:
                continue
            skip_level = level if title.lower().rstrip(":") in _LIST_SECTIONS else 0
            headings = [item for item in headings if item[0] < level]
            if not skip_level and title:
                headings.append((level, title))
            continue
        if skip_level:
            continue
        line = raw.strip()
        if line[:1] in _MARKERS:
            line = _MARKER.sub("", line, count=1)
        if not line or line[0] in "|!{}" or line.startswith("----"):
            if out and out[-1]:
                out.append("")
            continue
        for _, title in headings:
            if out and out[-1]:
                out.append("")
            out.append(title)
        headings = []
        out.append(line)
    return "\n".join(out).strip("\n")
