"""All checks on a real (tiny) artifact: honest files pass, each spoilt file fails, and the exit code says so."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import lzma
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

import golf.cli
import stages.verify as stage
from golf.artifact.decode import Decoded, load_artifact
from golf.artifact.ship import pack_decoder
from golf.base.params import ParamsError, from_dict
from golf.data.shards import ShardWriter
from golf.data.tokenizer import Tokenizer, train_tokenizer
from golf.scoring.modes import MODES, load_modes
from golf.scoring.text import ScoringError, load_text
from golf.verify import checks, run, sandbox
from golf.verify.checks import CheckResult
from golf.verify.run import VerifyConfig, VerifyError, prefixes_of, sample_tokens
from golf.verify.sandbox import check_self_contained
from golf.verify.scorers import EchoModel, MemoModel, ModeScorer, mode_scorer, with_values
from shipped import shipped
from tiny import pack_untrained, recurrent

SMALL = {"window": 32, "batch": 3, "stride": 8, "chunk": 16, "warmup": 32, "precision": "fp32", "sampled_rows": 9}
SCORED = tuple(mode for mode in MODES if mode != "ttt")  # which has its own tests
VERIFY = {"modes": list(SCORED), "targets": 160, "flips": 1, "choices": 8}


def write_split(folder: Path, tokenizer: Tokenizer, documents: list[str]) -> ShardWriter:
    kept: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id}
    writer = ShardWriter(folder, tokenizer_sha256=tokenizer.sha256, **kept)
    for document in documents:
        writer.add(*tokenizer.document(document))
    writer.close()
    return writer


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage reads: artifact, decoder, splits, manifest, parameters."""
    folder = tmp_path_factory.mktemp("project")
    prose = (root / "docs" / "architecture.md").read_text()
    documents = [*(prose[i : i + 700] for i in range(0, 5600, 700)), "caf\u00e9 \U0001f600\n\n  end ", ""]
    tokenizer = train_tokenizer(documents, 360)
    splits = {"val": [*documents[:4], *documents[8:]], "train": documents[4:6], "holdout": documents[6:8]}
    counts = {}
    for name, texts in splits.items():
        writer = write_split(folder / "artifacts/tokens" / name, tokenizer, texts)
        data = b"".join(len(text.encode()).to_bytes(8, "little") + text.encode() for text in texts)
        counts[name] = {"bytes": writer.num_bytes, "raw_bytes": writer.num_bytes, "tokens": writer.num_tokens}
        counts[name] |= {"text_sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"divisor": tokenizer.divisor, "tokenizer_sha256": tokenizer.sha256, "splits": counts}
    (folder / "artifacts/tokens/manifest.json").write_text(json.dumps(manifest))
    (folder / "artifacts/compress").mkdir()
    artifact = pack_untrained(recurrent(width=32, blocks=1), tokenizer.vocab_size, tokenizer.model)
    (folder / "artifacts/compress/model.golf").write_bytes(artifact)
    (folder / "artifacts/compress/decoder.zip").write_bytes(pack_decoder(root, artifact))
    params = shipped()
    for section in params["evaluate"].values():
        section |= {key: value for key, value in SMALL.items() if key in section}
    with open(folder / "params.yaml", "w") as file:
        YAML().dump(params | {"verify": VERIFY}, file)
    return folder


@pytest.fixture(scope="module")
def decoded(project: Path) -> Decoded:
    return load_artifact(project / "artifacts/compress/model.golf")


@pytest.fixture(scope="module")
def tokens(project: Path, decoded: Decoded) -> np.ndarray:
    val = load_text(
        project / "artifacts/tokens/val", vocab_size=decoded.vocab_size, tokenizer_sha256=decoded.tokenizer_sha256
    )
    return sample_tokens(val, 160)


def scorer_of(name: str, project: Path, decoded: Decoded) -> ModeScorer:
    config = load_modes(project / "params.yaml", (name,))[name]
    return mode_scorer(name, decoded.model, config, vocab_size=decoded.vocab_size, bos_id=1)


@pytest.mark.timeout(300)
def test_an_honest_artifact_passes_and_the_report_holds_every_value(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage.run(project / "params.yaml", project) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out.splitlines()
    metrics = json.loads((project / "metrics/verify.json").read_text())
    assert metrics["verify_fail_checks"] == 0
    assert metrics["verify_pass_checks"] == sum(line.startswith("PASS") for line in printed) > 30
    for mode in SCORED:
        assert metrics[f"{mode}_causality_nats"] <= 1e-6
        assert metrics[f"{mode}_target_unread_probability"] <= 1e-6
        assert metrics[f"{mode}_each_target_once_targets"] == 0
        assert metrics[f"{mode}_same_score_two_processes_nats"] == 0
    assert metrics["files_self_contained_nats"] == 0
    assert metrics["text_byte_ledger_bytes"] == 0
    assert printed[-1].endswith("failed: none")


def test_the_command_exits_with_1_and_has_one_line_for_each_check(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(project, spoilt)
    shutil.rmtree(spoilt / "artifacts/tokens/train")
    shutil.copytree(spoilt / "artifacts/tokens/val", spoilt / "artifacts/tokens/train")  # trained on what is scored
    text = (spoilt / "params.yaml").read_text()
    yaml = YAML()
    params = yaml.load(text)
    params["verify"]["modes"] = ["roundtrip"]
    params["compress"]["limit_bytes"] = 1000
    with open(spoilt / "params.yaml", "w") as file:
        yaml.dump(params, file)
    command = ["golf", "verify", str(spoilt / "artifacts/compress/model.golf"), "--json", str(tmp_path / "out.json")]
    command += ["--tokens", str(spoilt / "artifacts/tokens"), "--params", str(spoilt / "params.yaml")]
    monkeypatch.setattr(sys, "argv", command)
    passed = CheckResult("files", "self_contained", True, 0.0, 0.0, "nats", "")
    monkeypatch.setattr(run, "_alone", lambda *values: passed)  # the honest artifact has been through what is left out
    monkeypatch.setattr(run, "second_process", lambda *values, **more: contextlib.nullcontext())
    monkeypatch.setattr(run, "_scorer_checks", lambda *values: [])
    with pytest.raises(SystemExit) as ended:
        golf.cli.main()
    assert ended.value.code == 1
    failed = [line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert failed == ["size", "splits_disjoint"]
    assert json.loads((tmp_path / "out.json").read_text())["verify_fail_checks"] == 2


def test_an_artifact_that_needs_more_than_its_decoder_fails(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    full = project / "artifacts/compress/decoder.zip"
    with zipfile.ZipFile(full) as source, zipfile.ZipFile(tmp_path / "decoder.zip", "w") as target:
        target.writestr("golf/__init__.py", source.read("golf/__init__.py"))
        code = lzma.decompress(source.read("golf/code.lzma")).split(b"\0")
        code = [module for module in code if not module.startswith(b"golf.artifact.rans\n")]
        target.writestr("golf/code.lzma", lzma.compress(b"\0".join(code)))
    alone: dict[str, Any] = {"expected_nats": 1.0, "window": 32, "num_tokens": 65, "threads": 1}
    artifact, val = project / "artifacts/compress/model.golf", project / "artifacts/tokens/val"
    missing = check_self_contained(artifact, tmp_path / "decoder.zip", val, **alone)
    assert missing.verdict == "FAIL" and "does not score alone with decoder.zip: ModuleNotFoundError" in missing.text
    answer = {"total_nats": 1.5, "targets": 64, "refused": sandbox.LURES, "inside": True}
    for said, verdict in (({}, "FAIL"), ({"total_nats": 1.0}, "PASS"), ({"total_nats": 1.0, "refused": 4}, "FAIL"),
                          ({"total_nats": 1.0, "inside": False}, "FAIL")):  # fmt: skip
        monkeypatch.setattr(sandbox, "score_sealed", lambda *values, said=said, **more: answer | said)
        result = check_self_contained(artifact, full, val, **alone)
        assert result.verdict == verdict and result.value == (0.0 if said else 0.5)


@pytest.mark.parametrize("name", ["roundtrip", "sliding", "streaming"])
def test_coverage_is_measured_on_the_plan_in_use(
    name: str, project: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorer_of(name, project, decoded).changed(segment=30)
    assert scorer.coverage(101).tolist() == [1] * 101

    module = importlib.import_module(MODES[name][0])
    real = module.make_score

    def twice(mode: str, text: Any, nats: np.ndarray, **more: Any) -> Any:
        return real(mode, text, np.concatenate([nats[:-8], 4.0 * nats[-8:-4], np.zeros(4)]))

    monkeypatch.setattr(module, "make_score", twice)
    assert scorer.coverage(101).tolist() == [1] * 93 + [4] * 4 + [0] * 4


def test_rows_scored_against_another_target_are_seen() -> None:
    echo = EchoModel(50)
    assert len(np.unique(echo.nats())) == 49
    hidden = echo.hidden(torch.arange(49)[None])
    rows = echo.logits(hidden[0]).double()
    truth = -torch.log_softmax(rows, -1)[torch.arange(49), torch.arange(1, 50)]
    np.testing.assert_allclose(truth.numpy(), echo.nats(), rtol=1e-12)


def test_memory_of_a_network_changes_no_score(project: Path, decoded: Decoded, tokens: np.ndarray) -> None:
    for name in MODES:
        scorer = scorer_of(name, project, decoded)
        memo = scorer.memoized()
        assert isinstance(memo.model, MemoModel) == (name != "ttt")  # one that learns is no function of its input
        changed = tokens.copy()
        changed[100:] = changed[100:][::-1]  # a known beginning, then something new
        for stream in (tokens, changed, tokens):
            np.testing.assert_array_equal(memo.score(stream), scorer.score(stream))


def test_a_network_that_reads_ahead_is_caught(project: Path, decoded: Decoded, tokens: np.ndarray) -> None:
    class Ahead:
        def __init__(self, model: Any) -> None:
            self.model = model

        def __getattr__(self, name: str) -> Any:
            return getattr(self.model, name)

        def hidden(self, ids: torch.Tensor) -> torch.Tensor:
            hidden = self.model.hidden(ids)
            return torch.cat([hidden[:, :-2] + 0.01 * hidden[:, 2:], hidden[:, -2:]], dim=1)

    honest = scorer_of("roundtrip", project, decoded)
    ahead = mode_scorer("roundtrip", Ahead(decoded.model), honest.config, vocab_size=honest.vocab_size, bos_id=1)
    assert checks.check_causality(honest, tokens, [50, 100]).passed
    assert checks.check_causality(ahead, tokens, [50, 100]).passed is False


def test_the_repeated_prefix_stands_in_the_fourth_repeat() -> None:
    prefixes = prefixes_of(np.arange(100), 64, 32)
    assert {len(prefix) for prefix in prefixes.values()} == {64}
    repeated = prefixes["repeated"].tolist()
    passage = 32 * 2 // 9
    half = passage // 2
    assert repeated[-half:] == list(range(1, 1 + half))
    assert repeated[-half - 3 * passage : -half] == 3 * list(range(1, 1 + passage))


def test_sample_holds_the_beginnings_of_documents(tokens: np.ndarray) -> None:
    assert len(tokens) == 161
    assert (tokens == 1).sum() >= 4


def test_parameters_that_fit_nothing_are_named(project: Path, decoded: Decoded) -> None:
    with pytest.raises(VerifyError, match="modes: found slidng, expected some of roundtrip, sliding"):
        VerifyConfig(modes=("slidng",), targets=1, flips=1, choices=1)
    with pytest.raises(ParamsError, match="choices: found 0 .*, expected int, 1 or more"):
        from_dict(VerifyConfig, VERIFY | {"choices": 0})
    with pytest.raises(VerifyError, match="modes: found none, expected some of roundtrip"):
        VerifyConfig(modes=(), targets=1, flips=1, choices=1)
    nested = load_modes(project / "params.yaml", ("hedge",))["hedge"]
    assert with_values(nested, segment=77, share=0.5).streaming.segment == 77
    assert with_values(nested, segment=77, share=0.5).hedge.share == 0.5
    with pytest.raises(ScoringError, match="outside the model's vocabulary"):
        scorer_of("roundtrip", project, decoded).score(np.full(64, 9999))
