"""The page of a run: whole, light, the same bytes again, and in a real browser of use with pointer, keys and reader."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf.base.errors import GolfError
from golf.report import page as page_module
from golf.report.charts import sizes
from golf.report.page import page
from golf.report.results import read_metrics
from golf.report.text_view import UNIT, TextView, pack
from metrics import write_metrics

PIECES = [b"", *(bytes([b]) for b in range(32, 127)), b"\n", b"\xc3", b"\xa9", b" the", b"</script>"]
FIRST = 1700  # tokens of the first document, more than one page


@pytest.fixture(scope="module")
def view() -> TextView:
    """Two documents; a dear passage at token 900; the mixture is known for targets 5 to 14."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, len(PIECES), 2000).astype(np.uint16)
    tokens[[0, FIRST]] = 0
    tokens[1:6] = [PIECES.index(piece) for piece in (b"a", b"\xc3", b"\xa9", b"\n", b"</script>")]
    nats = rng.exponential(2.0, 1999)
    nats[899:939] += 4.0
    ids = np.stack([tokens[1:], (tokens[1:] + 1) % len(PIECES), (tokens[1:] + 2) % len(PIECES)], axis=1)
    probs = np.tile(np.array([0.5, 0.25, 0.125], np.float32), (1999, 1))
    scorers = {"streaming": nats, "roundtrip": nats + 0.1, "hedge": np.maximum(nats - rng.exponential(1.0, 1999), 0.0)}
    return TextView(
        tokens=tokens, doc_starts=np.array([0, FIRST]), pieces=PIECES, nats=scorers,
        names={"streaming": "streaming", "roundtrip": "round trip", "hedge": "online mixture"},
        network_ids=ids.astype(np.uint16), network_probs=probs, mixture_targets=np.arange(5, 15),
        mixture_ids=ids[5:15, ::-1].astype(np.uint16), mixture_probs=probs[5:15],
    )  # fmt: skip


DOCUMENTS = (
    "document\tbytes\ttokens\tstreaming_nats\tstreaming_bits_per_byte\thedge_nats\thedge_bits_per_byte\n"
    "0\t1700\t1699\t9\t2.5\t8\t2.25\n1\t9000\t300\t9\t1.5\t8\t1.125\n2\t0\t1\t9\t\t8\t\n"
)


def make_page(folder: Path, metrics: Path, view: TextView) -> str:
    history, tensors = folder / "history.tsv", folder / "tensors.tsv"
    history.write_text("step\tloss\tlr_multiplier\tdepth\n1\t6.9\t1.0\t2\n2\t6.5\t0.5\t3\n3\t6.0\t0.0\t4\n")
    tensors.write_text("tensor\trole\tshape\tcoder\tstored_bytes\nbig<table>\tembedding\t4x4\tlinear\t900.4\n"
                       "w\tmlp\t4x4\trans\t149.6\n")  # fmt: skip
    nats = "streaming_nats_per_token\thedge_nats_per_token\thedge_bias_nats_per_token"
    (folder / "position.tsv").write_text(f"last_target\t{nats}\n10\t3\t2.9\t2.95\n20\t3\t2.8\t2.9\n")
    (folder / "orders.tsv").write_text(f"order\ttokens\t{nats}\n0\t10\t5\t5\t5.1\n4\t10\t3\t2.5\t2.6\n")
    return page(
        metrics=read_metrics(metrics), history=history, tensors=tensors, curves=folder, compressors=("zlib", "xz"),
        documents=DOCUMENTS, view=view,
    )  # fmt: skip


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    raw = gzip.decompress(data)
    (length,) = struct.unpack("<I", raw[:4])
    head, at, arrays = json.loads(raw[4 : 4 + length]), 4 + length, {}
    for name, size in head["arrays"].items():
        arrays[name], at = np.frombuffer(raw[at : at + size], np.uint8), at + size
    assert at == len(raw)
    return head, arrays


