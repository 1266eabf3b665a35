"""The wikitext cleaner on snippets of real markup."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.data.wikitext import _heading, clean_wikitext, is_article, is_redirect, unescape


@pytest.mark.parametrize(
    ("wikitext", "prose"),
    [
        ("'''Anarchism''' is ''a'' word.", "Anarchism is a word."),
        ("See [[Cat]], [[cat|the cats]], [[:Category:Cats]] and [[Boston (town)|]].",
         "See Cat, the cats, Category:Cats and Boston."),
        ("a [[Image:x.jpg|thumb|A [[cat]] and [http://x.org a dog]]] b", "a b"),
        ("Text.\n[[Category:Cats]]\n[[fr:Chat]]\n[[zh-min-nan:Niau]]", "Text."),
        ("a{{one|{{two|[[x]]}}|b={{three}}}} b", "a b"),
        ("a {{broken b", "a broken b"),
        ("a }} b {{c}} d", "a b d"),
        ("x\n{| class=wide\n|-\n| a {{t|}}\n{|\n| inner\n|}\n|}\ny", "x\n\ny"),
        ("so {x|} is a set", "so {x|} is a set"),
        ("a<ref>no</ref> b<ref name=x/> c<ref name='y'>{{cite}}</ref>.", "a b c."),
        ("a <!-- hidden\nlines --> b <math>x^2</math> c", "a b c"),
        ("one<br/>two <b>three</b> <span style='x'>four</span>", "one\ntwo three four"),
        ("A &amp; B&nbsp;C &lt;tag&gt; &eacute;", "A & B C <tag> é"),
        ("[http://x.org the site] and [http://y.org] here", "the site and here"),
        ("* one\n# two\n: three\n;; four", "one\ntwo\nthree\nfour"),
        ("== Head ==\nText\n=== Empty ===\n== Next ==\nMore", "Head\nText\n\nNext\nMore"),
        ("Text\n== See also ==\n* [[a]]\n=== Sub ===\n* b\n== After ==\nReal", "Text\n\nAfter\nReal"),
        ("Gothic ({{lang|x}}, ) word ; next", "Gothic word; next"),
        ("p1\n\n\n\np2\n----\n__NOTOC__", "p1\n\np2"),
        ("{{only}}", ""),
    ],
)  # fmt: skip
def test_markup_becomes_what_a_reader_sees(wikitext, prose):
    assert clean_wikitext(wikitext) == prose


def test_redirects_and_other_namespaces_are_known():
    assert is_redirect("#REDIRECT [[Cat]]") and is_redirect(" #redirect[[Cat]]")
    assert not is_redirect("The word redirect")
    assert is_article("Cat") and is_article("2001: A Space Odyssey")
    for title in ("Talk:Cat", "Image:Cat.jpg", "Wikipedia:About", "User talk:Me", "Template:x", "Category:Cats"):
        assert not is_article(title)


def test_deep_and_unbalanced_nesting_is_linear():
    for text in ("{{" * 100_000, "{|\n" * 50_000, "[[" * 100_000, "<" * 100_000, "{{a}" * 50_000 + "}}" * 9):
        clean_wikitext(text)  # a quadratic cleaner would run into the test's time limit


@given(st.text(alphabet="{}[]|<>ab=' \n*#&;!-/", max_size=80))
def test_any_markup_is_cleaned_without_error_and_twice_the_same(text):
    cleaned = clean_wikitext(text)
    assert cleaned == clean_wikitext(text)
    assert "[[" not in cleaned and "\n\n\n" not in cleaned and cleaned == cleaned.strip("\n")


N = 200_000
HOSTILE = {
    "equals signs": "=" * N,
    "elements never closed": "<ref>" * N,
    "elements never ended": "<ref " * N,
    "elements closed by another name": "<ref></math>" * N,
    "closing tags never ended": "<ref>" + "</ref " * N,
    "spaces in a link": "[http:x" + " " * N,
    "spaces in many links": ("[http:x" + " " * 500) * 400,
    "spaces in a pipe trick": "[[a" + " " * N + "|]]",
    "brackets in a pipe trick": "[[" + "( " * N + "|]]",
    "templates and tables crossed": "{{" * N + "\n|}" * N,
    "tables and templates crossed": "\n{|" * N + "}}" * N,
    "tables never closed": "\n{|" * N,
    "links never closed": "[[a|" * N,
    "brackets": "(" * N,
    "bracketed commas": "( ," * N,
    "tags": "<a " * N,
    "comments": "<!--" * N,
    "quotes": "'" * N,
    "underscores": "_" * N,
    "a reference without end": "&#" + "9" * N,
    "a hexadecimal reference": "&#x" + "f" * N + ";",
    "headings": "\n= a =\n" * N,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_markup_is_cleaned_in_steps_that_grow_with_its_length(name):
    """At this length a quadratic pattern needs some half an hour (8 kB of ``=`` took 3.4 s), so the time-out tells."""
    assert len(clean_wikitext(unescape(HOSTILE[name]))) <= len(HOSTILE[name])


def test_braces_are_matched_with_steps_that_double_with_the_text():
    """Openers of one kind under closers of the other: counted in calls of the list that holds what is open."""

    def steps(count: int) -> int:
        calls = 0

        def trace(frame, event, argument):
            nonlocal calls
            calls += 1

        sys.setprofile(trace)
        try:
            clean_wikitext("{{a" * count + "\n|}" * count + "}}" * count)
        finally:
            sys.setprofile(None)
        return calls

    assert steps(4000) < 2.2 * steps(2000)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("== a ==", (2, "a")),
        (" = a == b =\t", (1, "a == b")),
        ("======== a ==", (6, "== a")),
        ("==", (1, "")),
        ("=", None),
        ("======================", (6, "")),
        ("== a", None),
        ("= =", (1, "")),
    ],
)
def test_heading_lines(line, expected):
    assert _heading(line) == expected
