"""The per-document table joins what belongs together and refuses the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from golf.base.files import FileError, save_numpy
from golf.scoring.results import load_documents
from golf.scoring.text import ScoringError


def write(path: Path, nats: list[float], *, sha: str = "a", num_bytes: tuple[int, ...] = (10, 0)) -> Path:
    tensors = {"doc_nats": np.array(nats), "doc_bytes": np.array(num_bytes), "doc_tokens": np.array([4, 1])}
    save_numpy(path, tensors, {"artifact_sha256": sha})
    return path


def test_table_has_nats_and_bits_per_byte_of_each_mode(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", [np.log(2.0) * 20, 1.5]), write(tmp_path / "b", [np.log(2.0) * 10, 1.0])
    lines = load_documents({"roundtrip": one, "sliding": two}).tsv().splitlines()
    assert lines[0].split("\t")[:5] == ["document", "bytes", "tokens", "roundtrip_nats", "roundtrip_bits_per_byte"]
    assert lines[1].split("\t") == ["0", "10", "4", "13.862944", "2.000000", "6.931472", "1.000000"]
    assert lines[2].split("\t") == ["1", "0", "1", "1.500000", "", "1.000000", ""]


def test_scorers_beside_a_mode_have_columns_too(tmp_path: Path) -> None:
    tensors = {"doc_nats": np.array([4.0]), "doc_bytes": np.array([2]), "doc_tokens": np.array([3])}
    save_numpy(tmp_path / "h", tensors | {"doc_nats.hedge_simple": np.array([5.0])}, {"artifact_sha256": "a"})
    table = load_documents({"hedge": tmp_path / "h"})
    assert {name: nats.tolist() for name, nats in table.nats.items()} == {"hedge": [4.0], "hedge_simple": [5.0]}
    assert table.tsv().split("\n")[0].endswith("hedge_simple_nats\thedge_simple_bits_per_byte")


@pytest.mark.parametrize("changes", [{"sha": "b"}, {"num_bytes": (9, 0)}])
def test_scores_of_another_artifact_or_text_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    one, two = write(tmp_path / "a", [1.0, 1.0]), write(tmp_path / "b", [1.0, 1.0], **changes)
    with pytest.raises(ScoringError, match="another artifact or text than `roundtrip`"):
        load_documents({"roundtrip": one, "sliding": two})


def test_missing_mode_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="stage hedge"):
        load_documents({"hedge": tmp_path / "none"})
