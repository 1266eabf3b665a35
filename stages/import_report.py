"""Stage `import_report`: the table and the plot of an imported model beside its rivals.

In: artifacts/{judge,rivals}/points.json, metrics/{import,compress}.json. Out: reports/{results.md,curve.svg}.
"""

from __future__ import annotations

from pathlib import Path

from golf.base.files import read_json, write_text
from golf.base.main import run_stage
from golf.imports.report import draw_curve, table


def run(params: Path, root: Path) -> None:
    """Run the stage; ``params`` has no section of it."""
    points = [
        found
        for name in ("judge", "rivals")
        for found in read_json(root / f"artifacts/{name}/points.json", made_by=f"`{name}`")["points"]
    ]
    metrics = read_json(root / "metrics/import.json", made_by="`import_model`")
    text = table(points, origin=metrics["import_source"], weights=int(metrics["import_weights"]))
    write_text(root / "reports/results.md", text)
    draw_curve(points, root / "reports/curve.svg")
    print(text)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
