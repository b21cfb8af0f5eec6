"""Commands of DVC and of stages in processes that begin with libraries loaded: to import them takes seconds.

A server imports libraries, nothing of this project, and starts no thread. It forks a process for each
command, and that of DVC forks one for each stage: real processes, with a folder, variables and files of their
own. What they share is the seed of hashes, and the code of files whose text is that of this project's.
A library may change what other code does when it is imported, as Prefect sets up the log for all. So each
kind of command has a server with what it needs and no more.
Commands that a shell has to read, and those that a test kills or watches, are started as everywhere.
"""

import _imp
import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import re
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

LIBRARIES = (
    "torch", "torch.utils.flop_counter", "numpy", "scipy.stats", "sklearn.metrics", "prdc",
    "matplotlib.pyplot", "matplotlib.backends.backend_agg", "PIL.ImageDraw", "PIL.ImageFont",
    "pydantic.dataclasses", "pydantic.types", "ruamel.yaml", "safetensors.torch", "webdataset",
    "fsspec.implementations.chained", "filelock", "psutil", "tqdm", "jinja2", "dvc.cli.parser", "dvc.repo",
)  # fmt: skip
MORE = {  # what a kind of command needs beside, loaded for the first of it
    "dvc": (),
    "diffusers": ("diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",),
    "prefect": ("prefect.flow_engine", "prefect.main", "prefect.deployments", "s3fs"),
    "sender": ("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"),
}
STAGE = re.compile(r"python -m stages\.\w+( [\w@.-]+)?")
DVC = r"dvc (init|config|repro|status|checkout|pull|exp run|exp show|queue status|queue logs)( [\w@.,=-]+)*"
COMMAND = re.compile(rf"{STAGE.pattern}|{DVC}")
FORCED = re.compile(r"dvc (repro|exp) (.* )?(--force|-\w*f)")  # which stages look up in DVC's command line
FIXED = re.compile(
    "PYTHON(?!PATH|UNBUFFERED|BREAKPOINT)|OMP_|LD_|COVERAGE_|FEWSTEP_THREADS"
)  # read when a process begins
PLACE = "PRELOADED_AT"  # the variable that holds the folder in which servers are asked
BEGUN = str(Path(__file__).with_name("begun"))  # in PYTHONPATH, it lets servers do what flows begin
MOST = 2**18  # bytes of an order
PROJECT = [Path(__file__).parents[1] / name for name in ("fewstep", "stages", "flows")]
COMPILED: dict[bytes, CodeType] = {}


def start() -> None:
    """Start servers for this process and all below it; they load libraries when they are first asked."""
    folder = os.environ[PLACE] = tempfile.mkdtemp(prefix="fewstep-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    listeners = {kind: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for kind in MORE}
    for kind, listener in listeners.items():
        listener.bind(f"{folder}/{kind}")
        listener.listen(64)
    files = [listener.fileno() for listener in listeners.values()]
    command = [sys.executable, __file__, *map(str, files)]
    servers = subprocess.Popen(command, pass_fds=files, stdout=subprocess.DEVNULL)
    atexit.register(servers.wait)
    atexit.register(servers.kill)


def fits(command: str) -> bool:
    """Say whether a server can run a command, in the right environment."""
    return bool(COMMAND.fullmatch(command)) and not FORCED.match(command)


def alike(environment: dict[str, str]) -> bool:
    """Say whether a process with this environment would begin as the server did."""
    names = filter(FIXED.match, os.environ | environment)
    return "COVERAGE_PROCESS_CONFIG" not in os.environ and all(
        os.environ.get(name) == environment.get(name) for name in names
    )


def run(
    command: str, folder: Path, environment: dict[str, str], seconds: float, kind: str = "dvc"
) -> tuple[int, str] | None:
    """Run a command to its end; return its exit status, below 0 if it was killed, and all it said.

    Return None where it has to be started as everywhere. The kind is that of MORE.
    """
    if not fits(command):
        return None
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        open(os.devnull) as nothing,
    ):
        server.connect(f"{os.environ[PLACE]}/{kind}")
        order = json.dumps([command.split(), str(folder), environment, [0, 1, 2]]).encode()
        socket.send_fds(server, [order], [nothing.fileno(), out.fileno(), err.fileno()])
        if not server.recv(16):
            return None
        server.settimeout(seconds)
        status = int(server.recv(16))
        said = b""
        for stream in (out, err):
            stream.seek(0)
            said += stream.read()
    return status, said.decode()


@dataclass(frozen=True)
class Child:
    """A process that runs a command, what can be read when it has ended, and a line to who asked for it."""

    pid: int
    ended: int
    asker: socket.socket

    def end(self) -> None:
        """Tell how it ended. If who asked for it ended before, it ends with all it started."""
        if not select.select([self.ended], [], [], 0)[0]:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        with suppress(OSError):
            self.asker.send(b"%d" % os.waitstatus_to_exitcode(status))
        self.asker.close()
        os.close(self.ended)


