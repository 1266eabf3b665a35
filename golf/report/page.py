"""The page of a run, ``reports/index.html``: one file with its tables, charts and text; nothing is fetched.

The figures are those of the results table and of the tables that stages wrote; nothing is measured here.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from golf.report.charts import Chart, draw, gains, lines, parts, sizes, treemap
from golf.report.plots import read_table
from golf.report.results import PARTS, Metrics, results_markdown
from golf.report.text_view import TextView, pack

__all__ = ["MAX_PAGE_BYTES", "page"]

MAX_PAGE_BYTES = 1_950_000
MAX_DOCUMENTS = 1000
MAX_STEPS = 1000  # drawn
_ASSETS = Path(__file__).parent / "assets"
_FILE_PARTS = {  # of the metrics of compress: what is no tensor in the files
    "section_tokenizer_bytes": "tokenizer",
    "section_index_bytes": "names, shapes, configuration",
    "section_prefix_bytes": "magic, lengths, SHA-256",
    "decoder_bytes": "decoder",
}


def page(
    *, metrics: Metrics, history: Path, tensors: Path, curves: Path, compressors: tuple[str, ...], documents: str,
    view: TextView,
) -> str:  # fmt: skip
    """The HTML of the page. ``history``, ``tensors`` and the folder ``curves`` are tables of the stages, ``documents``
    the table of all documents (TSV), ``view`` the scored text.

    Of the likeliest tokens as many are kept as fit ``MAX_PAGE_BYTES``. Raises ``FileError`` for a damaged table.
    """
    table = read_table(tensors, made_by="stage compress", words=("tensor", "role", "shape", "coder"))
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    total = metrics.compress["total_bytes"]
    tree = sizes(rows, {name: metrics.compress[key] for key, name in _FILE_PARTS.items()}, total)
    charts = [*_curves(metrics, history, curves), Chart("bytes", "", "", treemap(tree))]
    *figures, map_svg = draw(charts)
    filled = {
        "STYLE": (_ASSETS / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": (_ASSETS / "page.js").read_text(encoding="utf-8"),
        "RESULTS": _from_markdown(results_markdown(metrics, compressors=compressors)),
        "CURVES": "\n".join(_figure(chart, svg) for chart, svg in zip(charts, figures, strict=False)),
        "TREEMAP": map_svg,
        "TOTAL": f"{total:,}",
        "TENSORS": _tensors(tree, total),
        "DOCUMENTS": _documents(documents),
        "SHOWN": _shown(view),
    }
    text = (_ASSETS / "page.html").read_text(encoding="utf-8")
    whole = re.sub(r"<!--([A-Z]+)-->", lambda match: filled.get(match[1], match[0]), text)
    return whole.replace("<!--DATA-->", _fitting(view, MAX_PAGE_BYTES - len(whole.encode())))


def _fitting(view: TextView, most: int) -> str:
    """Base64 of the packed view: with all likeliest tokens, or as many as fit ``most`` bytes."""
    targets = len(view.network_ids)
    tries = [(tokens, targets) for tokens in range(view.network_ids.shape[1], 1, -1)]
    tries += [(2, targets >> halved) for halved in range(1, 5)]
    for tokens, candidates in tries:
        data = base64.b64encode(pack(view, tokens=tokens, candidates=candidates)).decode()
        if len(data) <= most:
            break
    return data


def _curves(metrics: Metrics, history: Path, curves: Path) -> list[Chart]:
    steps = read_table(history, made_by="stage train")
    made_by = "stage hedge"
    position, orders = (read_table(curves / f"{name}.tsv", made_by=made_by) for name in ("position", "orders"))
    training = [
        {"step": float(step), "loss (nats per token)": float(loss), "multiplier": float(rate)}
        for step, loss, rate in zip(steps["step"], steps["loss"], steps["lr_multiplier"], strict=True)
    ]
    score = metrics.scores["hedge"]
    by_part = [{"scorer": "streaming", "bits per byte": metrics.scores["streaming"]["streaming_bits_per_byte"]}]
    named = {key: name for key, name in PARTS.items() if f"{key}_bits_per_byte" in score}
    by_part += [{"scorer": name, "bits per byte": score[f"{key}_bits_per_byte"]} for key, name in named.items()]
    last = training[-1]
    training = training[:: -(-len(training) // MAX_STEPS)]
    return [
        Chart("loss", "Training loss", f"The last is {last['loss (nats per token)']:.3f} nats per token.",
              lines(training, "step", "loss (nats per token)")),
        Chart("rate", "Learning rate", "What the rates of the parameters are multiplied by at each step.",
              lines(training, "step", "multiplier", zero=True)),
        Chart("parts", "Bits per byte by part of the mixture", "All on the same logits; smaller is better.",
              parts(by_part, "scorer", "bits per byte")),
        Chart("position", "Along the text", "Mean bits per token in 50 parts of the text; the mixture learns.",
              lines(_by_scorer(position, "last_target", "target"), "target", "bits per token", "scorer")),
        Chart("orders", "What repeats is cheap", "Bits that the mixture saves, by the longest context seen before.",
              gains(_saved(orders), "tokens of the longest repeated context", "kilobits saved")),
    ]  # fmt: skip


_BITS = 1.4426950408889634  # of a nat


def _by_scorer(table: Mapping[str, list[str]], key: str, name: str) -> list[dict[str, Any]]:
    shown = {"streaming": "streaming", "hedge_bias": "document bias alone", "hedge": "whole mixture"}
    return [
        {name: float(at), "bits per token": float(value) * _BITS, "scorer": label}
        for scorer, label in shown.items()
        for at, value in zip(table[key], table.get(f"{scorer}_nats_per_token", []), strict=False)
    ]


def _saved(table: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    columns = (table[name] for name in ("order", "tokens", "streaming_nats_per_token", "hedge_nats_per_token"))
    return [
        {
            "tokens of the longest repeated context": int(float(order)),
            "kilobits saved": (float(base) - float(mixed)) * float(tokens) * _BITS / 1000.0,
        }
        for order, tokens, base, mixed in zip(*columns, strict=True)
    ]


def _figure(chart: Chart, svg: str) -> str:
    return f"<figure><figcaption><strong>{chart.title}.</strong> {chart.words}</figcaption>{svg}</figure>"


def _from_markdown(text: str) -> str:
    """HTML of what ``results_markdown`` writes: headings, paragraphs, tables, bold and code, nothing else."""
    blocks = []
    for block in text.strip().split("\n\n"):
        line = _inline(block)
        if block.startswith("#"):
            level = len(block) - len(block.lstrip("#")) + 1
            blocks.append(f"<h{level + 1}>{line.lstrip('# ')}</h{level + 1}>" if level > 2 else "")
        elif block.startswith("|"):
            head, _, *body = [[cell.strip() for cell in row.strip("|").split("|")] for row in line.split("\n")]
            blocks.append(_table(head, body))
        else:
            blocks.append(f"<p>{line}</p>")
    return "\n".join(blocks)


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text))


def _table(head: Sequence[str], body: Sequence[Sequence[str]], attributes: str = "") -> str:
    names = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    rows = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table{attributes}><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _tensors(tree: Sequence[Mapping[str, Any]], total: int) -> str:
    leaves = sorted((row for row in tree if "bytes" in row), key=lambda row: -row["bytes"])
    body = [
        [html.escape(row["name"]), html.escape(row["parent"]), f"{row['bytes']:,}", f"{row['bytes'] / total:.2%}"]
        for row in leaves
    ]
    return _table(["tensor or part", "role", "bytes", "share"], body, ' data-sortable="true"')


def _documents(text: str) -> str:
    """The bits per byte of each document under every scorer, from the table of all documents (TSV)."""
    head, *rows = [line.split("\t") for line in text.splitlines()]
    cut = f"<p>The first {MAX_DOCUMENTS:,} of {len(rows):,}; the others stand in reports/documents.tsv.</p>"
    kept = [i for i, name in enumerate(head) if not name.endswith("_nats")]
    names = [head[i].removesuffix("_bits_per_byte").replace("_", " ") for i in kept]

    def cell(name: str, value: str) -> str:
        if name == "document":
            return f'<a href="#text" data-document="{value}">{value}</a>'
        return f"{int(value):,}" if name in ("bytes", "tokens") else f"{float(value):.4f}" if value else ""

    body = [[cell(head[i], row[i]) for i in kept] for row in rows[:MAX_DOCUMENTS]]
    return (cut if len(rows) > MAX_DOCUMENTS else "") + _table(names, body, ' data-sortable="true"')


def _shown(view: TextView) -> str:
    total = len(view.tokens) - 1
    part = "all" if view.num_shown == total else f"the first {view.num_shown:,} of"
    return f"{part} {total:,} scored tokens"
