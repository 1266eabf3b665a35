from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.artifact.bytes import ArtifactError
from golf.artifact.decode import decode_artifact, load_artifact
from golf.artifact.write import pack
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.quantize.pipeline import QuantizeConfig, QuantizeResult
from tiny import quantize_config, quantize_model, recurrent

TINY = recurrent()
VOCAB = 40
CONFIG = quantize_config("gptq_lite", levels={"embedding": 31, "attention": 31, "mlp": 15})


def tiny_model() -> LanguageModel:
    torch.manual_seed(0)
    model = build_model(config_from_dict(TINY), VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def quantized(model: LanguageModel, config: QuantizeConfig = CONFIG) -> QuantizeResult:
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return quantize_model(state, model, config, meta={"model": TINY, "vocab_size": VOCAB})


@pytest.mark.parametrize("method", ["gptq_lite", "sdclip"])
def test_decoded_model_is_the_dequantized_one_to_the_last_bit(method: str, tmp_path: Path) -> None:
    model = tiny_model()
    result = quantized(model, dataclasses.replace(CONFIG, method=method))  # type: ignore[arg-type]
    (tmp_path / "model.golf").write_bytes(pack(result.model, b"tokenizer"))
    before = torch.random.get_rng_state()
    decoded = load_artifact(tmp_path / "model.golf")
    assert torch.equal(before, torch.random.get_rng_state())
    state = {name: torch.from_numpy(array) for name, array in result.model.state().items()}
    model.load_state_dict(state)
    for name, tensor in decoded.model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name]), name
    ids = torch.arange(30).reshape(2, 15)
    with torch.no_grad():
        assert torch.equal(decoded.model.loss(ids, ids + 1), model.eval().loss(ids, ids + 1))
    assert (decoded.tokenizer_model, decoded.vocab_size, decoded.config) == (b"tokenizer", VOCAB, TINY)
    assert decoded.num_bytes == (tmp_path / "model.golf").stat().st_size
    assert not decoded.model.training


def test_roles_choose_levels_and_control_stays_in_half_precision() -> None:
    result = quantized(tiny_model())
    largest = dict.fromkeys(("embedding", "attention", "mlp"), 0)
    for tensor in result.model.tensors.values():
        largest[tensor.role] = max(largest[tensor.role], int(np.abs(tensor.values).max()))
    assert largest == {"embedding": 31, "attention": 31, "mlp": 15}
    assert all(array.dtype == np.float16 for array in result.model.plain.values())
    assert result.metrics["mlp_relative_error"] > result.metrics["attention_relative_error"] > 0
    assert result.metrics["control_relative_error"] < 1e-6
    weights = sum(result.metrics[f"{role}_weights"] for role in (*largest, "control"))
    assert weights == result.metrics["weights"] == tiny_model().num_parameters()


class Tied(torch.nn.Module):
    """Two names on one storage, as in models whose head or attention is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Parameter(torch.randn(6, 4))
        self.head = self.embedding
        self.gain = torch.nn.Parameter(torch.ones(3))

    def role(self, name: str) -> str:
        return "control" if name == "gain" else "embedding"


def test_tied_weights_are_quantized_once_and_must_agree() -> None:
    model = Tied()
    state = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
    meta = {"model": TINY, "vocab_size": 6}
    result = quantize_model(state, model, CONFIG, meta=meta)  # type: ignore[arg-type]
    assert result.model.aliases == {"head": "embedding"}
    assert list(result.model.tensors) == ["embedding"] and result.metrics["weights"] == 27
    state["head"][0, 0] += 1
    with pytest.raises(ValueError, match="head is tied to embedding in the model but differs"):
        quantize_model(state, model, CONFIG, meta=meta)  # type: ignore[arg-type]


def test_weights_that_do_not_belong_to_the_config_are_named() -> None:
    model = tiny_model()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    first = sorted(state)[0]
    meta = {"model": TINY, "vocab_size": VOCAB}
    with pytest.raises(ValueError, match="is only in the model config"):
        quantize_model({name: state[name] for name in state if name != first}, model, CONFIG, meta=meta)
    with pytest.raises(ValueError, match="extra is only in the weights"):
        quantize_model(state | {"extra": state[first]}, model, CONFIG, meta=meta)
    with pytest.raises(ValueError, match=r"weights have shape \(1, 1\)"):
        quantize_model(state | {first: np.ones((1, 1), np.float32)}, model, CONFIG, meta=meta)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        quantize_model(state | {first: np.full_like(state[first], np.nan)}, model, CONFIG, meta=meta)


def test_numbers_beyond_fp16_stay_float32() -> None:
    model = tiny_model()
    state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    control = next(name for name in state if model.role(name) == "control")
    state[control][...] = 1e5
    result = quantize_model(state, model, CONFIG, meta={"model": TINY, "vocab_size": VOCAB})
    assert result.model.plain[control].dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {**TINY, "width": 18}}, "do not fit the model config|width|head"),
        ({"config": {**TINY, "family": "perceptron"}}, "model.family: found 'perceptron'"),
        ({"config": {**TINY, "color": 1}}, "unknown key `color`"),
        ({"config": {**TINY, "blocks": 10**9}}, "blocks is 1000000000, more than the .* names stored"),
        ({"vocab_size": 41}, "do not fit the model config"),
    ],
)
def test_another_models_weights_are_refused(changes: dict[str, object], message: str) -> None:
    model = dataclasses.replace(quantized(tiny_model()).model, **changes)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=f"a.golf: .*({message})"):
        decode_artifact(pack(model, b"t"), where="a.golf")


def test_missing_artifact_names_its_stage(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model.golf: not found; it is made by `compress`") as error:
        load_artifact(tmp_path / "model.golf")
    assert error.value.cause == "missing"


def test_damaged_file_is_named(tmp_path: Path) -> None:
    data = pack(quantized(tiny_model()).model, b"t")
    path = tmp_path / "model.golf"
    path.write_bytes(data[:-3])
    with pytest.raises(ArtifactError, match=r"model\.golf: has .* bytes, its prefix says .*: truncated"):
        load_artifact(path)


def test_bug_decoding_imports_no_compiler(root: Path, tmp_path: Path) -> None:
    """The first product on torch's meta device imported torch._dynamo: 3.5 s of CPU time in every command."""
    (tmp_path / "model.golf").write_bytes(pack(quantized(tiny_model()).model, b"t"))
    program = "import sys\nfrom golf.artifact.decode import load_artifact\nload_artifact(sys.argv[1])\n"
    program += "sys.exit('torch._dynamo' in sys.modules)"
    command = [sys.executable, "-c", program, str(tmp_path / "model.golf")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
