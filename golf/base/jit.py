"""The one place where functions are compiled with numba: three decorators for the whole house.

``kernel`` is called from Python and stored on disk; ``part`` is called by kernels and compiled with each of them;
``step`` is a part of a hot loop. Division by zero follows numpy (no exception) and nothing is reordered unless a kernel
asks for it, so results have the same bits in every run. numba optimizes every function for itself, with all that it
calls, and again in each caller; a part is optimized once, in its kernel (half of the time to compile).

numba notices changes of a kernel's own file only. A kernel that calls functions of other modules, or reads their
constants, names these modules in ``parts``: a checksum of their sources is in the key of its stored code.

Code is stored in a folder of the user's own, by the sources that it was made of, so that every copy of them finds it;
where numba is told a folder, or that one cannot be trusted, in that of numba: beside the sources or where it is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import os
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

__all__ = ["INLINED", "kernel", "part", "step"]


class _Joined(JITCodeLibrary):
    """Code of a part, which only joins that of kernels: not optimized and no machine code by itself."""

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, name: str, env: Any) -> None:
        """Nothing: what a function without exceptions and Python objects does not read."""

    def finalize(self) -> None:
        """Link what the part calls."""
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """0: there is none."""
        return 0


class _PartCompiler(Compiler):
    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        library = _Joined(targetctx.codegen(), "part") if library is None else library
        super().__init__(typingctx, targetctx, library, *rest)


_PART: Any = {
    "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": _PartCompiler,
}  # fmt: skip
INLINED: Any = {**_PART, "forceinline": True, "_nrt": False}  # how a step is compiled

STORE = "~/.cache/golf/kernels"
_KEPT = 30 * 86400  # seconds that code of sources which nobody has any more stays, at least


def _import_lean() -> None:
    """Import what numba imports at its first kernel, except SciPy and cffi: a quarter of the processor time of a short
    command, for ``np.cov`` and foreign functions, of which no kernel knows."""
    absent = [name for name in ("scipy.linalg", "cffi") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: it cannot be imported
    try:
        importlib.import_module("numba.core.typing.cffi_utils")
        importlib.import_module("numba.np.arraymath")
    finally:
        for name in absent:
            del sys.modules[name]


_import_lean()
_jit: Any = numba.njit  # its stubs know neither ``_nrt`` nor the attributes set below


def kernel(
    function: Callable[..., Any] | None = None, *, parts: tuple[ModuleType, ...] = (), parallel: bool = False,
    **options: Any,
) -> Any:  # fmt: skip
    """Compile a function that Python calls, with or without arguments; ``options`` are numba's.

    A part given is compiled once more, for Python. Its code is stored on disk where that is possible and true;
    otherwise it is compiled anew in every process.
    """
    if function is None:
        return lambda function: kernel(function, parts=parts, parallel=parallel, **options)
    function = getattr(function, "py_func", function)
    # one parallel loop at a time: numba's portable threading layer has no locks
    options |= {"error_model": "numpy", "parallel": parallel, "nogil": not parallel, "no_cfunc_wrapper": True}
    compiled = _jit(**options)(function)
    compiled.parts = parts
    _store(compiled, function, parts)
    return compiled


def _store(compiled: Any, function: Callable[..., Any], parts: tuple[ModuleType, ...]) -> None:
    """Have the code of ``compiled`` stored on disk, if a folder can be written and the source is in a file."""
    with contextlib.suppress(Exception):
        parts = (sys.modules[__name__], *parts)
        compiled._cache = _Cache(function, _source_stamp(*parts), _own_folder(function, parts))


def part(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function that kernels call, not Python; it may allocate. ``options`` are numba's."""
    if function is None:
        return lambda function: part(function, **options)
    return _for_kernels(_jit(**_PART, **options)(function))


def step(function: Callable[..., Any]) -> Any:
    """Compile a part that is always inlined and counts no references (two thirds of the time): it must not allocate."""
    return _for_kernels(_jit(**INLINED)(function))


def _for_kernels(compiled: Any) -> Any:
    """A part has no code that Python could call: such a call is refused, where numba would jump to address 0."""

    def refuse(*args: Any, **more: Any) -> None:
        name = compiled.py_func.__name__
        raise TypeError(f"{name} is a part of kernels; `kernel({name})` gives a function that Python can call")

    compiled._compile_for_args, compiled._insert = refuse, lambda *args: None
    return compiled


def _source_stamp(*modules: ModuleType) -> int:
    """A checksum of the modules' source texts; 0 where there is none to read."""
    try:
        return zlib.crc32("".join(inspect.getsource(module) for module in modules).encode())
    except (OSError, TypeError):
        return 0


def _own_folder(function: Callable[..., Any], parts: tuple[ModuleType, ...]) -> Path | None:
    """Where code of these very sources is stored: below ``STORE``, if nobody but the user can write there."""
    config: Any = numba.config
    if config.CACHE_DIR:
        return None
    try:
        files = [inspect.getfile(function), *(inspect.getfile(module) for module in parts)]
        digest = hashlib.sha256(numba.__version__.encode())
        for file in files:
            digest.update(hashlib.sha256(Path(file).read_bytes()).digest())
        store = Path(STORE).expanduser()
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = store.lstat()
        trusted = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        return store / digest.hexdigest()[:32] if trusted and os.access(store, os.W_OK) else None
    except (OSError, TypeError, RuntimeError, AttributeError):  # the last: a system without users
        return None


def _make_room(folder: Path) -> None:
    """Make ``folder`` of the store; what has not been changed for ``_KEPT`` goes."""
    folder.mkdir(mode=0o700)
    for other in folder.parent.iterdir():
        if other.stat().st_mtime < time.time() - _KEPT:
            shutil.rmtree(other, ignore_errors=True)


class _Cache(FunctionCache):
    """numba's store of compiled code, except that no fault of it stops a run.

    What cannot be read (damaged, unreadable) is dropped and compiled again; what cannot be written is not stored.
    """

    def __init__(self, function: Callable[..., Any], stamp: int, folder: Path | None) -> None:
        self._stamp, self._folder = stamp, folder
        super().__init__(function)
        if folder is not None:
            self._cache_path = str(folder)
            self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, source_stamp="")

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The stored code of one signature, or ``None``."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            with contextlib.suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store the code of one signature if that is possible."""
        with contextlib.suppress(Exception):
            if self._folder is not None and not self._folder.is_dir():
                _make_room(self._folder)
            super().save_overload(sig, data)
