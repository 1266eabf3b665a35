"""The integer-exact network: equal bits however it is run, and close to the float network it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.textcodec.integer.exact import BITS, IntegerError, normed, snap
from golf.textcodec.integer.network import IntegerNetwork

WINDOW, TOKENS, VOCAB = 12, 30, 97
SHARED = {"heads": 4, "kv_heads": 2, "mlp_ratio": 2.0, "softcap": 30.0, "rope_base": 10000.0, "qk_gain": 1.5}
SHARED |= {"norm_eps": 1e-6, "width": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "depth_recurrent": {"blocks": 2, "repeats": 2, "value_tables": 2, "cross_repeat_skip": True, "xsa_last": 2,
                        "negative_slope": 0.5},
    "transformer": {"layers": 5, "unet_skips": True, "negative_slope": 0.0},
}  # fmt: skip


def make_model(family: str, **keys: Any) -> LanguageModel:
    """A model whose every tensor matters."""
    torch.manual_seed(3)
    config = config_from_dict({"family": family, **SHARED, **FAMILIES[family], **keys})
    model = build_model(config, VOCAB).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return make_model(request.param)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(0, VOCAB, (5, TOKENS)))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(network: Any, ids: torch.Tensor, chunk: int) -> torch.Tensor:
    """Logits (B,T,V) of passes of ``chunk`` tokens."""
    with torch.inference_mode():
        state = network.new_state(ids.size(0), WINDOW, chunk)
        return torch.cat([network.logits(network.step(piece, state)) for piece in ids.split(chunk, dim=1)], 1)


def test_batches_chunks_and_threads_give_the_same_bits(model: LanguageModel, ids: torch.Tensor, threads: None) -> None:
    network = IntegerNetwork(model)
    torch.set_num_threads(1)
    expected = run(network, ids, TOKENS)
    assert len(expected.unique()) > 1000
    for chunk in (1, 7):
        assert torch.equal(run(network, ids, chunk), expected)
    for stream in range(len(ids)):
        assert torch.equal(run(network, ids[stream : stream + 1], 13), expected[stream : stream + 1])
    torch.set_num_threads(2)
    assert torch.equal(run(network, ids.repeat(3, 1), 20), expected.repeat(3, 1, 1))
    assert torch.equal(run(IntegerNetwork(model), ids, 1), expected)


def test_logits_are_whole_steps_near_those_of_the_float_network(model: LanguageModel, ids: torch.Tensor) -> None:
    found, expected = run(IntegerNetwork(model), ids, 16), run(model.double(), ids, 16)
    assert torch.equal(found * 1024, (found * 1024).round())
    assert expected.std() > 0.5
    assert (found - expected).abs().max() < 2e-3  # half a step is 0.5e-3
    assert (found - expected).abs().mean() < 4e-4


def test_what_a_token_reads_ends_at_the_window(model: LanguageModel, ids: torch.Tensor) -> None:
    layers = len(IntegerNetwork(model)._layers)
    reach = layers * (WINDOW - 1) + 1
    long, changed = ids.repeat(1, 4), ids.repeat(1, 4)
    changed[:, 0] = (changed[:, 0] + 1) % VOCAB
    one, other = (run(IntegerNetwork(model), text, 32) for text in (long, changed))
    assert torch.equal(one[:, reach:], other[:, reach:])
    assert not torch.equal(one[:, : WINDOW - 1], other[:, : WINDOW - 1])


def test_depth_in_use_is_that_of_the_model(ids: torch.Tensor) -> None:
    model = make_model("depth_recurrent")
    deep = run(IntegerNetwork(model), ids, 16)
    model.set_depth(1)
    shallow = run(IntegerNetwork(model), ids, 16)
    assert (deep - shallow).abs().max() > 0.1
    assert (shallow - run(model.double(), ids, 16)).abs().max() < 2e-3


def test_a_matrix_product_is_one_of_integers(model: LanguageModel) -> None:
    """The first matrix of a block against NumPy int64."""
    block = IntegerNetwork(model)._layers[0].block
    rows, inverse = normed(torch.randn(6, 32, dtype=torch.float64) * 5, 1e-6)
    found = torch.nn.functional.linear(rows, block.mlp_input) * inverse
    weight = snap(model.get_parameter("blocks.0.mlp.input.weight").detach().double()).numpy()
    units = [2.0 ** (np.ceil(np.log2(np.abs(x).max(1))) - BITS) for x in (rows.numpy(), weight)]
    left, right = ((x / unit[:, None]).astype(np.int64) for x, unit in zip((rows.numpy(), weight), units, strict=True))
    assert max(np.abs(left).max(), np.abs(right).max()) <= 1 << BITS
    expected = (left @ right.T) * (units[0][:, None] * units[1][None, :]) * inverse.numpy()
    assert np.array_equal(found.numpy(), expected)
    mean = (left * left).sum(1) * units[0] ** 2 / 32
    assert np.array_equal(inverse.numpy()[:, 0], 1.0 / np.sqrt(mean + 1e-6))


def test_what_has_no_exact_form_is_refused() -> None:
    with pytest.raises(IntegerError, match=r"blocks.0.mlp.output with 8192 inputs: 8192 products .*2\^53"):
        IntegerNetwork(make_model("transformer", width=128, mlp_ratio=64.0, layers=1))
    with pytest.raises(IntegerError, match=r"window 8192: 8192 products .* at most 8191"):
        IntegerNetwork(make_model("transformer")).new_state(1, 8192)
    with pytest.raises(IntegerError, match="family odd has no integer-exact network, expected depth_recurrent or"):
        IntegerNetwork(type("Model", (), {"config": type("Config", (), {"family": "odd"})()})())
