"""Fit to a byte target and split by damage: real artifacts of a tiny model, in the library and through the stage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stages.fit
import stages.quantize
from golf.artifact.ship import CompressConfig, pack_decoder
from golf.artifact.write import pack
from golf.base.files import load_numpy, save_torch, write_bytes, write_json
from golf.base.params import to_dict
from golf.data.shards import ShardWriter
from golf.models.registry import build_model, config_from_dict
from golf.quantize.calibrate import Divergence, training_windows
from golf.quantize.config import FitConfig, QuantizeConfig
from golf.quantize.fit import TOLERANCE, Group, TargetError, fit_to_target, split_octaves, split_steps
from golf.quantize.pipeline import Quantizer
from golf.quantize.storage import load_quantized
from golf.quantize.tensors import QuantizedModel
from tiny import quantize_config, recurrent

VOCAB = 300
TINY = recurrent(width=48, blocks=1)
META = {"model": TINY, "vocab_size": VOCAB}
CONFIG = quantize_config("gptq_lite")
OFF = FitConfig(target_bytes=0, split="none", tokens=2048, window=256)
Run = Callable[..., dict[str, Any]]
DECODER = 20_000
TOKENIZER = b"\n\x05piece" * 60
TOTAL = 50_000


def tiny_model() -> Any:
    torch.manual_seed(0)
    model = build_model(config_from_dict(TINY), VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def hessians(model: Any) -> dict[str, np.ndarray | None]:
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray | None] = {}
    for name in model.quantizable_names():
        x = rng.standard_normal((200, model.get_parameter(name).shape[1])).astype(np.float32)
        found[name] = None if "value" in name and "embedding" in name else x.T @ x / len(x)
    return found


def quantizer(config: QuantizeConfig = CONFIG) -> Quantizer:
    model = tiny_model()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return Quantizer(state, model, config, meta=META, hessians=hessians(model) if config.needs_hessians else None)


def size(model: QuantizedModel) -> int:
    return DECODER + len(pack(model, TOKENIZER))


def divergence(q: Quantizer) -> Divergence:
    ids = np.random.default_rng(1).integers(0, VOCAB, (4, 24))
    return Divergence(tiny_model(), q.state, ids)


@pytest.mark.parametrize("method", ["gptq_lite", "sdclip", "gptq", "gptq_trellis"])
def test_the_artifact_ends_just_below_the_target(method: Any) -> None:
    q = quantizer(dataclasses.replace(CONFIG, method=method))
    base = size(q.run().model)
    for target in (base - 4000, base + 1500):
        said: list[str] = []
        fit = fit_to_target(q, size=size, target=target, say=said.append)
        total = size(fit.result.model)
        assert target * (1 - TOLERANCE) <= total <= target
        assert total == fit.metrics["fit_total_bytes"]
        assert (fit.octaves > 0) == (target < base)
        assert f"{total:,d}" in said[-1] and "output error" in said[0]
        again = fit_to_target(q, size=size, target=target, say=lambda line: None)
        for name, tensor in fit.result.model.tensors.items():
            assert np.array_equal(tensor.values, again.result.model.tensors[name].values)


def test_a_target_out_of_reach_is_an_error() -> None:
    for target, message in ((DECODER + 2000, "make the model smaller or raise"), (10**7, "make the model larger")):
        with pytest.raises(TargetError, match=message):
            fit_to_target(quantizer(), size=size, target=target, say=lambda line: None)


def test_a_split_gives_more_damaging_weights_finer_steps_at_equal_rate() -> None:
    groups = [Group("a", ("a",), 1000, 0.4), Group("b", ("b",), 3000, 0.3), Group("c", ("c",), 1000, 0.0)]
    a, b, c = split_octaves(groups)
    assert b.octaves - a.octaves == pytest.approx(1.0)  # a quarter of the damage per weight: steps twice as wide
    assert sum(group.octaves * group.weights for group in (a, b, c)) == pytest.approx(0.0)
    assert c.octaves - b.octaves <= 6.0  # no damage measured: bounded all the same


def test_a_split_lowers_the_divergence_at_equal_bytes() -> None:
    """From parameters that spend bits on the MLP and starve attention."""
    levels = {"embedding": 31, "attention": 7, "mlp": 127}
    q = quantizer(dataclasses.replace(CONFIG, method="sdclip", levels=levels))
    damage = divergence(q)
    target = size(q.run().model)
    said: list[str] = []
    fit = fit_to_target(q, size=size, target=target, damage=damage, say=said.append)
    assert target * (1 - TOLERANCE) <= size(fit.result.model) <= target
    assert fit.divergence == damage(fit.result.model.state()) < fit.metrics["unsplit_divergence_nats"]
    assert fit.metrics["split_kept"] == 1.0 and len(fit.groups) == len(q.quantized_names())
    alone = split_steps(q, damage=damage, say=said.append)
    assert alone.metrics["divergence_nats"] < alone.metrics["unsplit_divergence_nats"]
    assert size(alone.result.model) == pytest.approx(target, rel=0.05)
    assert any("KL alone" in line for line in said)


def test_damage_of_a_tensor_leaves_the_others_exact() -> None:
    q = quantizer(dataclasses.replace(CONFIG, method="sdclip"))
    damage = divergence(q)
    assert damage(q.state) == pytest.approx(0.0, abs=1e-6)
    fit = split_steps(q, damage=damage, say=lambda line: None)
    quantized = q.run().model.state()
    for group in fit.groups:
        assert group.members == (group.name,)
        tied = {group.name, *(alias for alias, name in q.aliases.items() if name == group.name)}
        mixed = {name: quantized[name] if name in tied else array for name, array in q.state.items()}
        assert group.damage == damage(mixed) > 0


def test_windows_of_damage_are_spread_and_off_those_of_calibrate() -> None:
    class Text:
        num_tokens = 1000

        def read(self, start: int, length: int) -> np.ndarray:
            return np.arange(start, start + length, dtype=np.uint16)

    windows = training_windows(Text(), tokens=40, window=10)
    assert windows.shape == (4, 10) and windows[:, 0].tolist() == [5, 245, 495, 745]
    with pytest.raises(ValueError, match="training split has 1000 tokens, expected at least 1500 for a window of 1000"):
        training_windows(Text(), tokens=40, window=1000)


@pytest.fixture
def project(tmp_path: Path) -> Run:
    """Runs `quantize` and `fit` with the first section changed and the second given; their metrics and arrays."""
    save_torch(tmp_path / "artifacts/average/model.safetensors", tiny_model().state_dict(), META)
    write_bytes(tmp_path / "artifacts/tokens/tokenizer.model", TOKENIZER)
    writer = ShardWriter(tmp_path / "artifacts/tokens/train", vocab_size=VOCAB, bos_id=1, tokenizer_sha256="0" * 64)
    for seed in range(20):
        writer.add([1, *np.random.default_rng(seed).integers(2, VOCAB, 60).tolist()], 60)
    writer.close()

    def run(fit: FitConfig = OFF, **changes: Any) -> dict[str, Any]:
        sections = {"quantize": to_dict(dataclasses.replace(CONFIG, **changes)), "fit": to_dict(fit)}
        compress = {"coder": "rans", "limit_bytes": TOTAL}  # one coder: its decoder has one size
        write_json(tmp_path / "params.json", {**sections, "compress": compress})
        stages.quantize.run(tmp_path / "params.json", tmp_path)
        stages.fit.run(tmp_path / "params.json", tmp_path)
        found: dict[str, Any] = json.loads((tmp_path / "metrics/fit.json").read_text())
        return found | {"arrays": load_numpy(tmp_path / "artifacts/fit/model.safetensors", made_by="x")[0]}

    return run


def test_the_stage_fits_to_artifact_and_decoder(
    project: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`target_bytes` acts, with the coder of `compress` and the code of the decoder counted."""
    free = project()
    assert "fit_total_bytes" not in free
    fitted = project(FitConfig(TOTAL, "tensor", tokens=96, window=24))
    assert TOTAL * (1 - TOLERANCE) <= fitted["fit_total_bytes"] <= TOTAL
    shown = capsys.readouterr().out
    assert "the decoder's included; coder: rans" in shown and "KL alone" in shown and "step scale" in shown
    assert any(not np.array_equal(free["arrays"][name], fitted["arrays"][name]) for name in free["arrays"])
    root = Path(stages.fit.__file__).parent.parent
    model = load_quantized(tmp_path / "artifacts/fit/model.safetensors")
    coders = CompressConfig("rans", TOTAL)
    data = pack(model, TOKENIZER, coders=coders.coders, embedding_coders=coders.embedding_coders)
    assert len(data) + len(pack_decoder(root, data)) == fitted["fit_total_bytes"]


def test_the_split_of_the_stage_acts_without_a_target(project: Run) -> None:
    free, found = project(), project(FitConfig(0, "tensor", tokens=96, window=24))
    assert found["divergence_nats"] > 0 and "fit_total_bytes" not in found
    assert any(not np.array_equal(free["arrays"][name], found["arrays"][name]) for name in free["arrays"])


def test_without_either_the_model_is_passed_on(project: Run, tmp_path: Path) -> None:
    project()
    for name in ("model.safetensors", "errors.tsv"):
        assert (tmp_path / "artifacts/fit" / name).read_bytes() == (tmp_path / "artifacts/quantize" / name).read_bytes()
