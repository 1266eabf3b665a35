"""The second pipeline on a random Llama of a few thousand weights: every stage, and which of them a change re-runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.artifact.decode import load_artifact
from golf.base.errors import GolfError
from golf.base.files import load_numpy, read_json, write_json
from golf.base.params import read_params
from golf.data.shards import open_split
from golf.imports.judge import JudgedText, compared, summary
from golf.models.decoder import Decoder
from golf.models.registry import load_weights, model_of
from golf.quantize.calibrate import CalibrateConfig, calibrate, calibration_windows, hessians_or_none
from origins import add_tokenizer, small_import, their_model
from stages import calibrate as calibrate_stage
from stages import code, compress, fit, import_model, import_report, judge, quantize, rivals, texts

STAGES: list[Callable[[Path, Path], Any]] = [
    import_model.run, texts.run, calibrate_stage.run, quantize.run, fit.run, compress.run, judge.run, rivals.run,
    import_report.run,
]  # fmt: skip


@pytest.fixture(scope="module")
def done(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages ran, with the parameters of the default made small."""
    folder = tmp_path_factory.mktemp("import")
    their_model("llama", vocab_size=300).save_pretrained(folder / "their")
    add_tokenizer(folder / "their")
    for i in range(40):
        path = folder / "text" / f"{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"The {i}th thing in the list.\n" * 20, encoding="utf-8")
    write_json(folder / "params.json", small_import(root, "text"))
    for run in STAGES:
        run(folder / "params.json", folder)
    return folder


def test_the_report_says_what_was_measured(done: Path) -> None:
    table = (done / "reports/results.md").read_text(encoding="utf-8")
    metrics = read_json(done / "metrics/judge.json", made_by="test")
    for domain in ("calibration", "other"):
        assert 0 < metrics[f"{domain}_kl"] < 1 and metrics[f"{domain}_kl_error"] > 0
        assert f"{metrics[f'{domain}_kl']:.4f} ±" in table
        loss = metrics[f"{domain}_bits_per_byte"] - metrics[f"{domain}_origin_bits_per_byte"]
        assert abs(loss - metrics[f"{domain}_loss_bits_per_byte"]) < 1e-9
    assert metrics["judge_bytes"] == (done / "artifacts/compress/model.golf").stat().st_size
    assert "public recipe, clip 8" in table and (done / "reports/curve.svg").stat().st_size > 1000


def test_texts_do_not_overlap_and_decode_to_themselves(done: Path) -> None:
    from golf.data.shards import documents_of
    from golf.imports.bpe import BytePairs
    from golf.imports.origin import read_blob

    tokenizer = BytePairs(read_blob(done / "artifacts/tokens/tokenizer.model")["files"], vocab_size=300)
    parts = [
        {tokenizer.decode(ids) for ids in documents_of(done / "artifacts/tokens" / name)}
        for name in ("train", "judged/calibration", "judged/other")
    ]
    assert not parts[0] & parts[1]
    files = {path.read_bytes() for path in (done / "text").iterdir()}
    assert parts[0] | parts[1] <= files and b"statement" in b"".join(parts[2])


def test_hessians_by_layer_are_those_of_the_whole_model(done: Path) -> None:
    """Written layer by layer, one for each input: the same numbers as one for each name, all at once."""
    stored = hessians_or_none(done)
    path = done / "artifacts/average/model.safetensors"
    weights, meta = load_weights(path, made_by="test")
    model = model_of(meta, weights, path=path, made_by="test")
    config = CalibrateConfig(tokens=512, window=32, source="train", sensitivity_tokens=0)
    windows = calibration_windows(open_split(done / "artifacts/tokens/train"), config)
    whole = calibrate(model, windows, config).hessians
    assert set(stored) == set(whole) | {"token_embedding"}
    for name, expected in whole.items():
        np.testing.assert_allclose(stored[name], expected, rtol=1e-4, atol=1e-6)
    written, _ = load_numpy(done / "artifacts/calibrate/hessians.safetensors", made_by="test")
    assert len(written) == 2 * 4 + 1  # two blocks of four inputs each, and the head
    assert stored["token_embedding"] is None and stored["head.weight"] is not None


