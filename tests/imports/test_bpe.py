"""Byte-level BPE: any text comes back, bytes of tokens are those of the text, other kinds are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.base.errors import GolfError
from golf.data.shards import ShardWriter, load_split, open_split
from golf.imports.bpe import PRE_TOKENIZERS, BytePairs, pre_tokenizer_of
from golf.imports.origin import KEPT
from origins import add_tokenizer


def files(folder: Path, pre: str = "smollm") -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    add_tokenizer(folder, pre)
    names = [name for name in KEPT if (folder / name).is_file()]
    return {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in names}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[BytePairs]:
    folder = tmp_path_factory.mktemp("bpe")
    return [BytePairs(files(folder / pre, pre), vocab_size=300) for pre in PRE_TOKENIZERS]


@settings(max_examples=15)
@given(text=st.text(max_size=60))
def test_any_text_comes_back_whatever_cuts_it(tokenizers: list[BytePairs], text: str) -> None:
    for tokenizer in tokenizers:
        ids, num_bytes = tokenizer.document(text)
        assert ids.dtype == np.uint32 and ids[0] == tokenizer.bos_id == 0
        assert tokenizer.decode(ids) == text.encode() and num_bytes == len(text.encode())
        assert sum(len(tokenizer.token_bytes[i]) for i in ids[1:]) == num_bytes


def test_merges_are_used_and_digits_are_cut(tokenizers: list[BytePairs]) -> None:
    smollm = tokenizers[list(PRE_TOKENIZERS).index("smollm")]
    assert [smollm.token_bytes[i] for i in smollm.encode("in the 12")] == [b"in", b" the", b" ", b"1", b"2"]
    assert smollm.lossless and smollm.divisor == "raw"


def test_the_name_of_the_cut_is_found_again(tmp_path: Path) -> None:
    for pre in PRE_TOKENIZERS:
        found = pre_tokenizer_of(files(tmp_path, pre)["tokenizer.json"])
        assert PRE_TOKENIZERS[found] == PRE_TOKENIZERS[pre]
    with pytest.raises(GolfError, match="pre_tokenizer: .* has no name in GGUF"):
        pre_tokenizer_of({"pre_tokenizer": {"type": "Whitespace"}})


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    good = files(tmp_path)
    with pytest.raises(GolfError, match="found no tokenizer.json with a BPE model"):
        BytePairs({}, vocab_size=300)
    with pytest.raises(GolfError, match="ids up to 260, expected below the model's 99 rows"):
        BytePairs(good, vocab_size=99)
    other = json.loads(json.dumps(good))
    other["tokenizer.json"]["model"]["vocab"]["\u2581x"] = 261
    with pytest.raises(GolfError, match="is no byte-level piece"):
        BytePairs(other, vocab_size=300)
    normal = json.loads(json.dumps(good))
    normal["tokenizer.json"]["normalizer"] = {"type": "NFC"}
    tokenizer = BytePairs(normal, vocab_size=300)
    assert not tokenizer.lossless and tokenizer.decode(tokenizer.encode("plain")) == b"plain"
    with pytest.raises(GolfError, match="changes this text"):
        tokenizer.encode("e\u0301")


def test_shards_hold_ids_beyond_16_bits(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, vocab_size=1 << 18, bos_id=70_000, tokenizer_sha256="0" * 64)
    writer.add([70_000, 3, 262_143], 5)
    writer.close()
    split = load_split(tmp_path)
    assert split.tokens.dtype == np.uint32 and split.tokens.tolist() == [70_000, 3, 262_143]
    assert open_split(tmp_path).read(1, 2).tolist() == [3, 262_143]
    with pytest.raises(GolfError, match="at most 262144"):
        writer = ShardWriter(tmp_path / "big", vocab_size=(1 << 18) + 1, bos_id=0, tokenizer_sha256="0" * 64)
        writer.add([0], 0)
        writer.close()
        open_split(tmp_path / "big")