def test_the_text_is_packed_to_an_eighth_of_a_bit(view: TextView) -> None:
    head, arrays = unpacked(pack(view, tokens=2, candidates=100))
    assert [piece.encode("latin-1") for piece in head["pieces"]] == PIECES
    np.testing.assert_array_equal(arrays["token.low"] + 256 * arrays["token.high"].astype(int), view.tokens)
    base = arrays["bits.streaming"]
    for name, nats in view.nats.items():
        bits = base if name == "streaming" else base + arrays[f"bits.{name}"]
        np.testing.assert_allclose(bits / UNIT, np.minimum(nats / np.log(2), 255 / UNIT), atol=0.5 / UNIT)
    assert head["passages"] == [[5, 10]] and head["docStarts"] == [0, FIRST] and head["tokens"] == 2
    assert len(arrays["network.id1.low"]) == 100 and len(arrays["mixture.id1.low"]) == 10
    assert "network.id2.low" not in arrays
    assert set(arrays["network.p0"]) == {UNIT} and set(arrays["network.p1"]) == {2 * UNIT}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nats": {"streaming": np.ones(5), "hedge": np.ones(4)}}, "hedge: found \\(4,\\) nats"),
        ({"nats": {"streaming": np.full(1999, np.nan)}}, "streaming: found"),
        ({"network_ids": np.full((1999, 3), len(PIECES), np.uint16)}, "network: its likeliest tokens are not"),
        ({"mixture_probs": np.zeros(0)}, "mixture: its likeliest tokens are not"),
        ({"mixture_targets": np.arange(10) + 1995}, "mixture: found targets"),
        ({"nats": {"streaming": np.ones(12)}, "network_ids": np.zeros((12, 3), np.uint16),
          "network_probs": np.zeros((12, 3), np.float32)}, "none of the first 12"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(view: TextView, change: dict[str, Any], words: str) -> None:
    with pytest.raises(GolfError, match=words):
        dataclasses.replace(view, **change)


def test_what_a_byte_cannot_hold_ends_at_its_end(view: TextView) -> None:
    nats = {"streaming": np.array([0.0, 500.0]), "hedge": np.array([500.0, 0.0])}
    probs = np.array([[0.0], [1.0]], np.float32)
    small = dataclasses.replace(
        view, nats=nats, network_ids=view.network_ids[:2, :1], network_probs=probs, mixture_targets=np.arange(0),
        mixture_ids=view.mixture_ids[:0], mixture_probs=view.mixture_probs[:0],
    )  # fmt: skip
    _, arrays = unpacked(pack(small, tokens=9, candidates=9))
    assert arrays["bits.streaming"].tolist() == [0, 255]
    assert (arrays["bits.hedge"] + arrays["bits.streaming"]).tolist() == [255, 0]
    assert arrays["network.p0"].tolist() == [255, 0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, view: TextView) -> Path:
    """The page in a file."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "index.html"
    path.write_text(make_page(folder, write_metrics(folder / "metrics"), view), encoding="utf-8")
    return path


def test_the_page_is_whole_fetches_nothing_and_is_the_same_again(tmp_path: Path, view: TextView, made: Path) -> None:
    text = made.read_text(encoding="utf-8")
    assert text == make_page(tmp_path, write_metrics(tmp_path / "metrics"), view)
    assert not re.findall(r"<!--[A-Z]", text), "a place of the template is not filled"
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import|fetch\(|XMLHttpRequest|WebSocket""", text)
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # of formats: nothing is fetched there
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= names
    for cell in ("<td>2.1000</td>", "<td>1,500</td>", "big&lt;table&gt;", "<td>60.00%</td>", "whole mixture, the head"):
        assert cell in text, cell
    assert "big<table>" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "two charts must not share an id"


def test_the_areas_of_the_treemap_add_up_to_the_files() -> None:
    rows = [{"tensor": f"t{n}", "role": "mlp" if n % 2 else "control", "stored_bytes": f"{n + 0.4}"} for n in range(9)]
    tree = sizes(rows, {"decoder": 100, "tokenizer": 20}, 163)
    assert sum(row.get("bytes", 0) for row in tree) == 163
    assert (tree[-1]["name"], tree[-1]["bytes"]) == ("rounding, empty blocks", 7)
    known = {row["id"] for row in tree}
    assert all(row.get("parent", "all") in known for row in tree) and len(known) == len(tree)


