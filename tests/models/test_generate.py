"""Drawing tokens: against a plain form, and as a command on a tiny artifact."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golf.artifact.decode import Decoded, load_artifact
from golf.base.errors import GolfError
from golf.cli import build_parser
from golf.cli.generate import written
from golf.data.tokenizer import train_tokenizer
from golf.models.generate import Sampling, draw_token, generate
from tiny import flat, hybrid, recurrent, shaken, write_artifact

PROSE = "the city of words, and the river; a caf\u00e9 by the sea\n" * 30


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer([PROSE], 290)
    return write_artifact(tmp_path_factory.mktemp("artifact"), tokenizer)


@pytest.fixture(scope="module")
def decoded(artifact: Path) -> Decoded:
    return load_artifact(artifact)


def plain_choice(logits: np.ndarray, temperature: float, top_p: float) -> dict[int, float]:
    """The tokens that may be drawn with their probabilities, by the definition: sort, add up, keep, divide."""
    scaled = np.exp((logits - logits.max()) / temperature)
    chances = scaled / scaled.sum()
    kept: dict[int, float] = {}
    for token in sorted(range(len(logits)), key=lambda v: (-logits[v], v)):
        kept[token] = float(chances[token])
        if sum(kept.values()) >= top_p:
            break
    return {token: chance / sum(kept.values()) for token, chance in kept.items()}


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=12), st.floats(0.2, 3.0), st.floats(0.05, 0.999))
def test_each_token_is_drawn_as_often_as_it_is_likely(logits: list[float], temperature: float, p: float) -> None:
    sampling, row = Sampling(temperature, p), np.array(logits)
    draws = (np.arange(400) + 0.5) / 400
    drawn = np.bincount([draw_token(row, sampling, float(u)) for u in draws], minlength=len(row)) / 400
    wanted = plain_choice(row, temperature, p)
    other = plain_choice(row, temperature, p * (1 + 1e-9))  # a sum that meets top_p exactly may round either way
    if wanted.keys() == other.keys():
        np.testing.assert_allclose(drawn, [wanted.get(v, 0.0) for v in range(len(row))], atol=1.01 / 400)


def test_zero_temperature_takes_the_likeliest_and_the_lowest_of_equals() -> None:
    assert draw_token(np.array([1.0, 3.0, 3.0, 2.0]), Sampling(temperature=0.0), 0.99) == 1


@pytest.mark.parametrize("shape", [flat(), recurrent(), hybrid()], ids=lambda shape: shape["family"])
def test_tokens_follow_from_all_before_them(shape: dict[str, object]) -> None:
    """Greedy text, token by token from keys kept, is that of whole passes over everything written so far."""
    model = shaken(shape, 40).eval()
    prompt = np.array([1, 5, 9])
    found = list(itertools.islice(generate(model, prompt, Sampling(temperature=0.0), never=(0, 2)), 12))
    ids = prompt.tolist()
    for token in found:
        with torch.no_grad():
            row = model.logits(model.hidden(torch.tensor([ids]))[:, -1])[0].numpy().copy()
        row[[0, 2]] = -np.inf
        assert row[token] >= row.max() - 1e-4
        ids.append(token)


def test_the_same_seed_writes_the_same_text_and_another_seed_another(decoded: Decoded) -> None:
    def text(seed: int, threads: int = 1) -> str:
        return "".join(written(decoded, "the city", Sampling(1.0, 1.0, seed), tokens=40))

    assert text(3) == text(3) != text(4)
    assert len(text(3)) > 10


def test_the_command_prints_the_prompt_and_what_follows(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser, modules = build_parser(["generate"])
    threads, shown = torch.get_num_threads(), []
    for seed in ("1", "1", "2"):
        words = ["generate", str(artifact), "--prompt", "the \x1b[2J caf\u00e9", "--tokens", "30", "--seed", seed]
        assert modules["generate"].run(parser.parse_args([*words, "--temperature", "1"])) == 0
        shown.append(capsys.readouterr().out)
    torch.set_num_threads(threads)
    assert shown[0] == shown[1] != shown[2]
    assert shown[0].startswith("the \\x1b[2J caf\u00e9") and shown[0].endswith("\n")
    assert all(c.isprintable() or c in "\n\t" for c in shown[0]), "a model may write what a terminal obeys"


def test_the_end_of_the_document_ends_the_text(decoded: Decoded, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer([PROSE], 290)
    cafe = tokenizer.encode("caf\u00e9 by")
    split = [*cafe, next(v for v, piece in enumerate(tokenizer.token_bytes) if piece == b"\xc3")]  # half a character
    monkeypatch.setattr("golf.models.generate.generate", lambda *a, **k: iter([*split, tokenizer.bos_id, *cafe]))
    assert "".join(written(decoded, "", Sampling(), tokens=99)) == "caf\u00e9 by\ufffd"
    assert "".join(written(decoded, "", Sampling(), tokens=2)) == tokenizer.decode(cafe[:2]).decode()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"temperature": -1.0}, "temperature: found -1.0"), ({"temperature": float("nan")}, "temperature: found nan"),
        ({"top_p": 0.0}, "top-p: found 0.0"), ({"top_p": 1.1}, "top-p: found 1.1"),
        ({"seed": -1}, "seed: found -1"), ({"window": 0}, "window: found 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_named(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(GolfError, match=words):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_a_prompt_that_is_no_text_is_refused(decoded: Decoded) -> None:
    with pytest.raises(GolfError, match="--prompt: character 1 is no character"):
        list(written(decoded, "a\udce9", Sampling(), tokens=1))
