"""`golf doctor`: what this machine has and lacks for golf, and what each lack costs. Imports no torch: seconds."""

from __future__ import annotations

import argparse
import locale
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from golf.base.distributed import usable_cores
from golf.base.main import printable
from golf.cli import __version__
from golf.cli.machine import (
    SOURCES,
    core_quota,
    cpu_flags,
    fits,
    gpus,
    installed,
    package_name,
    requirements,
    told,
    torch_cuda,
    writable,
)

__all__ = ["Finding", "add_arguments", "examine", "run"]

_GIB = 1 << 30
_TOLD = ("torch", "numpy", "numba", "dvc", "scipy", "pyarrow")
_PYTHONS = ((3, 11), (3, 14))  # from, below
_VECTORS = {"x86_64": ("avx2", "fma"), "aarch64": ("asimd",)}
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True)
class Finding:
    """One line: ``verdict`` (ok, lack: it costs something, FAIL: the pipeline cannot run), what was looked at and seen,
    and what the lack costs and how it is mended."""

    verdict: str
    name: str
    seen: str
    cost: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 when the pipeline cannot run here."""
    findings = list(examine(os.environ, Path.cwd()))
    for finding in findings:
        print(printable(f"{finding.verdict:<5} {finding.name:<10} {finding.seen}"))
        if finding.cost:
            print(printable(f"{'':<16} -> {finding.cost}"))
    lacks = sum(finding.verdict == "lack" for finding in findings)
    failed = [finding.name for finding in findings if finding.verdict == "FAIL"]
    print(
        f"FAIL: {', '.join(failed)}"
        if failed
        else f"ready; {lacks} {'lack costs' if lacks == 1 else 'lacks cost'} time or space"
    )
    return int(bool(failed))


def examine(environment: Mapping[str, str], folder: Path) -> Iterator[Finding]:
    """Every finding about this machine, with ``folder`` as the place of work."""
    yield _python(sys.version_info[:2])
    yield from _packages()
    yield _git(environment)
    yield _cores(environment)
    yield _memory()
    yield _instructions(platform.machine(), cpu_flags())
    yield _compiler(shutil.which)
    yield _gpu(gpus(), torch_cuda())
    yield _kernels(environment)
    yield _disk(folder)
    yield from _places(environment)
    if (folder / ".dvc").is_dir() and find_spec("dvc") is not None:
        yield _cache(told(["dvc", "doctor"], folder))
        yield _corpus(folder)
    else:
        yield Finding(
            "lack", "checkout", f"{folder} is none of golf", "commands that run stages work in a checkout alone"
        )


def _python(version: tuple[int, int]) -> Finding:
    seen = f"{version[0]}.{version[1]}, {sys.executable}"
    if not _PYTHONS[0] <= version < _PYTHONS[1]:
        return Finding("FAIL", "python", seen, "golf needs 3.11 to 3.13")
    return Finding("ok", "python", seen)


def _packages() -> Iterator[Finding]:
    """Versions of what golf requires: the core, the extra of the pipeline, and the extra of one kind of corpus."""
    for extra, verdict, cost in (
        ("", "FAIL", "nothing runs: pip install golf"),
        ("pipeline", "FAIL", "stages, plots and experiments need it: pip install 'golf[pipeline]', or `make setup`"),
        ("parquet", "lack", "corpora in .parquet are not read: pip install 'golf[parquet]'"),
    ):
        found = {line: installed(line) for line in requirements(extra)}
        wrong = [line for line, version in found.items() if version is None or not fits(line, version)]
        name = extra or "packages"
        if wrong:
            yield Finding(verdict, name, ", ".join(f"{line} (found {found[line] or 'none'})" for line in wrong), cost)
        elif found:
            shown = [f"golf {__version__}"] if not extra else []
            shown += [f"{package_name(line)} {found[line]}" for line in found if package_name(line) in _TOLD]
            yield Finding("ok", name, f"{', '.join(shown)}; all {len(found)} here")


def _git(environment: Mapping[str, str]) -> Finding:
    version = told(["git", "--version"]).strip().removeprefix("git version ")
    if not version:
        return Finding("FAIL", "git", "not found", "DVC and its experiments need it")
    for key, variable in (("user.name", "GIT_COMMITTER_NAME"), ("user.email", "GIT_COMMITTER_EMAIL")):
        if not environment.get(variable) and not told(["git", "config", key]).strip():
            cost = f"`dvc exp run` and `golf seeds` refuse to commit: git config --global {key} ..."
            return Finding("lack", "git", f"{version}, no {key}", cost)
    return Finding("ok", "git", version)


def _cores(environment: Mapping[str, str]) -> Finding:
    cores = usable_cores()
    quota = core_quota()
    usable = min(cores, quota) if quota else float(cores)
    seen = f"{cores} for this process" + (f", a quota of {quota:g}" if quota else "")
    threads = environment.get("OMP_NUM_THREADS", "")
    if threads:
        seen += f", OMP_NUM_THREADS={threads}"
    if threads.isdigit() and int(threads) > usable:
        return Finding("lack", "cores", seen, "threads wait for each other: unset OMP_NUM_THREADS or lower it")
    if usable < 2:
        return Finding("lack", "cores", seen, "`make repro` takes about twice the time of two cores")
    if quota and quota < cores and not threads:
        return Finding("lack", "cores", seen, f"torch starts {cores} threads: set OMP_NUM_THREADS={max(1, int(quota))}")
    return Finding("ok", "cores", seen)


def _memory() -> Finding:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        available = int(dict(re.findall(r"^(\w+): +(\d+) kB", text, re.M))["MemAvailable"]) * 1024
    except (OSError, KeyError):
        return Finding("ok", "memory", "not told by this system")
    seen = f"{available / _GIB:.1f} GiB available"
    if available < 2 * _GIB:
        return Finding("lack", "memory", seen, "stages hold the tokens of a corpus and may be killed by the system")
    return Finding("ok", "memory", seen)


def _instructions(machine: str, flags: set[str]) -> Finding:
    if not flags:
        return Finding("ok", "vectors", f"{machine}, not told by this system")
    wanted = _VECTORS.get(machine, ())
    missing = [flag for flag in wanted if flag not in flags]
    bf16 = [flag for flag in _BF16 if flag in flags]
    seen = f"{machine}: {', '.join([f for f in (*wanted, 'avx512f') if f in flags] + bf16)}"
    if missing:
        return Finding(
            "lack", "vectors", f"{seen}; no {', '.join(missing)}", "torch and the kernels run on short vectors"
        )
    if not bf16:
        return Finding(
            "lack", "vectors", f"{seen}; no bf16", "`precision: bf16` computes in fp32 on this CPU, at its speed"
        )
    return Finding("ok", "vectors", seen)


def _compiler(which: Callable[[str], str | None]) -> Finding:
    """A C++ compiler, as torch.compile looks for one on CPUs; Triton wants a C compiler."""
    found = [name for name in ("g++", "clang++", "c++", "gcc", "clang", "cc") if which(name)]
    if not found:
        return Finding("lack", "compiler", "no C or C++ compiler", "`train.compile` trains eagerly, slower")
    return Finding("ok", "compiler", ", ".join(found))


def _gpu(found: list[str], cuda: str | None) -> Finding:
    built = f"torch built for CUDA {cuda}" if cuda else "torch built for CPUs"
    if not found:
        return Finding("lack", "gpu", f"none; {built}", "the presets of the H100 are not for this machine")
    seen = f"{len(found)} x {found[0]}; {built}"
    if not cuda:
        return Finding("lack", "gpu", seen, "the GPU stays idle: install the torch of its CUDA (pytorch.org)")
    return Finding("ok", "gpu", seen)


def _kernels(environment: Mapping[str, str]) -> Finding:
    """Where numba keeps compiled kernels: the folder it is told, the user's own, or beside the sources."""
    from golf.base.jit import STORE  # imports numba

    told = environment.get("NUMBA_CACHE_DIR")
    beside = SOURCES / "golf" / "mixture"
    home = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    own = Path(STORE).expanduser()
    places = [Path(told)] if told else [own, beside / "__pycache__", Path(home) / "numba"]
    for place in places:
        if writable(place):
            stored = sum(1 for _ in place.rglob("*.nbc")) if told or place == places[0] else 0
            return Finding("ok", "kernels", f"kept in {place}" + (f", {stored} there" if stored else ""))
    seen = f"no folder to keep them: {', '.join(map(str, places))}"
    return Finding("lack", "kernels", seen, "every process compiles its kernels anew: set NUMBA_CACHE_DIR to a folder")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    seen = f"{free / _GIB:.1f} GiB free at {folder}"
    if free < _GIB:
        cost = "a default run writes 133 MB and keeps a copy of them and of the corpus: `dvc gc -w` drops old ones"
        return Finding("lack", "disk", seen, cost)
    return Finding("ok", "disk", seen)