def serve_all(listeners: list[socket.socket]) -> None:
    """Load what all kinds of commands need when one is asked for, and fork a server for each kind."""
    follow()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    select.select(listeners, [], [])
    for name in LIBRARIES:
        importlib.import_module(name)
    subprocess.Popen._execute_child = fork_stages(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
    compile_once()
    gc.freeze()
    for kind, listener in zip(MORE, listeners, strict=True):
        if os.fork() == 0:
            follow()
            serve(kind, listener)
    signal.pause()


def follow() -> None:
    """End when the process that started this one ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve(kind: str, listener: socket.socket) -> NoReturn:
    """Fork a process for each order."""
    select.select([listener], [], [])
    for name in MORE[kind]:
        importlib.import_module(name)
    gc.freeze()
    children: list[Child] = []
    while True:
        files = [listener, *(file for child in children for file in (child.ended, child.asker))]
        ready = set(select.select(files, [], [])[0])
        for child in [child for child in children if ready & {child.ended, child.asker}]:
            child.end()
            children.remove(child)
        if listener in ready and (child := child_of(listener)):
            children.append(child)


def child_of(listener: socket.socket) -> Child | None:
    """Fork a process that runs the next order, unless it has to begin otherwise."""
    asker, _ = listener.accept()
    order, files, *_ = socket.recv_fds(asker, MOST, 64)
    if not order:  # who asked has ended
        asker.close()
        return None
    words, folder, environment, numbers = json.loads(order)
    if not alike(environment):
        asker.close()
    elif (pid := os.fork()) == 0:
        os.setsid()
        try:
            asker.send(b"%d" % os.getpid())
        except OSError:  # who asked has ended
            os._exit(1)
        for socket_of_parent in (listener, asker):
            socket_of_parent.close()
        out_of_the_way = [fcntl.fcntl(file, fcntl.F_DUPFD, 1 + max(numbers)) for file in files]
        for number, file in zip(numbers, out_of_the_way, strict=True):
            os.dup2(file, number)
            os.close(file)
        become(words, folder, environment)
    for file in files:
        os.close(file)
    return None if asker.fileno() < 0 else Child(pid, os.pidfd_open(pid), asker)


def compile_once() -> None:
    """Compile the project, so that processes in its copies need not do so again and again."""
    for file in (file for folder in PROJECT for file in folder.rglob("*.py")):
        text = file.read_bytes()
        COMPILED[text] = compile(text, file, "exec", dont_inherit=True)
    compile_anew = SourceFileLoader.source_to_code

    def code_of(loader: SourceFileLoader, data: Any, path: str, **options: Any) -> CodeType:
        if code := COMPILED.get(bytes(data)):
            _imp._fix_co_filename(code, path)
            return code
        return compile_anew(loader, data, path, **options)

    SourceFileLoader.source_to_code = code_of  # type: ignore[method-assign]


def fork_stages(execute: Callable) -> Callable:
    """Return how a process begins another, so that a stage that DVC begins is forked."""

    def begin(process: subprocess.Popen, args: Any, *others: Any) -> None:
        cwd, env = others[4:6]
        if "DVC_STAGE" not in (env or ()) or not STAGE.fullmatch(args[-1]):
            return execute(process, args, *others)
        sys.stdout.flush()
        process.pid = os.fork()
        if process.pid == 0:
            become(args[-1].split(), cwd, env)
        process._child_created = True  # type: ignore[attr-defined]
        return None

    return begin


def become(words: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """Be the process that runs a command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    if "PYTHONUNBUFFERED" in environment:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    if "prefect.main" in sys.modules:
        sys.modules["prefect.context"].refresh_global_settings_context()  # they are variables
    own = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *LIBRARY_PATH]
    try:
        match words:
            case "python", "-m", module, *_:
                sys.path[:], sys.argv = [folder, *own], words[2:]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case "python", "-P", "-m", module, *_:
                sys.path[:], sys.argv = own, words[3:]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case "python", "-c", text, *_:
                sys.path[:], sys.argv = ["", *own], ["-c", *words[3:]]
                exec(text, {"__name__": "__main__"})
            case "python", "-P", file, *_:
                sys.path[:], sys.argv = own, words[2:]
                runpy.run_path(file, run_name="__main__")
            case _:
                sys.path[:], sys.argv = own, words
                runpy.run_module("dvc", run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    outside = {str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    LIBRARY_PATH = sys.path = [place for place in sys.path if place not in outside]
    serve_all([socket.socket(fileno=int(number)) for number in sys.argv[1:]])
