"""Commands of DVC and of stages in processes that begin with libraries loaded: to import them takes seconds.

A server imports libraries, nothing of this project, and starts no thread. It forks a process for each
command, and that of DVC forks one for each stage: real processes, with a folder, variables and files of their
own. What they share is the seed of hashes. Commands that a shell has to read, and those that a test kills or
watches, are started as everywhere.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch", "numpy", "scipy.stats", "sklearn.metrics", "prdc", "matplotlib.pyplot", "pydantic",
    "ruamel.yaml", "safetensors.torch", "webdataset", "filelock", "psutil", "tqdm", "jinja2",
    "dvc.cli.parser", "dvc.repo",
)  # fmt: skip
STAGE = re.compile(r"python -m stages\.\w+( [\w@.-]+)?")
DVC = r"dvc (init|config|repro|status|checkout|pull|exp run|exp show|queue status|queue logs)( [\w@.,=-]+)*"
COMMAND = re.compile(rf"{STAGE.pattern}|{DVC}")
FORCED = re.compile(r"dvc (repro|exp) (.* )?(--force|-\w*f)")  # which stages look up in DVC's command line
FIXED = re.compile("PYTHON(?!PATH)|OMP_|LD_|COVERAGE_|FEWSTEP_THREADS")  # read when a process begins
ADDRESS = "PRELOADED_AT"  # the variable that holds it
MOST = 2**18  # bytes of an order


def start() -> None:
    """Start a server for this process and all below it; it loads the libraries when it is first asked."""
    folder = tempfile.mkdtemp(prefix="fewstep-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[ADDRESS] = f"{folder}/server"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(os.environ[ADDRESS])
    listener.listen(64)
    command = [sys.executable, __file__, str(listener.fileno())]
    server = subprocess.Popen(command, pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL)
    atexit.register(server.wait)
    atexit.register(server.kill)


def fits(command: str, environment: dict[str, str]) -> bool:
    """Say whether the server can run a command."""
    if not COMMAND.fullmatch(command) or FORCED.match(command) or "COVERAGE_PROCESS_CONFIG" in os.environ:
        return False
    names = filter(FIXED.match, os.environ | environment)
    return all(os.environ.get(name) == environment.get(name) for name in names)


def run(command: str, folder: Path, environment: dict[str, str], seconds: float) -> tuple[int, str]:
    """Run a command to its end; return its exit status, below 0 if it was killed, and all it said."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        server.connect(os.environ[ADDRESS])
        order = json.dumps([command.split(), str(folder), environment]).encode()
        socket.send_fds(server, [order], [out.fileno(), err.fileno()])
        pid = int(server.recv(16))
        server.settimeout(seconds)
        try:
            status = int(server.recv(16) or -signal.SIGKILL)
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            raise
        said = b""
        for stream in (out, err):
            stream.seek(0)
            said += stream.read()
    return status, said.decode()


def serve(listener: socket.socket) -> NoReturn:
    """Fork a process for each order, until the process that started this one ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need not be waited for
    while True:
        asker, _ = listener.accept()
        for name in LIBRARIES:
            importlib.import_module(name)
        gc.freeze()
        order, files, *_ = socket.recv_fds(asker, MOST, 2)
        if os.fork() == 0:
            for number, file in enumerate(files, start=1):
                os.dup2(file, number)
            listener.close()
            os.setsid()
            asker.send(b"%d" % os.getpid())
            become(*json.loads(order), asker)
        for file in (asker, *map(os.fdopen, files)):
            file.close()


def become(
    words: list[str], folder: str, environment: dict[str, str], asker: socket.socket | None = None
) -> NoReturn:
    """Be the process that runs a command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    own = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [folder, *own, *LIBRARY_PATH] if words[0] == "python" else [*own, *LIBRARY_PATH]
    try:
        status = run_stage(words) if words[0] == "python" else run_dvc(words)
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
    if asker:
        asker.send(b"%d" % status)
    os._exit(status)


def run_stage(words: list[str]) -> int:
    """Do what `python -m MODULE ...` does."""
    sys.argv = words[2:]
    runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    return 0


def run_dvc(words: list[str]) -> int:
    """Do what `dvc ...` does, which then forks the stages."""
    from dvc import cli
    from dvc.stage import run

    def fork(executable: str, command: str, *, cwd: str, env: dict[str, str], **options: Any) -> None:
        if not STAGE.fullmatch(command):
            return run_command(executable, command, cwd=cwd, env=env, **options)
        sys.stdout.flush()
        if (stage := os.fork()) == 0:
            become(command.split(), cwd, env)
        if status := os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1]):
            raise run.StageCmdFailedError(command, status)
        return None

    run_command, run._run = run._run, fork
    sys.argv = words
    return cli.main(words[1:])


if __name__ == "__main__":
    outside = {str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    LIBRARY_PATH = sys.path = [place for place in sys.path if place not in outside]
    serve(socket.socket(fileno=int(sys.argv[1])))
