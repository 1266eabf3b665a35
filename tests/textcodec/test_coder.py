"""The compiled step against the same thing one call at a time: document bias, mixture, frequencies, range coder."""

from __future__ import annotations

import math

import numpy as np
import pytest

from golf.mixture.config import MixtureConfig
from golf.mixture.stream import MixtureState
from golf.textcodec import blocks
from golf.textcodec.blocks import BlockCodec
from golf.textcodec.range_coder import RangeEncoder, RangeError, frequencies
from reference_bias import ReferenceBias

VOCAB, STREAMS, BOS = 43, 3, 1


class Given:
    """Logits that are known beforehand, (steps, S, V)."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits, self._step = logits, 0

    def step(self, ids: np.ndarray) -> np.ndarray:
        self._step += 1
        return np.asarray(self._logits[self._step - 1])


def naive(tokens: np.ndarray, logits: np.ndarray, config: MixtureConfig | None) -> tuple[bytes, float]:
    """Code and nats of tokens that streams share as ``BlockCodec`` cuts them."""
    base, longer = divmod(len(tokens), STREAMS)
    parts = np.split(tokens, np.cumsum([base + (s < longer) for s in range(STREAMS)])[:-1])
    coder, nats = RangeEncoder(), 0.0
    state = MixtureState(config or MixtureConfig(), vocab_size=VOCAB, streams=STREAMS)
    first = ReferenceBias(VOCAB, (config or MixtureConfig()).record)
    biases = [first, *(first.beside() for _ in range(STREAMS - 1))]
    for stream in range(STREAMS):
        state.update(BOS, stream=stream, starts_document=True)
    for step in range(base + (longer > 0)):
        for stream in range(STREAMS):
            if step >= len(parts[stream]):
                continue
            token = int(parts[stream][step])
            biased = biases[stream].apply(logits[step, stream][None])
            row = np.exp(biased[0]) if config is None else state.distribution(biased[0], stream=stream)
            coder.encode(frequencies(row), token)
            nats -= math.log(row[token])
            if config is not None:
                state.update(token, stream=stream, starts_document=token == BOS)
                biases[stream].update(biased, np.array([token]))
                if token == BOS:
                    biases[stream].start_document()
    return coder.finish(), nats


@pytest.mark.parametrize("config", [None, MixtureConfig()], ids=["model", "mixture"])
def test_compiled_steps_state_what_single_calls_do(
    config: MixtureConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "TOKENS_PER_STREAM", 50)
    rng = np.random.default_rng(3)
    tokens = np.tile(rng.integers(0, VOCAB, 29), 7)[:200]  # repeats, so that counts matter; BOS comes several times
    logits = rng.normal(size=(67, STREAMS, VOCAB)) * 2.0
    codec = BlockCodec(lambda streams, window, inputs: Given(logits), config, VOCAB, BOS, STREAMS, 8)
    coded = codec.encode(tokens)
    code, nats = naive(tokens, logits, config)
    assert coded.stated_bits == pytest.approx(nats / math.log(2.0), rel=1e-12)
    assert len(code) == len(coded.code)  # last bits of numpy's exp and log may differ
    again, bits = codec.decode(coded.code, len(tokens), sizes=np.ones(VOCAB), num_bytes=200)
    assert np.array_equal(again, tokens) and bits == coded.stated_bits
    with pytest.raises(RangeError, match="more bytes than the block states"):
        codec.decode(coded.code, len(tokens), sizes=np.ones(VOCAB), num_bytes=199)
    with pytest.raises(RangeError, match="does not end as an encoder ends it"):
        codec.decode(coded.code + b"\1", len(tokens), sizes=np.ones(VOCAB), num_bytes=200)
    logits[5] = np.nan
    with pytest.raises(RangeError, match="the artifact's weights are broken"):
        codec.encode(tokens)
