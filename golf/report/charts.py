"""Charts of the page of a run: Vega and Vega-Lite specifications drawn to SVG, which names every mark in words.

Drawn by vl-convert, which brings Vega itself: no network, no browser. Same input, same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Chart", "draw", "gains", "lines", "parts", "sizes", "treemap"]

_WIDTH, _HEIGHT = 420, 220
_POINTS = 60  # of a line that answer to the pointer
_COLORS = ["#1f5fa8", "#b3500e", "#2b7a3d", "#7a3d9a", "#a3264a", "#4a5a68"]
_ROLES = {"embedding": "#9cc3e6", "attention": "#f5c48c", "mlp": "#a8d8ae", "control": "#d3b8e0", "file": "#c9ced3"}
_CONFIG = {
    "background": "transparent",
    "axis": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "gridOpacity": 0.5},
    "legend": {"labelFontSize": 11, "labelLimit": 260, "orient": "bottom", "columns": 2, "title": None},
    "view": {"stroke": None},
}

Row = Mapping[str, Any]


class Chart(NamedTuple):
    """A specification, its ``name``, its ``title`` and what it says in ``words``."""

    name: str
    title: str
    words: str
    spec: Mapping[str, Any]


def draw(charts: Sequence[Chart]) -> list[str]:
    """The SVG of each chart; ids in it begin with its name, so that all can stand in one page."""
    import vl_convert

    drawn = []
    for chart in charts:
        vega = "vega-lite" not in chart.spec["$schema"]
        svg = (vl_convert.vega_to_svg if vega else vl_convert.vegalite_to_svg)(dict(chart.spec))
        drawn.append(re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{chart.name}-", svg))
    return drawn


def _lite(values: Sequence[Row], **rest: Any) -> dict[str, Any]:
    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    size = {"width": _WIDTH, "height": _HEIGHT}
    return {"$schema": schema, "config": _CONFIG, "data": {"values": list(values)}} | size | rest


def lines(values: Sequence[Row], x: str, y: str, series: str = "", *, zero: bool = False) -> dict[str, Any]:
    """``y`` over ``x``, fields of ``values``, a line for each of ``series``; points of it answer to the pointer."""
    encoding: dict[str, Any] = {
        "x": {"field": x, "type": "quantitative", "axis": {"tickCount": 6}},
        "y": {"field": y, "type": "quantitative", "scale": {"zero": zero}},
    }
    if series:
        names = list(dict.fromkeys(row[series] for row in values))
        encoding["color"] = {"field": series, "type": "nominal", "sort": names, "scale": {"range": _COLORS}}
    color = {} if series else {"color": _COLORS[0]}
    rows = len(values) // len({row.get(series) for row in values})
    every = max(1, rows // _POINTS)
    ranked = [{**row, "n": n} for n, row in enumerate(values)]
    points = {
        "transform": [{"filter": f"datum.n % {every} == 0"}],
        "mark": {"type": "point", "opacity": 0.0, "filled": True, "size": 90} | color,
    }
    return _lite(ranked, layer=[{"mark": {"type": "line", "strokeWidth": 1.6} | color}, points], encoding=encoding)


def parts(values: Sequence[Row], label: str, value: str) -> dict[str, Any]:
    """Bars of ``value`` by ``label``, in the order given, with their figures."""
    axis = {"labelLimit": 260, "title": None}
    encoding = {
        "y": {"field": label, "type": "nominal", "sort": None, "axis": axis},
        "x": {"field": value, "type": "quantitative", "scale": {"zero": True}, "axis": {"tickCount": 5}},
    }
    text = {
        "mark": {"type": "text", "align": "left", "dx": 4, "aria": False},
        "encoding": {"text": {"field": value, "type": "quantitative", "format": ".4f"}},
    }
    bar = {"mark": {"type": "bar", "color": _COLORS[0]}}
    room = {"left": 45, "right": 5, "top": 5, "bottom": 5}  # a browser's letters may be wider than those measured here
    size = {"width": 290, "height": 28 * len(values)}
    return _lite(values, layer=[bar, text], encoding=encoding, padding=room) | size


def gains(values: Sequence[Row], x: str, y: str) -> dict[str, Any]:
    """Bars of ``y`` over the ordered classes ``x``."""
    across = {"field": x, "type": "ordinal", "axis": {"labelAngle": 0}}
    encoding = {"x": across, "y": {"field": y, "type": "quantitative"}}
    return _lite(values, mark={"type": "bar", "color": _COLORS[2]}, encoding=encoding)


def sizes(tensors: Sequence[Row], parts: Mapping[str, int], total: int) -> list[dict[str, Any]]:
    """The tree of ``total`` bytes: a leaf for each of ``tensors`` (``tensor``, ``role``, ``stored_bytes``, as in the
    table of `compress`) below its role, one for each of the other ``parts`` of the files, and one for what is left by
    rounding and empty blocks."""
    roles = dict.fromkeys(row["role"] for row in tensors)
    tree: list[dict[str, Any]] = [{"id": "all"}, *({"id": role, "parent": "all"} for role in [*roles, "file"])]
    for row in tensors:
        size = round(float(row["stored_bytes"]))
        tree.append({"id": f"tensor {row['tensor']}", "parent": row["role"], "name": row["tensor"], "bytes": size})
    left = {"rounding, empty blocks": total - sum(parts.values()) - sum(row.get("bytes", 0) for row in tree)}
    named = {**parts, **{name: size for name, size in left.items() if size > 0}}
    tree += [{"id": f"part {name}", "parent": "file", "name": name, "bytes": size} for name, size in named.items()]
    return tree


def treemap(tree: Sequence[Row]) -> dict[str, Any]:
    """Areas in proportion to the bytes of the leaves of ``sizes``, their roles in colors."""
    width, height = 900, 460
    words = "datum.name + ', ' + datum.parent + ': ' + format(datum.bytes, ',') + ' bytes'"
    box = {"x": {"field": "x0"}, "y": {"field": "y0"}, "x2": {"field": "x1"}, "y2": {"field": "y1"}}
    roles = [row["id"] for row in tree if row.get("parent") == "all"]
    layout = {"type": "treemap", "field": "bytes", "sort": {"field": "value", "order": "descending"}, "round": True,
              "method": "squarify", "ratio": 1.6, "paddingInner": 1, "size": [width, height]}  # fmt: skip
    label = {
        "x": {"signal": "datum.x0 + 4"}, "y": {"signal": "datum.y0 + 4"}, "text": {"field": "name"},
        "limit": {"signal": "0.8 * (datum.x1 - datum.x0) - 6"}, "fontSize": {"value": 11}, "baseline": {"value": "top"},
        "fill": {"value": "#1a1a1a"},
        "opacity": {"signal": "datum.y1 - datum.y0 > 16 && datum.x1 - datum.x0 > 40 ? 1 : 0"},
    }  # fmt: skip
    return {
        "$schema": "https://vega.github.io/schema/vega/v6.json", "width": width, "height": height, "padding": 2,
        "background": "transparent", "description": "Bytes of the artifact and its decoder by tensor",
        "data": [
            {"name": "tree", "values": list(tree), "transform": [
                {"type": "stratify", "key": "id", "parentKey": "parent"}, layout]},
            {"name": "leaves", "source": "tree", "transform": [{"type": "filter", "expr": "datum.bytes > 0"}]},
        ],
        "scales": [{"name": "color", "type": "ordinal", "domain": roles,
                    "range": [_ROLES.get(role, "#dddddd") for role in roles]}],
        "legends": [{"fill": "color", "orient": "bottom", "direction": "horizontal"}],
        "marks": [
            {"type": "rect", "from": {"data": "leaves"}, "description": "tensor", "encode": {"enter": box | {
                "fill": {"scale": "color", "field": "parent"}, "stroke": {"value": "#ffffff"},
                "description": {"signal": words}}}},
            {"type": "text", "from": {"data": "leaves"}, "aria": False, "interactive": False,
             "encode": {"enter": label}},
        ],
    }  # fmt: skip
