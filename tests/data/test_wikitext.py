"""The wikitext cleaner on snippets of real markup."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.data.wikitext import clean_wikitext, is_article, is_redirect


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
