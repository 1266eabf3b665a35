"""Stage `import_report`: the table and the plot of an imported model beside its rivals.

In: artifacts/{judge,rivals}/points.json, metrics/{import,compress}.json. Out: reports/{results.md,curve.svg}.
"""

from __future__ import annotations

from pathlib import Path

from golf.base.files import checked, read_json, write_text
from golf.base.main import run_stage
from golf.imports.report import Imported, draw_curve, read_points, table


def run(params: Path, root: Path) -> None:
    """Run the stage; ``params`` has no section of it."""
    paths = {name: root / f"artifacts/{name}/points.json" for name in ("judge", "rivals")}
    points = [found for name, path in paths.items() for found in read_points(path, made_by=f"`{name}`")]
    path = root / "metrics/import.json"
    metrics = checked(Imported, read_json(path, made_by="`import_model`"), path=path, made_by="`import_model`")
    text = table(points, origin=metrics.import_source, weights=metrics.import_weights)
    write_text(root / "reports/results.md", text)
    draw_curve(points, root / "reports/curve.svg")
    print(text)


if __name__ == "__main__":
    run_stage(run, description=__doc__)
