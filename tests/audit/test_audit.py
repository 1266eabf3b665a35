"""`golf audit` finds the families of field.md section 3 from the numbers their logs printed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from golf.audit.checks import audit_run, audit_seeds
from golf.audit.fingerprints import STREAMS
from golf.audit.read import AuditError, read_run

SP1024 = STREAMS[0]


def log(folder: Path, text: str, name: str = "train.log") -> Path:
    (folder / name).write_text(text)
    return folder / name


def verdicts(path: Path, stream: object = None) -> dict[str, tuple[str, str]]:
    return {f.check: (f.verdict, f.text) for f in audit_run(read_run(path), stream=stream)}  # type: ignore[arg-type]


def pair(loss: float, bytes_per_token: float) -> str:
    return f"final val_loss:{loss:.8f} val_bpb:{loss / math.log(2) / bytes_per_token:.8f}\n"


def test_the_true_round_trip_of_pr_895_passes(tmp_path: Path) -> None:
    found = verdicts(log(tmp_path, "seed:1337\nfinal_roundtrip_exact val_loss:1.96078305 val_bpb:1.16128616\n"))
    assert found["bytes"][0] == "PASS" and "sp1024" in found["bytes"][1]


@pytest.mark.parametrize(
    ("family", "stream", "factor", "words"),
    [
        ("#1545", STREAMS[2], 1.17704, "leading space byte counted twice, byte pieces as 6"),
        ("#1698", STREAMS[2], 1.16714, "leading space byte counted twice [#1698"),
        ("#1184", STREAMS[0], 1.0413, "byte-fallback pieces counted as 3"),
        ("#2138", STREAMS[3], 1.0895, "CaseOps sentinels"),
        ("#897", STREAMS[0], 1.20, "lacks the bare space piece"),
    ],
)
def test_miscounted_bytes_are_named_and_corrected(
    tmp_path: Path, family: str, stream: object, factor: float, words: str
) -> None:
    truth = 2.0 / math.log(2) / stream.bytes_per_token  # type: ignore[attr-defined]
    verdict, text = verdicts(log(tmp_path, pair(2.0, factor * stream.bytes_per_token)), stream)["bytes"]  # type: ignore[attr-defined]
    assert verdict == "FAIL" and words in text
    assert f"canonical score {truth:.4f}" in text


def test_pr_875_fixed_bytes_per_token(tmp_path: Path) -> None:
    verdict, text = verdicts(log(tmp_path, pair(2.48, 3.5)), SP1024)["bytes"]
    assert verdict == "FAIL" and "fixed 3.5 bytes per token" in text and "canonical score 1.4688" in text


def test_pr_1687_from_its_published_nats(tmp_path: Path) -> None:
    verdict, text = verdicts(log(tmp_path, "val_loss:3.164768 val_bpb:1.04090\n"), STREAMS[2])["bytes"]
    assert verdict == "FAIL" and "canonical score 1.225" in text


def test_a_score_below_the_floor_is_suspect(tmp_path: Path) -> None:
    assert verdicts(log(tmp_path, pair(0.5, SP1024.bytes_per_token)))["floor"][0] == "FAIL"


@pytest.mark.parametrize(("tokens", "verdict"), [(62_021_632, "PASS"), (62_021_632 // 5, "FAIL")])
def test_pr_1854_partial_validation(tmp_path: Path, tokens: int, verdict: str) -> None:
    text = pair(2.0, SP1024.bytes_per_token) + f"val_tokens:{tokens}\n"
    assert verdicts(log(tmp_path, text), SP1024)["tokens"][0] == verdict


def test_pr_1698_mebibytes_pass_for_megabytes(tmp_path: Path) -> None:
    text = pair(2.0, SP1024.bytes_per_token) + "Total submission size int6: 16600916 bytes\n"
    verdict, said = verdicts(log(tmp_path, text))["size"]
    assert verdict == "FAIL" and "600,916 over the cap" in said and "15.83 MiB" in said
    text = pair(2.0, SP1024.bytes_per_token) + "Total submission size: 15,888,183 bytes\n"
    assert verdicts(log(tmp_path, text))["size"] == ("PASS", "15,888,183 bytes, 111,817 under the cap")


def test_seed_of_pr_1681_warmdown_never_fired(tmp_path: Path) -> None:
    text = "iterations:9999 warmdown_iters:3000 swa_enabled:True late_qat:1\nstep:2119/9999 train_loss:2.1\n"
    findings = audit_run(read_run(log(tmp_path, text + pair(3.0, STREAMS[2].bytes_per_token))))
    said = [f.text for f in findings if f.check == "phases"]
    assert said == [
        "warmdown was to start at step 6999, the run ended at 2119: it never fired",
        "swa is configured, the log shows no start of it",
        "qat is configured, the log shows no start of it",
    ]


def test_phases_that_fired_are_not_complained_of(tmp_path: Path) -> None:
    text = "iterations:2200 warmdown_iters:400 swa_enabled:True\nswa:start step:2100\nstep:2200/2200\n"
    findings = audit_run(read_run(log(tmp_path, text + pair(3.0, STREAMS[2].bytes_per_token))))
    assert [f for f in findings if f.check == "phases"] == []


def test_population_standard_deviation_is_recognized(tmp_path: Path) -> None:
    paths = [log(tmp_path, f"seed:{i}\nval_loss:2.0 val_bpb:{b}\n", f"{i}.log") for i, b in ((1, 1.06), (2, 1.062))]
    paths.append(log(tmp_path, "seed:3\nval_loss:2.0 val_bpb:1.061\n", "3.log"))
    runs = [read_run(path) for path in paths]
    spread = audit_seeds(runs, claimed_std=0.000816)[-1]
    assert spread.verdict == "FAIL" and "0.00100 (n-1)" in spread.text and "population formula" in spread.text
    assert audit_seeds(runs, claimed_std=0.001)[-1].verdict == "PASS"
    assert audit_seeds(runs[:2])[0].verdict == "FAIL"
    assert audit_seeds([runs[0], runs[0], runs[1]])[0].text == "seeds [1, 1, 2] repeat"


def test_submission_json_is_read(tmp_path: Path) -> None:
    path = log(tmp_path, '{"val_loss": 1.96078305, "val_bpb": 1.16128616, "bytes_total": 15888183}', "submission.json")
    found = verdicts(path)
    assert found["bytes"][0] == "PASS" and found["size"][0] == "PASS"


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="gone.log: no such file"):
        read_run(tmp_path / "gone.log")
    with pytest.raises(AuditError, match="empty.log: found no `val_loss"):
        read_run(log(tmp_path, "hello\n", "empty.log"))
    with pytest.raises(AuditError, match="bad.json: not readable as JSON"):
        read_run(log(tmp_path, "{", "bad.json"))
    with pytest.raises(AuditError, match="list.json: found list at the top"):
        read_run(log(tmp_path, "[]", "list.json"))
