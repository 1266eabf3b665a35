"""Get the competition's FineWeb shards and their tokenizer from the Hugging Face hub.

The hub lists a folder at ``/api/datasets/REPOSITORY/tree/COMMIT/FOLDER`` (of a file in large-file storage with its
SHA-256, of any other with its git blob id) and serves a file at ``/datasets/REPOSITORY/resolve/COMMIT/PATH``, by ranges
too. Files grow as ``.NAME.part`` and get their name when size and hash are right; what a broken connection or a killed
process leaves is continued. Repository and layout: openai/parameter-golf, data/README.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from golf.base.progress import bar
from golf.data.documents import CorpusError

__all__ = ["HUB", "REPOSITORY", "Remote", "fetch_fineweb"]

HUB, REPOSITORY = "https://huggingface.co", "willdepueoai/parameter-golf"
_SHARDS, _TOKENIZERS = "datasets/datasets/fineweb10B_sp{vocab}", "datasets/tokenizers"
_BLOCK, _TIMEOUT_SECONDS, _TRIES = 1 << 20, 60.0, 5


@dataclass(frozen=True)
class Remote:
    """A file of the hub: path in the repository, bytes, and its ``sha256`` (or ``git`` blob id) in hex."""

    path: str
    size: int
    kind: str
    digest: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def hasher(self) -> Any:
        """A hash that has read what comes before the content."""
        if self.kind == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


def fetch_fineweb(
    folder: str | Path,
    *,
    shards: int,
    vocab: int = 1024,
    hub: str = HUB,
    repository: str = REPOSITORY,
    revision: str = "main",
    wait_seconds: float = 2.0,
) -> tuple[str, list[str]]:
    """Put all validation shards, the first ``shards`` training shards and the tokenizer into ``folder``.

    Returns the commit of ``revision`` that they are of, and the names that were downloaded: what is there with the
    right hash is not. A broken connection is tried again after ``wait_seconds``, then twice that, and so on. Raises
    ``CorpusError`` naming the address or file: what cannot be reached, is not there, or has another hash.
    """
    folder = Path(folder)
    api = f"{hub}/api/datasets/{repository}"
    commit = str(_json(f"{api}/revision/{urllib.parse.quote(revision, safe='')}").get("sha", ""))
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise CorpusError(f"{api}/revision/{revision}: names no commit; is this a hub?")
    wanted = _wanted(api, commit, shards, vocab)
    folder.mkdir(parents=True, exist_ok=True)
    if taken := [remote.name for remote in wanted if (folder / remote.name).is_dir()]:
        raise CorpusError(f"{folder / taken[0]}: is a folder, expected the name of a file to fetch")
    places = {remote: Path(os.path.realpath(folder / remote.name)) for remote in wanted}  # links are followed
    missing = [remote for remote, path in places.items() if not _is_here(remote, path)]
    needed = sum(remote.size - _size(_part(places[remote])) for remote in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CorpusError(f"{folder}: {needed:,} bytes to fetch, {free:,} free; ask for fewer shards")
    with bar(what="fineweb", total=needed, unit="B") as shown:
        for remote in missing:
            address = f"{hub}/datasets/{repository}/resolve/{commit}/{urllib.parse.quote(remote.path)}"
            _download(remote, address, places[remote], shown, wait_seconds)
    return commit, [remote.name for remote in missing]


def _wanted(api: str, commit: str, shards: int, vocab: int) -> list[Remote]:
    place = _SHARDS.format(vocab=vocab)
    listed = {remote.name: remote for remote in _listing(f"{api}/tree/{commit}/{place}")}
    validation = sorted(name for name in listed if re.fullmatch(r"fineweb_val_[0-9]{6}\.bin", name))
    training = sorted(name for name in listed if re.fullmatch(r"fineweb_train_[0-9]{6}\.bin", name))
    if not validation or not 1 <= shards <= len(training):
        found = f"{len(training)} training and {len(validation)} validation shards"
        raise CorpusError(f"{place}: has {found}; asked for 1 or more, here {shards}, and all validation shards")
    tokenizer = f"fineweb_{vocab}_bpe.model"
    models = [remote for remote in _listing(f"{api}/tree/{commit}/{_TOKENIZERS}") if remote.name == tokenizer]
    if not models:
        raise CorpusError(f"{_TOKENIZERS}: has no {tokenizer}")
    return models + [listed[name] for name in validation + training[:shards]]


def _listing(address: str | None) -> Iterator[Remote]:
    """The files of a folder of the hub, page by page."""
    while address:
        with _answered(address) as answer:
            entries, link = _parsed(answer, address), answer.headers.get("Link", "")
        for entry in entries:
            try:
                if entry["type"] == "file":
                    kind, of = ("sha256", entry["lfs"]) if entry.get("lfs") else ("git", entry)
                    yield Remote(str(entry["path"]), int(of["size"]), kind, str(of["oid"]).removeprefix("sha256:"))
            except (KeyError, TypeError, ValueError) as error:
                raise CorpusError(f"{address}: lists a file without {error}; is this a hub?") from error
        following = re.search(r'<([^>]+)>; *rel="next"', link)
        address = following[1] if following else None


def _json(address: str) -> dict[str, Any]:
    with _answered(address) as answer:
        value = _parsed(answer, address)
    if not isinstance(value, dict):
        raise CorpusError(f"{address}: answers {type(value).__name__}, expected keys and values")
    return value


def _parsed(answer: IO[bytes], address: str) -> Any:
    try:
        return json.loads(answer.read(64 << 20))
    except (ValueError, http.client.HTTPException, OSError) as error:
        raise CorpusError(f"{address}: no JSON ({error})") from error


def _answered(address: str) -> Any:
    try:
        return _opened(address)
    except _Broken as error:
        raise CorpusError(f"{address}: {error}") from error


class _Broken(Exception):
    """No connection, or one that broke: worth another try."""


def _opened(address: str, start: int = 0) -> Any:
    """The open answer to a request for the bytes from ``start`` on."""
    headers = {"User-Agent": "golf"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        busy = error.code == 429 or error.code >= 500
        raise (_Broken if busy else CorpusError)(f"{address}: the hub answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(getattr(error, "reason", error))) from error
    except ValueError as error:
        raise CorpusError(f"{address}: no address ({error})") from error


def _is_here(remote: Remote, path: Path) -> bool:
    return _size(path) == remote.size and path.is_file() and _digest(remote, path) == remote.digest


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(remote: Remote, path: Path) -> str:
    hasher = remote.hasher()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return str(hasher.hexdigest())


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _own(path: str, flags: int) -> int:
    """A name that anybody can foresee is not followed to a file of somebody's."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise CorpusError(f"{path}: is a symbolic link, expected a file that a fetch has left; remove it") from error


