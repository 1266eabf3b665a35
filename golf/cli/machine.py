"""Facts about this machine, as its files and programs tell them; nothing here imports torch or judges."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

__all__ = [
    "SOURCES",
    "core_quota",
    "cpu_flags",
    "fits",
    "gpus",
    "installed",
    "package_name",
    "requirements",
    "told",
    "torch_cuda",
    "writable",
]

SOURCES = Path(__file__).resolve().parents[2]  # of the checkout, or the folder that packages are installed in


def told(command: list[str], folder: Path | None = None) -> str:
    """What a program prints; empty where it is missing, fails or does not answer."""
    if command[0] == "dvc":
        command = [sys.executable, "-m", *command]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def requirements(extra: str) -> list[str]:
    """Requirements of the checkout's pyproject.toml, or of the package as it was installed."""
    try:
        project = tomllib.loads((SOURCES / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines: list[str] = project["optional-dependencies"][extra] if extra else project["dependencies"]
        return lines
    except OSError:
        pass
    try:
        known = [line.partition(";") for line in metadata.requires("golf") or []]
    except metadata.PackageNotFoundError:
        return []
    wanted = f"extra=='{extra}'" if extra else ""
    return [line.strip() for line, _, marker in known if marker.replace(" ", "").replace('"', "'") == wanted]


def package_name(requirement: str) -> str:
    """The name in a requirement, in lower case."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match[0].lower() if match else requirement


def installed(requirement: str) -> str | None:
    """The version of the required package that is here."""
    try:
        return metadata.version(package_name(requirement))
    except metadata.PackageNotFoundError:
        return None


def fits(requirement: str, version: str) -> bool:
    """Whether a version is one that the requirement allows."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:  # it comes with the pipeline's packages
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def core_quota() -> float | None:
    """Cores that the control group allows, if it bounds them."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def cpu_flags() -> set[str]:
    """Instruction sets of the first core, as Linux names them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    match = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.M)
    return set(match[1].split()) if match else set()


def gpus() -> list[str]:
    """Name, memory and driver of every NVIDIA GPU."""
    printed = told(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    return [line.strip() for line in printed.splitlines() if line.strip()]


def torch_cuda() -> str | None:
    """The CUDA version that torch was built for, from its files; None for a build without, or no torch."""
    spec = find_spec("torch")
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8") if spec and spec.origin else ""
    except OSError:
        text = ""
    match = re.search(r"^cuda\b.*= *'([^']+)'", text, re.M)
    return match[1] if match else None


def writable(place: Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above it that exists."""
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False