def _places(environment: Mapping[str, str]) -> Iterator[Finding]:
    home = environment.get("HOME")
    if home and not writable(Path(home)) and not environment.get("MPLCONFIGDIR"):
        cost = "matplotlib warns and lists the fonts anew every time: set MPLCONFIGDIR; golf itself needs no home"
        yield Finding("lack", "home", f"{home}: cannot be written", cost)
    temporary = Path(tempfile.gettempdir()) if writable(Path(environment.get("TMPDIR") or "/tmp")) else None
    if temporary is None:
        yield Finding("FAIL", "temporary", "no folder for temporary files", "set TMPDIR to one that can be written")
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") != "utf8":
        yield Finding("ok", "locale", f"{encoding}; golf reads and writes UTF-8 all the same")


def _cache(printed: str) -> Finding:
    """The links that DVC can make between its cache and the workspace, out of what `dvc doctor` prints."""
    match = re.search(r"^Cache types: (.*)$", printed, re.M)
    if not match:
        return Finding("lack", "dvc cache", "not told by `dvc doctor`", "nothing has run here, or DVC does not")
    if "https://" in match[1]:
        return Finding("ok", "dvc cache", "not made yet: the first `dvc repro` does")
    if "reflink" in match[1]:
        return Finding("ok", "dvc cache", match[1])
    how = "`dvc config --local cache.type hardlink,symlink,copy` ends that"
    return Finding("lack", "dvc cache", f"{match[1]}, no reflink", f"outputs lie on the disk twice; {how}")


def _corpus(folder: Path) -> Finding:
    from golf.base.params import ParamsError, read_params

    try:
        path = str(read_params(folder / "params.yaml")["tokenize"]["path"])
    except (ParamsError, KeyError, TypeError) as error:
        return Finding("FAIL", "corpus", f"params.yaml: {error}", "`golf params --write params.yaml` makes one")
    if not (folder / Path(path).expanduser()).exists():
        remedy = "`golf fetch enwik8` (36 MB)" if path == "data/enwik8.gz" else "put it there"
        return Finding("lack", "corpus", f"{path}: not here", f"{remedy}, or `dvc pull` where there is a remote")
    return Finding("ok", "corpus", path)
