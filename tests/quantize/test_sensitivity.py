"""What an error in a row costs: predicted against measured, steps that follow from it, named errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.base.errors import GolfError
from golf.models.base import LanguageModel
from golf.quantize import gptq_kernels
from golf.quantize.calibrate import CalibrateConfig, calibrate, sensitivities
from golf.quantize.hessian import StoredHessians, save_hessians
from golf.quantize.pipeline import Quantizer
from golf.quantize.sensitivity import row_sensitivities
from golf.quantize.steps import row_factors
from golf.quantize.tensors import row_steps
from tiny import quantize_config, record, recurrent, shaken

SHAPE = recurrent(repeats=2)
VOCAB = 40
WINDOWS = np.random.default_rng(0).integers(0, VOCAB, (24, 16))
CONFIG = quantize_config("gptq", clip=20.0)
WITH_ROWS = dataclasses.replace(CONFIG, gptq=dataclasses.replace(CONFIG.gptq, row_exponent=0.25))


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return shaken(SHAPE, VOCAB).eval()


@pytest.fixture(scope="module")
def found(model: LanguageModel) -> dict[str, np.ndarray]:
    return row_sensitivities(model, WINDOWS)


def kl(model: LanguageModel, exact: torch.Tensor) -> float:
    with torch.no_grad():
        other = torch.log_softmax(model.logits(model.hidden(torch.from_numpy(WINDOWS))).double(), -1)
    return float((exact.exp() * (exact - other)).sum(-1).mean())


def test_every_matrix_and_table_has_a_sensitivity_of_each_row_and_the_model_is_as_before(
    model: LanguageModel, found: dict[str, np.ndarray]
) -> None:
    names = model.quantizable_names()
    rows = {name: len(parameter) for name, parameter in model.unique_parameters().items() if name in names}
    assert {name: len(values) for name, values in found.items()} == rows
    assert all((values >= 0).all() and values.any() for values in found.values())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    again = row_sensitivities(model, WINDOWS)
    assert all(np.array_equal(again[name], values) for name, values in found.items())


def test_sensitivities_say_which_matrix_an_error_of_one_size_harms_most(
    model: LanguageModel, found: dict[str, np.ndarray]
) -> None:
    """Half of the sensitivity times the variance of an error is the KL measured, within a third; two uses of each."""
    with torch.no_grad():
        exact = torch.log_softmax(model.logits(model.hidden(torch.from_numpy(WINDOWS))).double(), -1)
    parameters, rng = model.unique_parameters(), torch.Generator().manual_seed(0)
    for name in ("blocks.0.attention.value.weight", "blocks.0.mlp.output.weight", "blocks.1.mlp.output.weight"):
        weight, size = parameters[name], float((1e-3 / found[name].sum()) ** 0.5)
        before, measured = weight.detach().clone(), []
        for _ in range(8):
            with torch.no_grad():
                weight.copy_(before + size * torch.randn(weight.shape, generator=rng))
            measured.append(kl(model, exact))
        with torch.no_grad():
            weight.copy_(before)
        assert 0.67 < np.mean(measured) / 0.5e-3 < 1.5, (name, np.mean(measured))


def test_the_head_has_what_its_tokens_cost_and_a_tenth_of_the_mean_for_rare_ones(
    model: LanguageModel, found: dict[str, np.ndarray]
) -> None:
    """Without the tenth, steps of rare tokens fit the calibration text, and other text suffers."""
    with torch.no_grad():
        hidden = model.hidden(torch.from_numpy(WINDOWS)).double()
        p = torch.softmax(model.logits(hidden.float()).double(), -1)
        expected = (hidden.square().sum(-1, keepdim=True) * p * (1 - p)).mean((0, 1)).numpy()
    np.testing.assert_allclose(found["token_embedding"], expected + 0.1 * expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("make", [recurrent, record], ids=["value tables", "hashed n-grams"])
def test_rows_of_lookup_tables_have_their_gradients_and_a_quarter_of_a_look_more(make: Any) -> None:
    """The gradient of a row sums up all its looks in a window; a row that no window looks up is not free."""
    model = shaken(make(), VOCAB).eval()
    tables = [name for name in model.quantizable_names() if model.role(name) == "embedding"]
    lookup = model.get_parameter(next(name for name in tables if name != "token_embedding"))
    name = next(name for name, parameter in model.unique_parameters().items() if parameter is lookup)
    draws, total = np.random.default_rng(0), torch.zeros(len(lookup), dtype=torch.float64)
    for ids in torch.from_numpy(WINDOWS).split(1):
        hidden = model.hidden(ids)
        loss = torch.zeros(())
        for h in hidden[0].split(128):
            log_p = torch.log_softmax(model.logits(h), -1)
            upto = log_p.detach().exp().cumsum(-1)
            drawn = torch.from_numpy(draws.random((len(h), 1))).float() * upto[:, -1:]
            loss = loss - log_p.gather(1, torch.searchsorted(upto, drawn, right=True)).sum()
        total += torch.autograd.grad(loss, lookup)[0].double().square().sum(1)
    expected = (total + 0.25 * total.sum() / WINDOWS.size) / WINDOWS.size
    np.testing.assert_allclose(row_sensitivities(model, WINDOWS)[name], expected, rtol=1e-4)
    assert (expected > 0).all()


def test_rows_that_cost_more_get_finer_steps_at_the_same_mean() -> None:
    rng = np.random.default_rng(0)
    matrices = {"a": rng.standard_normal((50, 30)), "b": 3 * rng.standard_normal((20, 60))}
    damages = {name: np.exp(rng.normal(0, 0.5, len(matrix))) for name, matrix in matrices.items()}
    factors = row_factors(damages, matrices, exponent=0.5)
    ideal = {name: damages[name] ** -0.5 / matrices[name].std(1) for name in matrices}
    ratio = np.concatenate([factors[name] / ideal[name] for name in matrices])
    np.testing.assert_allclose(ratio, ratio[0])
    logs = [np.log(factors[name]).sum() * matrices[name].shape[1] for name in matrices]
    assert abs(sum(logs)) < 1e-9
    assert all((factor == 1).all() for factor in row_factors(damages, matrices, exponent=0.0).values())
    wild = row_factors({"a": np.r_[0.0, np.ones(49)]}, {"a": matrices["a"]}, exponent=0.5)["a"]
    assert wild[0] == 2**2.5 and np.isfinite(wild).all()


def test_the_row_exponent_moves_steps_of_what_gptq_quantizes(
    model: LanguageModel, found: dict[str, np.ndarray]
) -> None:
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    calibrated = calibrate(model, WINDOWS, CalibrateConfig(384, 16, "train", 0))
    hessians: dict[str, Any] = {**calibrated.hessians, **dict.fromkeys(calibrated.without)}
    meta = {"model": SHAPE, "vocab_size": VOCAB}

    def steps(config: Any, rows: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        tensors = Quantizer(state, model, config, meta=meta, hessians=hessians, sensitivities=rows).run().model.tensors
        return {name: row_steps(tensor.row_scale) for name, tensor in tensors.items()}

    plain, split = steps(CONFIG, None), steps(WITH_ROWS, found)
    for name, values in plain.items():
        assert not np.array_equal(values, split[name]), name
    doubled = {name: 4 * values if name == "blocks.0.mlp.output.weight" else values for name, values in found.items()}
    finer = np.log2(steps(WITH_ROWS, doubled)["blocks.0.mlp.output.weight"] / split["blocks.0.mlp.output.weight"])
    assert (finer < 0).all() and finer.mean() > -0.5 - 1 / 16  # a fourth root, less what all others became coarser by
    with pytest.raises(GolfError, match="row_exponent: expected sensitivities of rows, found none"):
        steps(WITH_ROWS, None)
    with pytest.raises(GolfError, match=r"blocks\.0\.mlp\.output\.weight: expected the sensitivity of each of"):
        steps(WITH_ROWS, found | {"blocks.0.mlp.output.weight": np.ones(3, np.float32)})


def test_each_hessian_is_inverted_once_and_none_waits_in_memory_for_its_use(
    model: LanguageModel, found: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps by damage need all Hessians before the first matrix is rounded: of each its pivots then, no inverse."""
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    calibrated = calibrate(model, WINDOWS, CalibrateConfig(384, 16, "train", 0))
    leaders = {name: name.replace("query", "key").replace("value", "key") for name in calibrated.hessians}
    stored = {name: calibrated.hessians[name] for name in sorted(set(leaders.values()))}
    save_hessians(tmp_path / "h.safetensors", stored, {})
    hessians = StoredHessians(tmp_path / "h.safetensors", without=calibrated.without, leaders=leaders, made_by="x")
    done: list[str] = []
    for name in ("cholesky_upper", "invert_upper"):
        kernel = getattr(gptq_kernels, name)
        monkeypatch.setattr(gptq_kernels, name, lambda *of, n=name, k=kernel: (done.append(n), k(*of))[1])

    def tensors(once: bool) -> dict[str, Any]:
        done.clear()
        meta = {"model": SHAPE, "vocab_size": VOCAB}
        made = Quantizer(state, model, WITH_ROWS, meta=meta, hessians=hessians, sensitivities=found, once=once)
        assert len(made._factors) == (0 if once else len(stored))
        return made.run().model.tensors

    kept = tensors(once=False)
    assert len(stored) > 4 and done == ["cholesky_upper", "invert_upper"] * len(stored)
    single = tensors(once=True)
    assert (done.count("invert_upper"), done.count("cholesky_upper")) == (len(stored), 2 * len(stored))
    for name, tensor in kept.items():
        assert np.array_equal(tensor.values, single[name].values)
        assert np.array_equal(tensor.row_scale, single[name].row_scale)


def test_a_calibration_without_sensitivities_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(GolfError, match="`calibrate` with calibrate.sensitivity_tokens above 0"):
        sensitivities(tmp_path)
