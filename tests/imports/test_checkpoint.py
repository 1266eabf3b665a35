"""PyTorch checkpoints: the baseline against its formulas, our own families, a whole run, every refusal."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from corpora import other_model, write_documents
from golf.artifact.decode import load_artifact
from golf.base.errors import GolfError
from golf.base.files import read_json, write_json
from golf.cli import score
from golf.data.shards import documents_of
from golf.data.tokenizer import Tokenizer, train_tokenizer
from golf.imports.checkpoint import import_checkpoint
from golf.imports.folder import find_checkpoint
from golf.imports.origin import open_origin
from golf.imports.texts import target_bytes
from golf.models.base import LanguageModel
from golf.models.registry import load_weights, model_of
from origins import logits, small_import, their_logits, their_model
from stages import calibrate, code, compress, fit, import_model, import_report, judge, quantize, rivals, texts
from tiny import flat, hybrid, record, recurrent, shaken

LINES = [f"The {i}th thing of {i * i} in the list, and  another.\n" * 12 for i in range(60)]
SHAPE = {"width": 16, "layers": 5, "heads": 4, "kv_heads": 2, "hidden": 24}


@pytest.fixture(scope="module")
def pieces() -> bytes:
    """A tokenizer that normalizes, as the competition's does."""
    return other_model(LINES, 300)