def test_a_long_run_of_many_documents_stays_light() -> None:
    head, row = DOCUMENTS.splitlines()[:2]
    table = page_module._documents("\n".join([head, *[row] * 5000]))
    assert table.count("<tr>") == page_module.MAX_DOCUMENTS + 1 and "The first 1,000 of 5,000" in table
    assert "The first" not in page_module._documents(DOCUMENTS)


def test_a_page_too_large_keeps_fewer_candidates(view: TextView) -> None:
    whole = len(page_module._fitting(view, 10**9))
    kept = []
    for most in (whole, whole - 1, whole // 2, 0):
        text = page_module._fitting(view, most)
        head, arrays = unpacked(base64.b64decode(text))
        kept.append((head["tokens"], len(arrays["network.p0"])))
        assert len(text) <= most or kept[-1] == (2, len(view.network_ids) >> 4), "the least that is tried"
    assert kept[0] == (3, 1999) and kept[1][0] == 2 and kept == sorted(kept, reverse=True)


def browser_path() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip(f"no Chromium here ({', '.join(names)}): install one to test the page as people see it")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install 'golf[dev]'")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def shown(browser: Any, made: Path) -> Iterator[Any]:
    """The page, opened from its file; nothing may be asked of a network, and nothing may fail."""
    tab, faults = browser.new_page(viewport={"width": 1280, "height": 900}), []
    tab.set_default_timeout(20_000)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: message.type == "error" and faults.append(message.text))
    tab.on("request", lambda request: request.url.startswith("file:") or faults.append(request.url))
    tab.goto(made.as_uri())
    tab.wait_for_function("document.body.dataset.ready === 'yes'")
    yield tab
    assert faults == []
    tab.close()


def about(tab: Any) -> str:
    return str(tab.locator("#about").inner_text())


def test_a_token_tells_what_it_cost_and_what_was_expected(shown: Any, view: TextView) -> None:
    shown.locator("#tokens span").nth(7).hover()
    said = about(shown)
    for name, nats in view.nats.items():
        found = re.search(rf"{view.names[name]}\s+([\d.]+)\s", said)
        assert found is not None and abs(float(found[1]) - nats[6] / np.log(2)) <= 0.5 / UNIT + 0.051, (name, said)
    base, mixed = (np.rint(view.nats[name][6] / np.log(2) * UNIT) / UNIT for name in ("streaming", "hedge"))
    saved = re.search(r"The mixture saved ([\d.]+) bits here", said)
    assert saved is not None and abs(float(saved[1]) - (base - mixed)) <= 0.051 and base - mixed > 0.1
    network, mixture = said.split("The network expected")[1].split("The mixture expected")
    assert re.findall(r"[\d.]+ %", network)[:3] == ["50 %", "25 %", "13 %"]
    assert "came" in network.split("%")[0] and "came" in mixture.split("%")[2], "the order of the mixture is its own"
    shown.locator("#tokens span").nth(30).hover()
    assert "What the mixture expected was not recorded here" in about(shown)
    shown.locator("#tokens span").nth(0).hover()
    assert "is not scored" in about(shown)
    texts = shown.locator("#tokens span").all_inner_texts()
    assert texts[:2] == ["\u00b6 ", "a"] and texts[2:4] == ["\u00b7", "\u00e9"], "a character of two tokens"
    assert texts[4].startswith("\u21b5") and texts[5] == "</script>"


