"""Configured means active: the seven inert parts (D1 to D7) of the published model file, one check each.

Every check is a function that passes on our model and fails on a copy broken in the published way, so that the check
itself is proved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golf.base.params import read_params
from golf.models.base import LanguageModel
from golf.models.delta_layer import GatedDeltaNet
from golf.models.gdn_hybrid import GdnHybrid
from golf.models.layers import Attention, Rope, causal_attention, rms_norm, rope_tables
from golf.models.registry import build_model, config_from_dict
from golf.models.sliding_attention import SlidingAttention
from golf.training.config import lr_multiplier, progress_at
from golf.training.optimizers import OptimizerConfig, Optimizers

WINDOW = 6


def _small(root: Path, **changes: Any) -> LanguageModel:
    data = read_params(root / "conf/model/gdn_hybrid_small.yaml")
    small = {"layout": "gdn_swa_gdn_swa_shared", "width": 48, "delta_heads": 3, "delta_key_dim": 16,
             "delta_value_dim": 16, "heads": 3, "window": WINDOW, "hash_rows": 64, "hash_width": 8}  # fmt: skip
    torch.manual_seed(0)
    return build_model(config_from_dict(data | small | changes), 40)


def _ids(tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(2, 40, (2, tokens), generator=torch.Generator().manual_seed(seed))


# D1: the window is configured, attention is over everything


def _attention(kind: type[nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    module = kind(24, 4, 2, qk_gain=1.5, norm_eps=1e-6, **options)
    nn.init.normal_(module.output.weight, std=0.2)  # type: ignore[union-attr,arg-type]
    return module


def check_window_is_applied(attention: nn.Module) -> None:
    x = torch.randn(1, 20, 24, generator=torch.Generator().manual_seed(1))
    rope = rope_tables(torch.arange(20), 6, 1e4, torch.float32)
    moved = x.clone()
    moved[:, 3] += 1.0
    change = (attention(x, rope) - attention(moved, rope)).abs().amax(-1)[0]
    assert (change[3 : 3 + WINDOW] > 1e-6).all(), "a token within the window has no effect"
    assert change[3 + WINDOW :].max() == 0, "a token beyond the window has an effect"


def test_d1_window() -> None:
    check_window_is_applied(_attention(SlidingAttention, window=WINDOW))
    with pytest.raises(AssertionError, match="beyond the window"):
        check_window_is_applied(_attention(Attention))  # stores no window: full causal attention


# D2: rotary angles by head index


class RotatedByHead(Attention):
    """The published fault: the angle of head h is that of position h, at every position."""

    def forward(self, x: Tensor, rope: Rope, *, exclusive: bool = False, stream: Any = None) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)) for f in (self.query, self.key, self.value))
        q, k = rms_norm(q, self.norm_eps), rms_norm(k, self.norm_eps)
        q, k = (self._turn(y, rope).transpose(1, 2) for y in (q, k))
        y = causal_attention(q * self.query_gain.view(1, -1, 1, 1), k, v.transpose(1, 2))
        out: Tensor = self.output(y.transpose(1, 2).flatten(2))
        return out

    def _turn(self, x: Tensor, rope: Rope) -> Tensor:
        cos, sin = (table[: x.size(-2)] for table in rope)  # (B,T,H,E): the axis before the last is H
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def check_rope_follows_positions(attention: nn.Module) -> None:
    x = torch.randn(1, WINDOW, 24, generator=torch.Generator().manual_seed(1))

    def last(y: Tensor, start: int) -> Tensor:
        out: Tensor = attention(y, rope_tables(torch.arange(start, start + WINDOW), 6, 1e4, torch.float32))[0, -1]
        return out

    swapped = x[:, [1, 0, *range(2, WINDOW)]]
    assert not torch.allclose(last(x, 0), last(swapped, 0), atol=1e-5), "the order of earlier tokens has no effect"
    torch.testing.assert_close(last(x, 0), last(x, 1000), rtol=0, atol=1e-5)


def test_d2_rope() -> None:
    check_rope_follows_positions(_attention(SlidingAttention, window=WINDOW))
    with pytest.raises(AssertionError, match="order of earlier tokens"):
        check_rope_follows_positions(_attention(RotatedByHead))


# D3: table and projection both start at zero


def check_everything_learns(model: LanguageModel, steps: int = 4) -> None:
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizers = Optimizers(model, OptimizerConfig(weight_decay=0.0))
    largest = dict.fromkeys(start, 0.0)
    for step in range(steps):
        ids = _ids(33, seed=step)
        optimizers.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        for name, parameter in model.named_parameters():
            largest[name] = max(largest[name], float(parameter.grad.abs().max()))  # type: ignore[union-attr]
        optimizers.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, start[name])]
    flat = [name for name, gradient in largest.items() if gradient == 0]
    assert not still and not flat, f"never moved: {still}; never a gradient: {flat}"


def test_d3_every_tensor_learns(root: Path) -> None:
    check_everything_learns(_small(root))
    check_everything_learns(_small(root, layout="gdn4", kv_share_stride=2))
    broken: Any = _small(root)
    nn.init.zeros_(broken.hashes.embedding)
    nn.init.zeros_(broken.hashes.projection.weight)
    with pytest.raises(AssertionError, match=r"never moved: \['hashes.embedding', 'hashes.*never a gradient: \['hash"):
        check_everything_learns(broken)


def test_d3_hash_embedding_has_gradients_in_the_first_step(root: Path) -> None:
    model: Any = _small(root)
    ids = _ids(33)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.hashes.parameters())


# D4: the residual scale multiplies zeros and skips what is not zero


def check_residual_init(model: Any) -> None:
    blocks = len(model.blocks)
    live = 0
    for name, module in model.named_modules():
        if isinstance(module, GatedDeltaNet | Attention) or name.endswith(".mlp"):
            weight = module.output.weight
            wanted = weight.size(1) ** -0.5 / math.sqrt(3) / math.sqrt(2 * blocks)
            live += bool(weight.any())
            assert not weight.any() or abs(float(weight.std()) / wanted - 1) < 0.1, f"{name}.output: not scaled"
    assert live, "the residual scale multiplies zeros only"


def test_d4_residual_init(root: Path) -> None:
    check_residual_init(_small(root))
    broken: Any = _small(root)
    broken.blocks[0].attention.output.reset_parameters()
    with pytest.raises(AssertionError, match="blocks.0.attention.output: not scaled"):
        check_residual_init(broken)
    for block in (0, 2):
        nn.init.zeros_(broken.blocks[block].attention.output.weight)
    with pytest.raises(AssertionError, match="zeros only"):
        check_residual_init(broken)


# D5, D6: keys that are read and never used


def check_key_is_alive(result: Callable[[Any], Any], values: Iterable[Any]) -> None:
    results = [result(value) for value in values]
    assert all(a != b for i, a in enumerate(results) for b in results[:i]), "the key has no effect"


def test_d5_softcap_acts(root: Path) -> None:
    def loss(model: LanguageModel) -> float:
        ids = _ids(20)
        with torch.no_grad():
            model.token_embedding.mul_(200.0)
        return float(model.loss(ids, ids.roll(1)).detach())

    class HardCoded(GdnHybrid):
        def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
            self.softcap = 30.0
            return super().loss(ids, targets)

    def broken(value: float) -> LanguageModel:
        torch.manual_seed(0)
        config: Any = _small(root, softcap=value).config
        torch.manual_seed(0)
        return HardCoded(config, 40)

    check_key_is_alive(lambda value: loss(_small(root, softcap=value)), (5.0, 30.0))
    with pytest.raises(AssertionError, match="no effect"):
        check_key_is_alive(lambda value: loss(broken(value)), (5.0, 30.0))


def test_d6_number_of_iterations_acts_on_the_schedule() -> None:
    def multipliers(iterations: int) -> list[float]:
        return [lr_multiplier(progress_at(step, iterations), 0.2, "cosine") for step in range(100)]

    def marker_only(iterations: int) -> list[float]:
        assert iterations > 0
        return [lr_multiplier(progress_at(step, 9999), 0.2, "cosine") for step in range(100)]

    check_key_is_alive(multipliers, (50, 100))
    with pytest.raises(AssertionError, match="no effect"):
        check_key_is_alive(marker_only, (50, 100))


# D7: weight decay on tensors marked to have none


def check_gates_do_not_decay(model: LanguageModel, step: Callable[[], None]) -> None:
    gates = {name: p for name, p in model.named_parameters() if name.endswith(("A_log", "dt_bias"))}
    assert gates
    start = {name: parameter.detach().clone() for name, parameter in gates.items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(3):
        step()
    moved = [name for name, parameter in gates.items() if not torch.equal(parameter, start[name])]
    assert not moved, f"decayed without a gradient: {moved}"


def test_d7_decay_rates_have_no_weight_decay(root: Path) -> None:
    model = _small(root)
    optimizers = Optimizers(model, OptimizerConfig(weight_decay=0.04))
    check_gates_do_not_decay(model, optimizers.step)
    broken = _small(root)
    adamw = torch.optim.AdamW(broken.parameters(), lr=0.02, weight_decay=0.04)
    with pytest.raises(AssertionError, match="decayed without a gradient.*A_log.*dt_bias"):
        check_gates_do_not_decay(broken, lambda: adamw.step() and None)
