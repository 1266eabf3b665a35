"""Every graph is made before the clock starts: one per depth, or one per kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from golf.cli.params import compose
from golf.models.registry import build_model, config_from_dict
from golf.training.compiling import autocast, prepare_loss
from golf.training.config import QatConfig
from golf.training.qat import LateQat


class Counter:
    """A backend of torch.compile that compiles nothing and counts graphs and calls."""

    def __init__(self) -> None:
        self.graphs = self.calls = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1

        def run(*values: Any) -> Any:
            self.calls += 1
            return graph(*values)

        return run


@pytest.fixture
def model(sections: dict[str, dict[str, Any]]) -> Any:
    torch.compiler.reset()
    torch.manual_seed(0)
    return build_model(config_from_dict({**sections["model"], "blocks": 1, "xsa_last": 1}), 64)


def steps(model: Any, loss_fn: Callable[..., torch.Tensor], depths: tuple[int, ...]) -> list[float]:
    """Losses of one update's forward and backward at each of ``depths``, QAT in the last."""
    ids = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    qat, losses = LateQat(model, QatConfig(0.5, 3.0, {"embedding": 31, "attention": 31, "mlp": 31})), []
    for depth in depths:
        model.set_depth(depth)
        with autocast("bf16", torch.device("cpu")):
            loss = loss_fn(ids, ids.roll(1))
        loss.backward()
        losses.append(float(loss.detach()))
    with qat.quantized({}), autocast("bf16", torch.device("cpu")):
        loss_fn(ids, ids.roll(1)).backward()
    return losses


@pytest.mark.parametrize("whole", [True, False])
def test_no_graph_is_made_after_preparation_whatever_the_depth(model: Any, whole: bool) -> None:
    counter, context = Counter(), autocast("bf16", torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example = torch.zeros(2, 16, dtype=torch.int64)
    loss_fn = prepare_loss(model, (1, 2), (example, example), context, whole=whole, backend=counter)
    made, called = counter.graphs, counter.calls
    assert made == 2 if whole else made <= 7
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    losses = steps(model, loss_fn, (1, 2, 1, 2))
    assert counter.graphs == made and counter.calls >= called + 5 and losses[0] == losses[2]
    model.compile_layers(disable=True)
    assert losses == pytest.approx(steps(model, model.loss, (1, 2, 1, 2)), abs=0.02)


def test_a_model_that_cannot_be_traced_whole_is_compiled_by_layers_on_gpus_too(
    root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    values = compose(root / "conf", model="gdn_hybrid_small")["model"]
    small = {**values, "width": 32, "delta_heads": 2, "delta_key_dim": 8, "delta_value_dim": 8, "delta_chunk": 8,
             "heads": 2, "hash_rows": 16, "hash_width": 8, "layout": "gdn1_swa"}  # fmt: skip
    model, counter = build_model(config_from_dict(small), 64), Counter()
    assert not model.whole_graph

    class OnGpu:
        """``ids`` that say they are on a GPU."""

        is_cuda = True

        def clone(self) -> OnGpu:
            return self

    asked: list[str] = []
    monkeypatch.setattr(type(model), "compile_layers", lambda self, **options: asked.append("layers"))
    monkeypatch.setattr(type(model), "loss", lambda self, ids, targets: self.token_embedding.sum())
    ids: Any = OnGpu()
    prepare_loss(model, (1,), (ids, ids), autocast("fp32", torch.device("cpu")), backend=counter)
    assert asked == ["layers"] and counter.graphs == 0
