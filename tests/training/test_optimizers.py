"""The optimizer group of every tensor, resume bit for bit, and the sizes report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golf.base.params import read_params
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.training.optimizers import OptimizerConfig, Optimizers, group_ledger


def _model(root: Path, name: str = "depth_recurrent_small", seed: int = 0, **changes: object) -> LanguageModel:
    torch.manual_seed(seed)
    small = {"width": 32, "heads": 4, "kv_heads": 2} | changes
    return build_model(config_from_dict(read_params(root / f"conf/model/{name}.yaml") | small), 64)


def _train(model: LanguageModel, optimizers: Optimizers, steps: range) -> list[float]:
    losses = []
    for step in steps:
        ids = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(step))
        optimizers.set_lr_multiplier(1.0 - 0.1 * step)
        optimizers.set_momentum(0.85 + 0.01 * step)
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizers.step()
        optimizers.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_ledger_names_each_tensor_once_and_by_role(root: Path) -> None:
    ledger = group_ledger(_model(root))
    assert list(ledger.values()).count("muon") == 18
    assert {name for name, group in ledger.items() if group == "embedding"} == {
        "token_embedding",
        "value_embeddings.0",
        "value_embeddings.1",
    }
    for name in ("loop_vectors", "blocks.0.residual_mix", "blocks.2.attention.query_gain", "cross_repeat_scales"):
        assert ledger[name] == "control"


def test_every_tensor_is_trained_by_exactly_one_optimizer(root: Path) -> None:
    model = _model(root)
    optimizers = Optimizers(model, OptimizerConfig())
    groups = [*optimizers.muon.param_groups, *optimizers.adamw.param_groups]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize("name", ["depth_recurrent_small", "transformer_small"])
def test_every_tensor_moves_within_three_steps(root: Path, name: str) -> None:
    model = _model(root, name)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    _train(model, Optimizers(model, OptimizerConfig()), range(3))
    still = [key for key, value in model.state_dict().items() if torch.equal(value, start[key])]
    assert still == []


def test_training_lowers_the_loss_and_is_the_same_twice(root: Path) -> None:
    runs = []
    for _ in range(2):
        model = _model(root)
        optimizers = Optimizers(model, OptimizerConfig())
        ids = torch.randint(0, 64, (4, 33), generator=torch.Generator().manual_seed(0))
        losses = []
        for _ in range(8):
            loss = model.loss(ids[:, :-1], ids[:, 1:])
            loss.backward()
            optimizers.step()
            optimizers.zero_grad()
            losses.append(float(loss.detach()))
        runs.append(losses)
    assert runs[0] == runs[1]
    assert runs[0][-1] < runs[0][0] - 0.5


def test_resume_from_state_tensors_is_bit_exact(root: Path) -> None:
    straight = _model(root)
    straight_losses = _train(straight, Optimizers(straight, OptimizerConfig()), range(6))

    first = _model(root)
    optimizers = Optimizers(first, OptimizerConfig())
    losses = _train(first, optimizers, range(3))
    saved = {name: tensor.clone() for name, tensor in optimizers.state_tensors().items()}
    weights = {name: tensor.clone() for name, tensor in first.state_dict().items()}

    second = _model(root, seed=9)
    second.load_state_dict(weights)
    resumed = Optimizers(second, OptimizerConfig())
    resumed.load_state_tensors(saved)
    losses += _train(second, resumed, range(3, 6))
    assert losses == straight_losses
    assert all(torch.equal(v, straight.state_dict()[k]) for k, v in second.state_dict().items())


def test_loading_copies_and_empty_state_resets(root: Path) -> None:
    model = _model(root)
    optimizers = Optimizers(model, OptimizerConfig())
    assert optimizers.state_tensors() == {}
    _train(model, optimizers, range(1))
    saved = {name: tensor.clone() for name, tensor in optimizers.state_tensors().items()}
    optimizers.load_state_tensors(saved)
    _train(model, optimizers, range(1, 2))
    assert not torch.equal(saved["muon.momentum.blocks.0.mlp.output.weight"], torch.zeros(32, 96))
    name = "muon.momentum.blocks.0.mlp.output.weight"
    assert not torch.equal(saved[name], optimizers.state_tensors()[name])
    optimizers.load_state_tensors({})
    assert optimizers.state_tensors() == {}


def test_wrong_states_are_named(root: Path) -> None:
    model = _model(root)
    optimizers = Optimizers(model, OptimizerConfig())
    _train(model, optimizers, range(1))
    saved = dict(optimizers.state_tensors())
    with pytest.raises(ValueError, match="missing tensor `adamw.first.token_embedding`"):
        optimizers.load_state_tensors({k: v for k, v in saved.items() if k != "adamw.first.token_embedding"})
    with pytest.raises(ValueError, match="unknown tensor `extra`"):
        optimizers.load_state_tensors(saved | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"`adamw.first.token_embedding` has shape \(1,\)"):
        optimizers.load_state_tensors(saved | {"adamw.first.token_embedding": torch.zeros(1)})


def test_each_decay_shrinks_its_own_group_by_rate_times_decay(root: Path) -> None:
    for knob, group in (("embedding_decay", "embedding"), ("control_decay", "control")):
        model, bare = _model(root), _model(root)
        _train(model, Optimizers(model, OptimizerConfig(control_lr=0.01, embedding_lr=0.01, **{knob: 0.5})), range(1))
        _train(bare, Optimizers(bare, OptimizerConfig(control_lr=0.01, embedding_lr=0.01)), range(1))
        ledger, start = group_ledger(model), _model(root).state_dict()
        for name, tensor in model.state_dict().items():
            shrunk = 0.005 * start[name] if ledger[name] == group else torch.zeros(())
            torch.testing.assert_close(tensor, bare.state_dict()[name] - shrunk, rtol=0, atol=1e-6)


def test_beta2_is_that_of_both_adam_groups(root: Path) -> None:
    states = []
    for beta2 in (0.9, 0.99):  # after one step the second moment is (1 - beta2) times the squared gradient
        model = _model(root)
        optimizers = Optimizers(model, OptimizerConfig(beta2=beta2))
        _train(model, optimizers, range(1))
        states.append({n: t for n, t in optimizers.state_tensors().items() if n.startswith("adamw.second.")})
    assert {group_ledger(model)[name.removeprefix("adamw.second.")] for name in states[0]} == {"embedding", "control"}
    for name, tensor in states[0].items():
        torch.testing.assert_close(0.1 * tensor, states[1][name], rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("knob", ["matrix_lr", "embedding_lr", "control_lr", "weight_decay"])
def test_each_rate_moves_only_its_own_group(root: Path, knob: str) -> None:
    states = []
    for value in (0.01, 0.03):
        model = _model(root)
        _train(model, Optimizers(model, OptimizerConfig(**{knob: value})), range(1))
        states.append(model.state_dict())
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    group = {"matrix_lr": "muon", "weight_decay": "muon", "embedding_lr": "embedding", "control_lr": "control"}[knob]
    ledger = group_ledger(_model(root))
    assert changed and {ledger[name] for name in changed} == {group}


def test_negative_rates_and_wild_momentum_are_refused() -> None:
    with pytest.raises(ValueError, match="matrix_lr: found -1"):
        OptimizerConfig(matrix_lr=-1)
    with pytest.raises(ValueError, match="momentum: found 1.0"):
        OptimizerConfig(momentum=1.0)
    with pytest.raises(ValueError, match="beta2: found 1.0"):
        OptimizerConfig(beta2=1.0)
    with pytest.raises(ValueError, match="control_decay: found -1"):
        OptimizerConfig(control_decay=-1)


def test_sizes_are_those_of_the_real_states(root: Path) -> None:
    model = _model(root)
    optimizers = Optimizers(model, OptimizerConfig())
    sizes = optimizers.sizes()
    _train(model, optimizers, range(1))
    real = {"muon": 0, "adamw": 0}
    for name, tensor in optimizers.state_tensors().items():
        real[name.split(".")[0]] += tensor.numel() * tensor.element_size()
    assert (sizes.muon_bytes, sizes.adamw_bytes) == (real["muon"], real["adamw"])
    assert sizes.master_bytes == 4 * model.num_parameters()