def _download(remote: Remote, address: str, path: Path, shown: Any, wait_seconds: float) -> None:
    """Continue or begin the part of ``path``; it gets its name when its hash is right and is removed otherwise."""
    part = _part(path)
    with open(part, "ab", opener=_own) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CorpusError(f"{part}: another process is writing it; wait for that") from error
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(wait_seconds * 2 ** (attempt - 1))
            reason = "the answer is too short"
            try:
                _append(remote, address, file, shown)
            except _Broken as error:
                reason = str(error)
            if file.tell() >= remote.size:
                break
        else:
            at = f"byte {file.tell():,} of {remote.size:,}"
            raise CorpusError(f"{address}: broke at {at} ({reason}); the same command goes on from there")
        file.flush()
        os.fsync(file.fileno())
        found, size = _digest(remote, part), _size(part)
        if size != remote.size or found != remote.digest:
            part.unlink()
            listed = f"the hub lists {remote.size:,} with {remote.digest}; fetch it again"
            raise CorpusError(f"{remote.name}: {size:,} bytes with the {remote.kind} hash {found}, {listed}")
        os.replace(part, path)


def _append(remote: Remote, address: str, file: IO[bytes], shown: Any) -> None:
    """Append what is missing of the file; a hub that does not do ranges sends all of it again."""
    start = file.tell()
    if start >= remote.size:
        return
    with contextlib.closing(_opened(address, start)) as answer:
        if start and answer.status != 206:
            file.truncate(0)
            file.seek(0)
        while file.tell() <= remote.size:  # more than was listed: its hash will tell
            try:
                block = answer.read(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(str(error)) from error
            if not block:
                break
            file.write(block)
            shown.update(len(block))