def test_the_text_is_walked_with_the_keys(shown: Any) -> None:
    def focused() -> int:
        return int(shown.evaluate("document.activeElement.dataset.i ?? -1"))

    shown.locator("#tokens span").nth(0).focus()
    for key, wanted in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 1499), ("ArrowRight", 1500)):
        shown.keyboard.press(key)
        assert focused() == wanted, key
        assert f"is {wanted:,} of the text" in about(shown)
    assert "document 0, page 2 of 2" in shown.locator("#where").inner_text()
    shown.keyboard.press("ArrowLeft")
    assert focused() == 1499
    shown.keyboard.press("PageDown")
    shown.keyboard.press("PageDown")
    assert focused() == FIRST and "document 1, page 1 of 1" in shown.locator("#where").inner_text()
    shown.keyboard.press("ArrowDown")
    boxes = [shown.locator(f"[data-i='{i}']").bounding_box() for i in (FIRST, focused())]
    assert boxes[1]["y"] > boxes[0]["y"] and abs(boxes[1]["x"] - boxes[0]["x"]) < 60
    shown.keyboard.press("ArrowUp")
    assert focused() == FIRST
    assert shown.locator("#tokens [tabindex='0']").count() == 1, "one stop of the tab key for the whole text"


def test_colors_follow_the_scorer_and_the_dearest_passage_is_found(shown: Any, view: TextView) -> None:
    def colors() -> list[str]:
        return [str(name) for name in shown.eval_on_selector_all("#tokens span", "all => all.map(s => s.classList[0])")]

    before, edges = colors(), [0.5, 1, 2, 3, 4, 6, 8, 12]
    bits = np.rint(view.nats["streaming"] / np.log(2) * UNIT) / UNIT
    assert before[1:] == [f"c{np.searchsorted(edges, b, side='right')}" for b in bits[:1499]]
    choice = shown.get_by_role("combobox", name="Color by")
    choice.select_option(label="online mixture")
    assert colors() != before and "online mixture" in shown.locator("#legend").inner_text()
    choice.select_option(label="what the mixture saved")
    assert all(name.startswith("g") for name in colors())
    choice.select_option(label="streaming")
    sums = np.convolve(np.concatenate([[0.0], bits]), np.ones(40), mode="valid")
    first = shown.locator("#dear button").first
    assert first.inner_text() == f"{sums.max():.0f} bits"
    first.click()
    marked = shown.eval_on_selector_all("#tokens .mark", "all => all.map(s => Number(s.dataset.i))")
    assert marked == list(range(int(sums.argmax()), int(sums.argmax()) + 40))
    assert shown.evaluate("Number(document.activeElement.dataset.i)") == int(sums.argmax())
    shown.locator("#mixed button").first.click()
    assert "The mixture expected" in about(shown)


def test_tables_sort_and_open_documents(shown: Any) -> None:
    table = shown.locator("#documents table")

    def order() -> list[str]:
        return [str(text) for text in table.locator("tbody td:first-child").all_inner_texts()]

    assert order() == ["0", "1", "2"]
    for name, wanted, says in (("bytes", ["1", "0", "2"], "descending"), ("bytes", ["2", "0", "1"], "ascending"),
                               ("streaming", ["0", "1", "2"], "descending")):  # fmt: skip
        table.get_by_role("button", name=name, exact=True).click()
        assert order() == wanted
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == says
        assert table.locator("th[aria-sort]").count() == 1
    table.get_by_role("link", name="1", exact=True).click()
    assert "document 1, page 1 of 1" in shown.locator("#where").inner_text()


def test_everything_has_a_name_for_those_who_do_not_see_it(shown: Any) -> None:
    for role, name in (("combobox", "Color by"), ("combobox", "Document"), ("button", "Next page"),
                       ("navigation", "Parts of this page"), ("region", "Where the bits go"), ("region", "Documents"),
                       ("complementary", "The chosen token"), ("group", "Tokens of the text")):  # fmt: skip
        assert shown.get_by_role(role, name=name).count() == 1, (role, name)
    assert shown.locator("#about").get_attribute("aria-live") == "polite"
    unnamed = "all => all.filter(e => !(e.textContent.trim() || e.getAttribute('aria-label'))).length"
    assert shown.eval_on_selector_all("button, a, th", unnamed) == 0
    box = shown.locator("#bytes [aria-label*='big<table>']")
    assert box.get_attribute("aria-label") == "big<table>, embedding: 900 bytes"
    box.hover()
    assert shown.locator("#tip").inner_text() == "big<table>, embedding: 900 bytes"
