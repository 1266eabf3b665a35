"""`golf fetch fineweb` against a server on this machine that answers as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from golf.base.errors import GolfError
from golf.cli import fetch
from golf.data.documents import CorpusError
from golf.data.hub import REPOSITORY, fetch_fineweb

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "datasets/tokenizers/fineweb_1024_bpe.model"
PLACE = "datasets/datasets/fineweb10B_sp1024"


class Hub(ThreadingHTTPServer):
    """Files by path in the repository; ``cut``: paths whose answer breaks off after so many bytes, once each time."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        shard = {f"{PLACE}/fineweb_{side}_00000{n}.bin": f"{side} {n} ".encode() * 900
                 for side, n in (("val", 0), ("train", 0), ("train", 1), ("train", 2))}  # fmt: skip
        self.files = {**shard, MODEL: b"pieces", f"{PLACE}/notes.txt": b"no shard"}
        self.listed = dict(self.files)  # what the hashes in the listing are of
        self.cut: dict[str, list[int]] = {}
        self.ranges = True
        self.asked: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api = f"/api/datasets/{REPOSITORY}/"
        if path == f"{api}revision/main":
            self.send(json.dumps({"sha": COMMIT}).encode())
        elif path.startswith(f"{api}tree/{COMMIT}/"):
            self.tree(path.removeprefix(f"{api}tree/{COMMIT}/"))
        elif path.startswith(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"):  # large files lie elsewhere
            self.send(b"", 302, Location=f"{self.server.url}/cdn/{path.partition(COMMIT + '/')[2]}")
        elif (name := path.removeprefix("/cdn/")) in self.server.files:
            self.content(name)
        else:
            self.send(b"", 404)

    def tree(self, folder: str) -> None:
        """Two pages, as for long folders; small files have the id of their git blob alone."""
        entries = [{"type": "directory", "path": f"{folder}/more", "oid": "0", "size": 0}]
        for path, content in self.server.listed.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"type": "file", "path": path, "oid": blob, "size": len(content)}
            if path.endswith(".bin"):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            if path.startswith(f"{folder}/"):
                entries.append(entry)
        half = len(entries) // 2
        second = self.path.endswith("?cursor=2")
        following = f'<{self.server.url}{self.path}?cursor=2>; rel="next"'
        body = json.dumps(entries[half:] if second else entries[:half]).encode()
        self.send(body, 200, **({} if second else {"Link": following}))

    def content(self, name: str) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append((name.rpartition("/")[2], wanted))
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0  # type: ignore[index]
        body = self.server.files[name][start:]
        cuts = self.server.cut.get(name, [])
        self.send(body, 206 if start else 200, cut=cuts.pop(0) if cuts else None)

    def send(self, body: bytes, status: int = 200, *, cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(hub: Hub, folder: Path, shards: int = 2) -> list[str]:
    commit, names = fetch_fineweb(folder, shards=shards, hub=hub.url, wait_seconds=0.0)
    assert commit == COMMIT
    return names


def test_shards_and_tokenizer_come_once(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    first = ["fineweb_1024_bpe.model", "fineweb_val_000000.bin", "fineweb_train_000000.bin", "fineweb_train_000001.bin"]
    assert get(hub, tmp_path) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(first)
    for path, content in hub.files.items():
        if path.rpartition("/")[2] in first:
            assert (tmp_path / path.rpartition("/")[2]).read_bytes() == content
    assert get(hub, tmp_path) == [] and get(hub, tmp_path, shards=3) == ["fineweb_train_000002.bin"]
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    parser = ArgumentParser()
    fetch.add_arguments(parser)
    assert fetch.run(parser.parse_args(["fineweb", "--shards", "3", "--to", str(tmp_path)])) == 0
    assert f"0 files fetched, all hashes as the hub lists them at commit {COMMIT}" in capsys.readouterr().out


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    name = "fineweb_train_000000.bin"
    hub.cut = {f"{PLACE}/{name}": [3000, 1000]}
    assert name in get(hub, tmp_path)
    assert [wanted for asked, wanted in hub.asked if asked == name] == ["", "bytes=3000-", "bytes=4000-"]
    assert (tmp_path / name).read_bytes() == hub.files[f"{PLACE}/{name}"]


def test_what_a_killed_fetch_left_is_continued(hub: Hub, tmp_path: Path) -> None:
    name = "fineweb_val_000000.bin"
    content = hub.files[f"{PLACE}/{name}"]
    (tmp_path / f".{name}.part").write_bytes(content[:500])
    get(hub, tmp_path)
    assert (name, "bytes=500-") in hub.asked and (tmp_path / name).read_bytes() == content
    (tmp_path / name).write_bytes(content[:500])  # cut off under its own name: fetched anew
    assert get(hub, tmp_path) == [name] and (tmp_path / name).read_bytes() == content


def test_a_hub_without_ranges_sends_all_again(hub: Hub, tmp_path: Path) -> None:
    name = "fineweb_train_000001.bin"
    hub.cut, hub.ranges = {f"{PLACE}/{name}": [10]}, False
    get(hub, tmp_path)
    assert (tmp_path / name).read_bytes() == hub.files[f"{PLACE}/{name}"]


def test_a_connection_that_keeps_breaking_ends_with_its_place(hub: Hub, tmp_path: Path) -> None:
    name = "fineweb_val_000000.bin"
    hub.cut = {f"{PLACE}/{name}": [100] * 5}
    with pytest.raises(CorpusError, match=rf"{name}: .*at byte 500 of .*; the same command goes on from there"):
        get(hub, tmp_path)
    assert not (tmp_path / name).exists() and (tmp_path / f".{name}.part").stat().st_size == 500
    get(hub, tmp_path)
    assert (name, "bytes=500-") in hub.asked


@pytest.mark.parametrize("path", [f"{PLACE}/fineweb_train_000000.bin", MODEL])
@pytest.mark.parametrize("change", [b"", b"longer"])
def test_another_content_than_listed_is_refused_and_removed(hub: Hub, tmp_path: Path, path: str, change: bytes) -> None:
    content = hub.files[path]
    hub.files[path] = change + content if change else content[:-1] + b"?"
    name = path.rpartition("/")[2]
    with pytest.raises(CorpusError, match=rf"{name}: .* bytes with the (sha256|git) hash .*, the hub lists .*fetch it"):
        get(hub, tmp_path)
    assert not (tmp_path / name).exists() and not (tmp_path / f".{name}.part").exists()


def test_what_the_hub_does_not_have_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"{PLACE}: has 3 training and 1 validation shards; .*here 4"):
        get(hub, tmp_path, shards=4)
    with pytest.raises(CorpusError, match="fineweb10B_sp77: has 0 training"):
        fetch_fineweb(tmp_path, shards=1, vocab=77, hub=hub.url)
    with pytest.raises(CorpusError, match="revision/gone: the hub answers 404 Not Found"):
        fetch_fineweb(tmp_path, shards=1, hub=hub.url, revision="gone")
    with pytest.raises(CorpusError, match=r"http://127.0.0.1:9/api/.*/revision/main: .*refused"):
        fetch_fineweb(tmp_path, shards=1, hub="http://127.0.0.1:9")
    del hub.listed[MODEL]
    with pytest.raises(CorpusError, match="datasets/tokenizers: has no fineweb_1024_bpe.model"):
        get(hub, tmp_path)


def test_links_and_folders_in_the_way_of_a_fetch(hub: Hub, tmp_path: Path) -> None:
    """A part that was a link was appended to, whatever it pointed to; a folder was found after the download."""
    name = "fineweb_val_000000.bin"
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / f".{name}.part").symlink_to(tmp_path / "precious")
    with pytest.raises(CorpusError, match=rf"\.{name}\.part: is a symbolic link"):
        get(hub, tmp_path)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    (tmp_path / f".{name}.part").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere/shard")  # the user's own: followed
    get(hub, tmp_path)
    assert (tmp_path / name).is_symlink() and (tmp_path / "elsewhere/shard").stat().st_size
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    hub.asked.clear()
    with pytest.raises(CorpusError, match=f"{name}: is a folder"):
        get(hub, tmp_path)
    assert hub.asked == []


@pytest.mark.parametrize("value", ["hub.example.org", "file:///etc", "\x1b[2J"])
def test_a_wrong_endpoint_names_its_variable(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", value)
    parser = ArgumentParser()
    fetch.add_arguments(parser)
    with pytest.raises(GolfError, match="environment variable HF_ENDPOINT: found .*, expected an address as https"):
        fetch.run(parser.parse_args(["fineweb", "--to", str(tmp_path)]))


def test_a_full_disk_is_told_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(CorpusError, match="bytes to fetch, 1 free; ask for fewer shards"):
        get(hub, tmp_path)
    assert hub.asked == []
