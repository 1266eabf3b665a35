"""`python ...` as a forked child of one process that has imported everything: a new interpreter needs three seconds.

The child has its own folder, environment, arguments and output, as a new interpreter would; what differs is that the
modules of golf, and what earlier children imported besides, are there before it starts. What a process imports, how
many threads its libraries have and how it ends by a signal is tested with real ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

__all__ = ["Started", "Warm", "ask", "warm_process"]

COMMAND = """#!{python} -IS
import os, sys
sys.path.append({support!r})
from warm import ask
sys.exit(ask({address!r}, {before!r} + sys.argv[1:], os.getcwd(), dict(os.environ), [0, 1, 2]))
"""
DVC = "import sys; from dvc.cli import main; sys.exit(main(sys.argv[1:]))"


def ask(address: str, arguments: list[str], cwd: str, environment: dict[str, str], files: list[int]) -> int:
    """Exit code of `python ARGUMENTS` in ``cwd`` with ``files`` as its standard input, output and error."""
    with _begin(address, arguments, cwd, environment, files) as answer:
        return _end(answer)


def _begin(address: str, arguments: list[str], cwd: str, environment: dict[str, str], files: list[int]) -> TextIO:
    """Start it; the answer's first line is its process id, the second, once it has ended, its exit code."""
    request = json.dumps([arguments, cwd, environment]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], files)
        connection.sendall(request)
        return connection.makefile()


def _end(answer: TextIO) -> int:
    return int(answer.read().split()[-1])


class Started:
    """A process that runs; ``stdout`` is a pipe."""

    def __init__(self, answer: TextIO, stdout: TextIO, stderr: TextIO) -> None:
        self.stdout, self._answer, self._stderr = stdout, answer, stderr
        self.pid = int(answer.readline())

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def communicate(self) -> tuple[int, str, str]:
        """Exit code (or minus the signal), the rest of the output and the errors of the process, which has ended."""
        with self.stdout, self._answer, self._stderr as errors:
            stdout, code = self.stdout.read(), _end(self._answer)
            errors.seek(0)
            return code, stdout, errors.read()


class Warm:
    """The process that forks, as its clients see it; ``path`` is a folder with its `python` and `dvc`."""

    def __init__(self, folder: Path) -> None:
        self.address, self.path = str(folder / "socket"), folder / "bin"
        self.path.mkdir()
        kept = {"python": sys.executable, "support": os.path.dirname(__file__), "address": self.address}
        for name, before in (("python", []), ("dvc", ["-c", DVC])):
            (self.path / name).write_text(COMMAND.format(before=before, **kept), encoding="utf-8")
            (self.path / name).chmod(0o755)

    def python(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python ARGUMENTS` in ``cwd``, with ``environment`` besides that of this process."""
        import subprocess

        return subprocess.CompletedProcess(arguments, *self.start(*arguments, cwd=cwd, **environment).communicate())

    def start(self, *arguments: str, cwd: Path, **environment: str) -> Started:
        """The same without waiting for its end."""
        import tempfile

        stderr = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (Started closes it)
        reader, writer = os.pipe()
        with open(os.devnull, "rb") as stdin:
            numbers = [stdin.fileno(), writer, stderr.fileno()]
            answer = _begin(self.address, list(arguments), str(cwd), {**os.environ, **environment}, numbers)
        os.close(writer)
        return Started(answer, open(reader, encoding="utf-8"), stderr)


@contextlib.contextmanager
def warm_process(root: Path, folder: Path) -> Iterator[Warm]:
    """Start the process with the modules of the repository ``root``; it ends with the block, or with this process."""
    import subprocess

    warm, env = Warm(folder), {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, __file__, warm.address]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield warm
        process.stdin.close()


def _serve(address: str) -> None:
    import importlib
    import pkgutil
    import select

    import golf

    for module in pkgutil.walk_packages(golf.__path__, "golf."):
        if not module.name.endswith(("__main__", "sandbox_child")):
            importlib.import_module(module.name)
    learned, names = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in (ready := select.select([listener, sys.stdin, learned], [], [], 1)[0]):
            if learned in ready:
                for name in os.read(learned, 1 << 20).decode().split():
                    with contextlib.suppress(Exception, SystemExit):  # cut in two, or not to be had here: no loss
                        importlib.import_module(name)
            if listener in ready:
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    os._exit(_answer(connection, names))
                connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _answer(connection: socket.socket, names: int) -> int:
    """Run what is asked for in a child of this one, and tell its exit code."""
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as stream:
        arguments, cwd, environment = json.loads(stream.read(int.from_bytes(head, "big")))
    child = os.fork()
    if child == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        known = set(sys.modules)
        code = _run(arguments)
        os.write(names, "".join(f"{name}\n" for name in set(sys.modules) - known if _installed(name)).encode())
        os._exit(code)
    connection.sendall(f"{child}\n".encode())
    connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    return 0


def _installed(name: str) -> bool:
    """Whether a module is of Python or of a package, and not of the folder that the child ran in."""
    origin = getattr(getattr(sys.modules[name], "__spec__", None), "origin", None) or ""
    return origin.startswith((sys.prefix, sys.base_prefix)) and not name.startswith(("golf", "stages"))


def _run(arguments: list[str]) -> int:
    """`python ARGUMENTS` in this process."""
    import runpy
    import traceback

    kind, rest = arguments[0], arguments[1:]
    try:
        sys.path[0:1] = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        if kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
        else:
            sys.argv = arguments
            runpy.run_path(kind, run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if code and not isinstance(left.code, int):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


if __name__ == "__main__":
    _serve(sys.argv[1])