def test_judge_against_plain_arithmetic(done: Path) -> None:
    """KL, code lengths and agreement of windows, by whole float64 distributions."""
    path = done / "artifacts/average/model.safetensors"
    weights, meta = load_weights(path, made_by="test")
    origin, found = (
        model_of(meta, weights, path=path, made_by="test"),
        load_artifact(done / "artifacts/compress/model.golf"),
    )
    assert isinstance(origin, Decoder) and isinstance(found.model, Decoder)
    ids, lengths = np.random.default_rng(0).integers(0, 300, (3, 20)), np.full((3, 19), 2)
    lengths[1, 4:] = -1
    with torch.no_grad():
        hidden = origin.hidden(torch.from_numpy(ids))[:, :-1]
        exact, other = (
            torch.log_softmax(m.logits(m.hidden(torch.from_numpy(ids))[:, :-1]).double(), -1)
            for m in (origin, found.model)
        )
        rows = compared(JudgedText(ids, lengths, hidden), origin, found.model)
    scored, targets = torch.from_numpy(lengths >= 0), torch.from_numpy(ids[:, 1:, None])
    kl = ((exact.exp() * (exact - other)).sum(-1) * scored).sum(1)
    nats = (-other.gather(-1, targets)[..., 0] * scored).sum(1)
    agree = ((exact.argmax(-1) == other.argmax(-1)) & scored).sum(1)
    size = torch.tensor(lengths.clip(0).sum(1))
    for key, expected in (("kl", kl), ("nats", nats), ("agree", agree), ("bytes", size)):
        np.testing.assert_allclose(rows[key], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert summary({"other": rows})["other_kl"] == pytest.approx(float(kl.sum() / scored.sum()), rel=1e-5)


def test_a_change_of_the_compressor_re_runs_the_compressor_alone(root: Path) -> None:
    """In the graph of import/dvc.yaml: what reads a section, and what reads what that writes."""
    stages = read_params(root / "import/dvc.yaml")["stages"]
    params = read_params(root / "import/params.yaml")
    assert {part.split(".")[0] for stage in stages.values() for part in stage.get("params", [])} == set(params)

    def names(items: list[Any]) -> set[str]:
        return {item if isinstance(item, str) else next(iter(item)) for item in items}

    def behind(section: str) -> set[str]:
        ran = {name for name, stage in stages.items() if section in {p.split(".")[0] for p in stage.get("params", [])}}
        while True:
            made = {out for name in ran for key in ("outs", "metrics") for out in names(stages[name].get(key, []))}
            more = {name for name, stage in stages.items() if made & names(stage.get("deps", []))} - ran
            if not more:
                return ran
            ran |= more

    assert behind("compress") == {"fit", "compress", "judge", "report"}  # fit passes on what it read, at no cost
    assert behind("judge") == {"judge", "rivals", "report"}
    assert not behind("quantize") & {"import", "texts", "calibrate"}
    for name, stage in stages.items():
        module = stage["cmd"].split("stages.")[1].split()[0]
        assert (root / "stages" / f"{module}.py").is_file()
        assert name == "code" or f"artifacts/code/{module}.txt" in stage["deps"], name


def test_fingerprints_know_the_imported_family_alone(root: Path, done: Path) -> None:
    code.run(done / "params.json", done)
    text = (done / "artifacts/code/judge.txt").read_text(encoding="utf-8")
    assert "golf/models/decoder.py" in text and "golf/models/gdn_hybrid.py" not in text
    before = (done / "artifacts/code/texts.txt").read_text(encoding="utf-8")
    params = json.loads((done / "params.json").read_text(encoding="utf-8"))
    params["texts"]["other"] = {"source": "text", "path": "text", "text_key": "text"}
    write_json(done / "other.json", params)
    code.run(done / "other.json", done)
    assert (done / "artifacts/code/texts.txt").read_text(encoding="utf-8") != before


def test_a_model_that_another_stage_made_is_refused(done: Path, tmp_path: Path) -> None:
    (tmp_path / "artifacts/tokens").mkdir(parents=True)
    (tmp_path / "artifacts/tokens/tokenizer.model").write_bytes(b"{}")
    with pytest.raises(GolfError, match="tokenizer.model: holds no imported model"):
        texts.run(done / "params.json", tmp_path)