def baseline_state(vocab_size: int = 300, **changes: int) -> dict[str, Tensor]:
    """Random weights under the names of ``train_gpt.py``, in the types that it trains."""
    shape = SHAPE | changes
    width, heads, layers = shape["width"], shape["heads"], shape["layers"]
    narrow = width // heads * shape["kv_heads"]
    torch.manual_seed(0)
    state = {
        "tok_emb.weight": torch.randn(vocab_size, width).bfloat16(),
        "skip_weights": torch.randn(layers // 2, width),
    }
    for i in range(layers):
        matrices = {
            "attn.c_q": (width, width), "attn.c_k": (narrow, width), "attn.c_v": (narrow, width),
            "attn.proj": (width, width), "mlp.fc": (shape["hidden"], width), "mlp.proj": (width, shape["hidden"]),
        }  # fmt: skip
        state |= {f"blocks.{i}.{name}.weight": 0.5 * torch.randn(size) for name, size in matrices.items()}
        state |= {f"blocks.{i}.{name}": torch.randn(width) for name in ("attn_scale", "mlp_scale")}
        state |= {f"blocks.{i}.attn.q_gain": torch.randn(heads), f"blocks.{i}.resid_mix": torch.randn(2, width)}
    return state


def naive_logits(state: dict[str, Tensor], ids: list[int], *, heads: int, kv_heads: int, cap: float) -> Any:
    """(T, V): the baseline by its formulas in float64, one token, one head and one key at a time."""
    weights = {name: tensor.double().numpy() for name, tensor in state.items()}
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    width = weights["tok_emb.weight"].shape[1]
    size = width // heads

    def norm(x: Any) -> Any:
        return x / math.sqrt(float(np.mean(x * x)) + 2.0**-23)

    def turned(x: Any, position: int) -> Any:
        pairs = [complex(x[j], x[j + size // 2]) for j in range(size // 2)]  # a rotation by minus the angle
        pairs = [z * np.exp(-1j * position * 10000.0 ** (-2 * j / size)) for j, z in enumerate(pairs)]
        return np.array([z.real for z in pairs] + [z.imag for z in pairs])

    def block(i: int, stream: list[Any], first: list[Any]) -> list[Any]:
        w = {name.removeprefix(f"blocks.{i}."): array for name, array in weights.items()}
        mix = w["resid_mix"]
        stream = [mix[0] * x + mix[1] * x0 for x, x0 in zip(stream, first, strict=True)]
        keys, values, out = [], [], []
        for position, x in enumerate(stream):
            h = norm(x)
            q, k, v = (w[f"attn.{name}.weight"] @ h for name in ("c_q", "c_k", "c_v"))
            keys.append([turned(norm(k[g * size : (g + 1) * size]), position) for g in range(kv_heads)])
            values.append([v[g * size : (g + 1) * size] for g in range(kv_heads)])
            mixed = []
            for head in range(heads):
                query = turned(norm(q[head * size : (head + 1) * size]), position) * w["attn.q_gain"][head]
                group = head * kv_heads // heads
                scores = np.array([query @ key[group] for key in keys]) / math.sqrt(size)
                shares = np.exp(scores - scores.max())
                mixed.append(sum(s * value[group] for s, value in zip(shares / shares.sum(), values, strict=True)))
            x = x + w["attn_scale"] * (w["attn.proj.weight"] @ np.concatenate(mixed))
            hidden = np.maximum(w["mlp.fc.weight"] @ norm(x), 0.0) ** 2
            out.append(x + w["mlp_scale"] * (w["mlp.proj.weight"] @ hidden))
        return out

    first = [norm(weights["tok_emb.weight"][token]) for token in ids]
    stream, kept = first, list[Any]()
    for i in range(layers):
        back = i - layers // 2
        if 0 <= back < len(weights["skip_weights"]):
            stream = [x + weights["skip_weights"][back] * y for x, y in zip(stream, kept.pop(), strict=True)]
        stream = block(i, stream, first)
        if back < 0:
            kept.append(stream)
    return np.stack([cap * np.tanh(weights["tok_emb.weight"] @ norm(x) / cap) for x in stream])


def put(folder: Path, state: Any, pieces: bytes, model: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "final_model.pt")
    (folder / "fineweb.model").write_bytes(pieces)
    if model is not None:
        write_json(folder / "params.yaml", {"seed": 1, "model": model})  # JSON is YAML
    return folder


def imported(folder: Path, root: Path) -> LanguageModel:
    found = find_checkpoint(folder)
    assert found is not None
    import_checkpoint(found, root)
    path = root / "artifacts/average/model.safetensors"
    weights, meta = load_weights(path, made_by="test")
    return model_of(meta, weights, path=path, made_by="test").eval()


@pytest.mark.parametrize("prefix", ["", "module._orig_mod."])
@pytest.mark.parametrize("layers", [5, 4, 1])
def test_the_baseline_by_its_formulas(layers: int, prefix: str, pieces: bytes, tmp_path: Path) -> None:
    state = baseline_state(layers=layers)
    prefixed = {prefix.replace("module._orig_mod.", "_orig_mod.module.") + name: value for name, value in state.items()}
    model = imported(put(tmp_path / "their", prefixed, pieces), tmp_path)
    ids = [1, 7, 299, 7, 30, 31, 7]
    expected = naive_logits(state, ids, heads=4, kv_heads=2, cap=30.0)
    np.testing.assert_allclose(logits(model, torch.tensor([ids]))[0].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_baseline_at_the_size_of_the_competition_has_its_parameters(pieces: bytes, tmp_path: Path) -> None:
    """9 x 512, 8 heads, 4 of keys: 17,059,912 as its log says; 300 instead of 1,024 pieces here."""
    state = baseline_state(width=512, layers=9, heads=8, kv_heads=4, hidden=1024)  # 65 MB
    model = imported(put(tmp_path / "their", state, pieces), tmp_path)
    assert model.num_parameters() == 17_059_912 - (1024 - 300) * 512
    assert {name for name in model.state_dict() if model.role(name) == "embedding"} == {"token_embedding"}


def test_other_settings_of_the_baseline_stand_in_params_yaml(pieces: bytes, tmp_path: Path) -> None:
    state = baseline_state()
    shape = flat(layers=5, heads=4, kv_heads=2, mlp_ratio=1.5, softcap=9.0, negative_slope=0.0, norm_eps=2.0**-23)
    model = imported(put(tmp_path / "their", state, pieces, shape), tmp_path)
    expected = naive_logits(state, [1, 5, 6], heads=4, kv_heads=2, cap=9.0)
    np.testing.assert_allclose(logits(model, torch.tensor([[1, 5, 6]]))[0].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [flat(), recurrent(), hybrid(), record()], ids=lambda shape: shape["family"])
def test_a_state_dict_of_our_own_comes_back(shape: dict[str, Any], pieces: bytes, tmp_path: Path) -> None:
    own = shaken(shape, 300)
    folder = put(tmp_path / "their", own.state_dict(), pieces, shape)
    model = imported(folder, tmp_path)
    assert set(model.state_dict()) == set(own.state_dict())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in own.state_dict().items())
    if shape["family"] == "record":  # fingerprints of the stages hold the code of that family alone
        write_json(tmp_path / "p.json", {"import": {"source": "their"}})
        code.run(tmp_path / "p.json", tmp_path)
        text = (tmp_path / "artifacts/code/calibrate.txt").read_text(encoding="utf-8")
        assert "golf/models/record.py" in text and "golf/models/gdn_hybrid.py" not in text


def test_a_checkpoint_goes_the_whole_way(root: Path, pieces: bytes, tmp_path: Path) -> None:
    """A baseline, its tokenizer, the competition's shards: compressed, judged beside the public recipe, scored."""
    put(tmp_path / "their", baseline_state(), pieces)
    tokenizer = Tokenizer(pieces)
    coded = [tokenizer.encode(line) for line in LINES]
    (tmp_path / "shards").mkdir()
    write_documents(tmp_path / "shards/fineweb_val_000000.bin", coded[:10])
    write_documents(tmp_path / "shards/fineweb_train_000000.bin", coded[10:])
    write_json(tmp_path / "params.json", small_import(root, "shards"))
    stages: list[Callable[[Path, Path], Any]] = [
        import_model.run, texts.run, calibrate.run, quantize.run, fit.run, compress.run, judge.run, rivals.run,
        import_report.run,
    ]  # fmt: skip
    for run in stages:
        run(tmp_path / "params.json", tmp_path)
    judged = [tokenizer.decode(ids) for ids in documents_of(tmp_path / "artifacts/tokens/judged/calibration")]
    assert set(judged) <= {tokenizer.decode(ids) for ids in coded[:10]}
    metrics = read_json(tmp_path / "metrics/judge.json", made_by="test")
    assert 0 < metrics["calibration_kl"] < 2 and metrics["other_tokens"] > 200
    assert "public recipe, clip 8" in (tmp_path / "reports/results.md").read_text(encoding="utf-8")
    found = load_artifact(tmp_path / "artifacts/compress/model.golf")
    assert found.tokenizer_model == pieces and found.model.vocab_size == 300
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    names = (str(tmp_path / "artifacts" / name) for name in ("compress/model.golf", "tokens/judged/calibration"))
    assert score.run(parser.parse_args([*names, "--modes", "roundtrip", "--json", str(tmp_path / "score.json")])) == 0
    scored = read_json(tmp_path / "score.json", made_by="test")
    assert scored["bytes"] == sum(map(len, judged)) and 0 < scored["scores"]["roundtrip"]["bits_per_byte"] < 20


@pytest.mark.parametrize("lossless", [False, True])
def test_bytes_of_judged_targets_are_those_of_the_decoded_text(lossless: bool, pieces: bytes) -> None:
    tokenizer = train_tokenizer(LINES, 300) if lossless else Tokenizer(pieces)
    texts_ = [" The list", "語 and the", "x"]
    ids = np.concatenate([[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts_])
    found = target_bytes(tokenizer, np.stack([ids, ids]))
    total = sum(len(tokenizer.decode(tokenizer.encode(text))) for text in texts_)
    assert found.shape == (2, len(ids) - 1) and (found[0] == -1).sum() == 2
    assert found.clip(0).sum() == 2 * total


def test_pytorch_model_bin_of_hugging_face(tmp_path: Path) -> None:
    """One file of the old format, with the causal masks of old versions, and two behind an index."""
    from golf.imports.origin import import_model as import_origin

    theirs, ids = their_model("gpt2"), torch.randint(0, 99, (1, 12))
    state = dict(theirs.state_dict()) | {"transformer.h.0.attn.bias": torch.ones(4, 4, dtype=torch.bool)}
    theirs.config.save_pretrained(tmp_path)
    names = sorted(state)
    parts = {"a.bin": names[::2], "b.bin": names[1::2]}
    for parted in (False, True):
        if parted:
            (tmp_path / "pytorch_model.bin").unlink()
            weight_map = {name: part for part, own in parts.items() for name in own}
            write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": weight_map})
        for part, own in parts.items() if parted else [("pytorch_model.bin", names)]:
            torch.save({name: state[name] for name in own}, tmp_path / part, _use_new_zipfile_serialization=parted)
        import_origin(open_origin(tmp_path), tmp_path)
        path = tmp_path / "artifacts/average/model.safetensors"
        weights, meta = load_weights(path, made_by="test")
        model = model_of(meta, weights, path=path, made_by="test").eval()
        torch.testing.assert_close(logits(model, ids), their_logits(theirs, ids), atol=1e-4, rtol=1e-4)


class Evil:
    """A pickle that would call a function."""

    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


def changed(**tensors: Any) -> dict[str, Any]:
    """The baseline with tensors replaced, or left out where they are None; `__` stands for a dot."""
    state = baseline_state() | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: Evil(), r"final_model.pt: torch.load\(weights_only=True\) refuses it .*Weights only load failed"),
        (lambda: [1], "final_model.pt: found list, expected names and tensors"),
        (lambda: {}, "final_model.pt: found nothing, expected names and tensors"),
        (lambda: {"model": changed(), "step": 3}, "final_model.pt: 'model' holds a dict, expected names and tensors"),
        (lambda: changed(tok_emb__weight=None), "found no table token_embedding: neither"),
        (lambda: changed(blocks__0__attn__q_gain=None), "blocks.0.attn.q_gain is missing, which train_gpt.py's"),
        (lambda: changed(blocks__3__mlp__fc__weight=None), r"blocks.3.mlp.fc.weight is missing, .*\(1 are\)"),
        (lambda: changed(bigram__weight=torch.ones(2)), r"bigram.weight has no place in this model \(1 left over\)"),
        (lambda: changed(lm_head__weight=torch.ones(300, 16)), "lm_head.weight: an untied head is not built"),
        (lambda: changed(skip_weights=torch.ones(4, 16)), r"skip_weights: found \(4, 16\), .*expects \(2, 16\)"),
        (lambda: changed(blocks__1__attn_scale=torch.ones(16).int()), "blocks.1.attn_scale holds int32 numbers"),
        (lambda: changed(blocks__1__attn_scale=torch.full((16,), math.nan)), "attn_scale holds NaN or infinity"),
        (lambda: changed(skip_weights=torch.ones(2, 16).to_sparse()), "skip_weights is no dense tensor"),
        (lambda: changed(blocks__999999__attn_scale=torch.ones(16)), "final_model.pt: shape.layers: found 1000000 "),
        (lambda: changed(blocks__0__attn__q_gain=torch.ones(3)), "pt: shape.*heads: found 3, expected a divisor of"),
        (lambda: baseline_state(vocab_size=301), "fineweb.model: found 300 pieces, final_model.pt has rows for 301"),
        (lambda: shaken(flat(), 300).state_dict(), "found no params.yaml, expected one with the section `model`"),
    ],
)  # fmt: skip
def test_refusals_name_the_file_and_the_tensor(
    state: Callable[[], Any], words: str, pieces: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GolfError, match=words) as caught:
        imported(put(tmp_path / "their", state(), pieces), tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "artifacts").exists()
    assert not capsys.readouterr().out


def test_refusals_of_the_folder(pieces: bytes, tmp_path: Path) -> None:
    folder = put(tmp_path / "their", baseline_state(), pieces, recurrent())
    with pytest.raises(GolfError, match="params.yaml: model.family: found depth_recurrent, but final_model.pt has the"):
        imported(folder, tmp_path)
    (folder / "final_model.pt").write_bytes((folder / "final_model.pt").read_bytes()[:2000])
    (folder / "params.yaml").unlink()
    with pytest.raises(GolfError, match=r"final_model.pt: torch.load\(weights_only=True\) refuses it"):
        imported(folder, tmp_path)
    with pytest.raises(GolfError, match="expected a .gguf, a folder .*, or one with a .pt and its tokenizer"):
        open_origin(folder / "final_model.pt")
    (folder / "other.pth").write_bytes(b"")
    with pytest.raises(GolfError, match=r"found final_model.pt, other.pth, expected exactly one state dict"):
        find_checkpoint(folder)
    (folder / "other.pth").unlink()
    (folder / "fineweb.model").unlink()
    with pytest.raises(GolfError, match="found none, expected exactly one SentencePiece .model"):
        find_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps({}), encoding="utf-8")
    assert find_checkpoint(folder) is None  # a folder of Hugging Face
