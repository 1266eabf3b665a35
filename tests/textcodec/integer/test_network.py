"""The integer-exact network: equal bits however it is run, those of its plain form, close to the float network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.textcodec.integer.exact import IntegerError
from golf.textcodec.integer.network import IntegerNetwork
from plain_network import plain_logits

WINDOW, TOKENS, VOCAB = 12, 30, 97
SHARED = {"heads": 4, "kv_heads": 2, "mlp_ratio": 2.03125, "softcap": 30.0, "rope_base": 10000.0, "qk_gain": 1.5}
SHARED |= {"norm_eps": 1e-6, "width": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "depth_recurrent": {"blocks": 2, "repeats": 2, "value_tables": 2, "cross_repeat_skip": True, "xsa_last": 2,
                        "negative_slope": 0.5},
    "record": {"layers": 5, "loop": [1, 2], "repeats": 2, "untied": False, "lanes_from": 3, "rope_dims": 4,
               "exclusive": True, "layer_scale": True, "skips": True, "gate_width": 5, "smear_width": 6, "bos_id": 1,
               "hash_rows": 41, "hash_width": 7, "negative_slope": 0.5},
    "transformer": {"layers": 5, "unet_skips": True, "negative_slope": 0.0},
}  # fmt: skip


def make_model(family: str, **keys: Any) -> LanguageModel:
    """A model whose every tensor matters; its MLP has an odd number of channels."""
    torch.manual_seed(3)
    config = config_from_dict({"family": family, **SHARED, **FAMILIES[family], **keys})
    model = build_model(config, VOCAB).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def arrays_of(model: LanguageModel) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def integer(model: LanguageModel, **changed: Any) -> IntegerNetwork:
    return IntegerNetwork({**vars(model.config), **changed}, arrays_of(model), depth=model.depth)  # type: ignore[call-overload]


@pytest.fixture(params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return make_model(request.param)


@pytest.fixture
def ids() -> np.ndarray:
    ids = np.random.default_rng(5).integers(0, VOCAB, (5, TOKENS))
    ids[:2, [3, 17]] = 1  # BOS of the families that know it
    return ids


def run(network: IntegerNetwork, ids: np.ndarray, chunk: int) -> np.ndarray:
    """Logits (B,T,V) of passes of ``chunk`` tokens."""
    stream, out = network.stream(len(ids), WINDOW, chunk), []
    for first in range(0, ids.shape[1], chunk):
        piece = ids[:, first : first + chunk]
        half = len(ids) // 2  # streams in two calls, as threads share them
        out.append(np.concatenate([stream.logits(part, at) for part, at in ((piece[:half], 0), (piece[half:], half))
                                   if len(part)]))  # fmt: skip
        stream.advance(piece.shape[1])
    return np.concatenate(out, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keys", [{}, {"width": 48, "heads": 3, "kv_heads": 1}, {"width": 264, "heads": 2}])
def test_kernels_give_the_bits_of_the_plain_form(family: str, keys: dict[str, Any], ids: np.ndarray) -> None:
    model = make_model(family, **keys)
    expected = plain_logits(vars(model.config), arrays_of(model), ids[0], WINDOW)  # type: ignore[call-overload]
    assert len(np.unique(expected)) > 500
    assert np.array_equal(run(integer(model), ids[:1], 7)[0], expected)


@pytest.mark.parametrize("token", [-1, VOCAB, 1 << 40])
def test_ids_outside_the_vocabulary_reach_no_kernel(token: int) -> None:
    stream = integer(make_model("transformer")).stream(2, WINDOW)
    with pytest.raises(ValueError, match="ids: found .*, expected 0 to"):
        stream.logits(np.array([[1], [token]]))
    for ids, first in ((np.ones((2, 2)), 0), (np.ones((2, 1)), 1), (np.ones((1, 1)), -1)):
        with pytest.raises(ValueError, match="outside of this stream"):
            stream.logits(ids, first)


def test_batches_and_chunks_give_the_same_bits(model: LanguageModel, ids: np.ndarray) -> None:
    network = integer(model)
    expected = run(network, ids, TOKENS)
    for chunk in (1, 7):
        assert np.array_equal(run(network, ids, chunk), expected)
    for stream in range(len(ids)):
        assert np.array_equal(run(network, ids[stream : stream + 1], 13), expected[stream : stream + 1])
    many = np.tile(ids, (30, 1))  # more rows than go through the layers together
    assert np.array_equal(run(network, many, 20), np.tile(expected, (30, 1, 1)))


def test_logits_are_near_those_of_the_float_network(model: LanguageModel, ids: np.ndarray) -> None:
    found = run(integer(model), ids, 16) / 1024
    exact = model.double()
    with torch.inference_mode():
        state = exact.new_state(len(ids), WINDOW, 16)
        expected = exact.logits(exact.step(torch.from_numpy(ids), state)).numpy()
    assert expected.std() > 0.5
    assert np.abs(found - expected).mean() < 0.004 and np.abs(found - expected).max() < 0.05


def test_what_a_token_reads_ends_at_the_window(model: LanguageModel, ids: np.ndarray) -> None:
    network = integer(model)
    reach = len(network.layers.block) * (WINDOW - 1) + 1
    long = np.tile(ids, (1, 4))
    changed = long.copy()
    changed[:, 0] = (changed[:, 0] + 1) % VOCAB
    one, other = (run(network, text, 32) for text in (long, changed))
    assert np.array_equal(one[:, reach:], other[:, reach:])
    assert not np.array_equal(one[:, : WINDOW - 1], other[:, : WINDOW - 1])


def test_depth_in_use_is_that_of_the_model(ids: np.ndarray) -> None:
    model = make_model("depth_recurrent")
    deep = run(integer(model), ids, 16)
    model.set_depth(1)
    shallow = run(integer(model), ids, 16)
    assert np.abs(deep - shallow).max() > 100
    expected = plain_logits(vars(model.config), arrays_of(model), ids[0], WINDOW, depth=1)  # type: ignore[call-overload]
    assert np.array_equal(shallow[0], expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"loop": [3, 9]}, r"model.loop: found \[3, 9\], expected first and last layer"),
     ({"rope_dims": 3}, "model.rope_dims: found 3, expected an even one"),
     ({"hash_rows": 1}, "hash_rows 1 and hash_width 7 are no table"),
     ({"gate_width": 99}, "gate_width or smear_width are larger"),
     ({"gate_width": 2}, r"blocks.0.attention.gate: found shape \(4, 5\), expected \(4, 2\)")],
)  # fmt: skip
def test_configurations_that_are_no_record_stack_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegerError, match=message):
        integer(make_model("record"), **changed)


def test_what_has_no_exact_form_is_refused(ids: np.ndarray) -> None:
    with pytest.raises(IntegerError, match="family odd has no integer-exact network, expected depth_recurrent or"):
        IntegerNetwork({"family": "odd"}, {})
    model = make_model("transformer")
    with pytest.raises(IntegerError, match=r"blocks.0.mlp.input.weight: found shape \(65, 32\), expected \(96, 32\)"):
        integer(model, mlp_ratio=3.0)
    with pytest.raises(IntegerError, match="model.heads: found '4', expected a whole number from 1 to"):
        integer(model, heads="4")
    with torch.no_grad():
        model.blocks[1].mlp.input.weight[3, 4] = 1e30
        model.blocks[1].mlp.output.weight[3, 3] = 1e30
    with pytest.raises(IntegerError, match=r"grow beyond 2\^200"):
        run(integer(model), ids, 16)
    with torch.no_grad():
        model.token_embedding[1, 0] = float("nan")
    with pytest.raises(IntegerError, match="token_embedding: holds a number that is not finite"):
        integer(model)
