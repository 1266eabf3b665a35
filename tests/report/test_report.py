"""The report repeats what the stages measured, and its plots are the same bytes for the same input."""

from __future__ import annotations

from pathlib import Path

import pytest

from golf.base.files import FileError
from golf.report import plots
from golf.report.plots import draw_all, read_table
from golf.report.results import read_metrics, results_markdown, summary
from metrics import write_metrics

COMPRESSORS = ("zlib", "xz")


@pytest.fixture
def metrics_folder(tmp_path: Path) -> Path:
    return write_metrics(tmp_path / "metrics")


def test_table_repeats_the_measured_figures(metrics_folder: Path) -> None:
    table = results_markdown(read_metrics(metrics_folder), compressors=COMPRESSORS)
    for row in (
        "| xz -9e on the same text | 2.6123 |",
        "| golf, online mixture | 2.1000 | 3.5700 | 2,099 | 12.0 |",
        "| **golf, the file** (coded and decoded back) | **1.6000** |  | 2,100 | 4.2 |",
        "| plain Hedge with fixed share | 2.1500 | +0.0500 |",
        "| whole mixture, the headline | 2.1000 | +0.1000 |",
        "| total | 1,500 |",
        "Proved: 5,000 bytes -> 1,000 bytes, decoded identical (+0.0123 % of the stated code length",
        "Verified: 30 checks passed, 0 failed.",
        "| xz -9e | 1,400 | 2.2400 |",
        "| golf and the artifact itself | 2,200 | 3.5200 |",
        "| mean of the snapshots | 3.4000 |",
        "| zlib -9 | 1,400 | 1.4000 |",
    ):
        assert row in table
    assert "exponential moving average" not in table  # not measured in this run
    assert "brotli" not in table  # not asked for


def test_summary_is_flat_and_whole(metrics_folder: Path) -> None:
    flat = summary(read_metrics(metrics_folder))
    assert flat["sliding_bits_per_byte"] == 2.2 and flat["total_bytes"] == 1500
    assert all(isinstance(value, int | float | str) for value in flat.values())


def test_missing_metrics_name_their_stage(metrics_folder: Path) -> None:
    (metrics_folder / "evaluate_sliding.json").unlink()
    with pytest.raises(FileError, match=r"evaluate_sliding.json: not found; it is made by stage evaluate@sliding"):
        read_metrics(metrics_folder)


def test_plots_are_reproducible_and_whole(
    metrics_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, tensors = tmp_path / "history.tsv", tmp_path / "tensors.tsv"
    history.write_text("step\tloss\tlr_multiplier\tdepth\n1\t6.9\t1.0\t2\n2\t6.5\t0.5\t3\n3\t6.0\t0.0\t4\n")
    tensors.write_text("tensor\tbytes\na\t10\nb\t20\n")
    nats = "streaming_nats_per_token\thedge_nats_per_token\thedge_simple_nats_per_token"
    curves = {
        "position": f"last_target\t{nats}\n10\t3\t2.9\t2.95\n20\t3\t2.8\t2.9\n",
        "orders": f"order\ttokens\t{nats}\n0\t10\t5\t5\t5.1\n4\t10\t3\t2.5\t2.6\n",
        "rows": "at_most\tneural_expected\tneural_came\thedge_expected\thedge_came\n1\t5\t4\t5\t5\n0.5\t0\t0\t2\t2\n",
        "weights": "target\tchain\tsimple_neural\n0\t0.5\t0.5\n19\t0.6\t0.9\n",
        "calibration": "bin\ttokens\tconfidence\thit_rate\n0\t10\t0.02\t0.1\n19\t10\t0.97\t0.9\n",
    }
    for name, table in curves.items():
        (tmp_path / f"{name}.tsv").write_text(table)
    written = []
    save, again = plots._save, {"loss", "weights_mixture"}  # of the second run, two that share nothing: a second each
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        metrics = read_metrics(metrics_folder)
        draw_all(folder, metrics=metrics, history=history, tensors=tensors, curves=tmp_path, compressors=COMPRESSORS)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
        monkeypatch.setattr(plots, "_save", lambda figure, path: save(figure, path) if path.name in again else None)
    assert len(written[1]) == 4 and written[1].items() <= written[0].items()
    names = {"calibration", "gain_order", "gain_position", "loss", "schedule", "score_size", "size", "weights"}
    names |= {"calibration_mixture", "gain_parts", "weights_mixture"}
    assert sorted(written[0]) == sorted(f"{name}.{kind}" for name in names for kind in ("png", "svg"))
    assert b"Schedules that fired" not in written[0]["loss.svg"]


def test_a_missing_table_names_its_stage(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"history.tsv: not found; it is made by stage train"):
        read_table(tmp_path / "history.tsv", made_by="stage train")


def test_the_table_has_every_mode_of_evaluation_that_the_pipeline_always_runs() -> None:
    from golf.report import results
    from golf.scoring.modes import MODES

    assert [*results.MODES, "ttt"] == list(MODES)
