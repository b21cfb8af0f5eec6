"""The servers of MLflow and Prefect as programs of this machine: started, waited for, and ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx

from fewstep.errors import UserError
from fewstep.secrets import scrub
from flows import CHECKOUT
from flows.server import login
from stages.artifacts import places
from stages.tracking import outboxes

# Starts a server, and ends with all that it started when the other end of its input closes: when the process
# that called `start` ends, however it does. The kernel would end the first process of a server alone.
GUARD = """
import os, signal, subprocess, sys, threading
def follow():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
signal.signal(signal.SIGTERM, lambda *_: None)  # the server's is awaited
threading.Thread(target=follow, daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
"""
HOST = "127.0.0.1"
SECONDS_TO_START = 120  # Prefect makes its tables first, which takes long on a busy machine
SECONDS_TO_STOP = 10


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server: how it is started, and where it reports that it is ready."""

    name: str
    elsewhere: str
    """The variable that names a server that runs already."""
    port: int
    """The port it gets if that is free."""
    arguments: tuple[str, ...]
    """What follows `python -m`, before its port."""
    health: str
    """Path of a page that answers once it is ready."""
    page: str = "{}"
    """What to open in a browser; {} is its address."""
    use: str = ""
    """What to type in another terminal so that it shows runs started there; {} is its address."""
    environment: dict[str, str] = field(default_factory=dict)
    """Its variables. Secrets belong here, since others on this machine can read its command line."""


def mlflow(root: Path) -> Server:
    """Return the server that shows the tracker's records below `root`/.fewstep."""
    files = root.resolve() / places.TRACKED_FILES
    store = os.environ.get("MLFLOW_TRACKING_URI") or outboxes.database(root)
    return Server(
        name="MLflow",
        elsewhere="MLFLOW_TRACKING_URI",
        port=5000,
        arguments=("mlflow", "server", "--workers=1", "--artifacts-destination", str(files)),
        health="/health",
        environment={
            "MLFLOW_BACKEND_STORE_URI": store,  # it may hold a password
            # Without it, MLflow also answers under the names of a private network.
            "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost:*,127.0.0.1:*",
            # MLflow's job workers, eight processes, serve features that nothing here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
    )


def prefect(root: Path) -> Server:
    """Return the server of flows, with a login and checks of requests (flows/server/door.py)."""
    secret = login.login(root)
    return Server(
        name="Prefect",
        elsewhere="PREFECT_API_URL",
        port=4200,
        arguments=(
            *("uvicorn", "--factory", "flows.server.door:app"),
            *("--app-dir", str(CHECKOUT), "--log-level", "warning"),
        ),
        health="/api/health",
        page=f"{{}}/enter#{quote(secret, safe=':')}",
        # MLflow needs no such line: by default, stages write to the database that it shows.
        use="  (to watch `fewstep run` there: "
        f"export PREFECT_API_URL={{}}/api {login.client_assignment(root)})",
        environment={
            login.SERVER: secret,
            "PREFECT_UI_API_URL": "/api",  # else its page asks port 4200, whatever its own is
        },
    )


def start(server: Server, port: int, log: Path) -> subprocess.Popen:
    """Start a server in its own session, so that Ctrl-C reaches us alone and `stop` all that it starts.

    It ends with this process, and so does all that it started.
    """
    command = [sys.executable, "-m", *server.arguments, "--host", HOST, "--port", str(port)]
    guard = [sys.executable, "-IS", "-c", GUARD]
    environment = os.environ | server.environment
    with log.open("w") as out:
        return subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def wait_until_ready(server: Server, port: int, log: Path, process: subprocess.Popen) -> None:
    """Return when the server answers.

    Raises:
        UserError: It ended or took too long.
    """
    deadline = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            httpx.get(f"http://{HOST}:{port}{server.health}", timeout=5).raise_for_status()
            return
        time.sleep(0.2)
    end = scrub("\n".join(log.read_text("utf-8", "replace").splitlines()[-8:]))
    raise UserError(f"{server.name} did not start; {log} ends with:\n{end}")


def stop(process: subprocess.Popen) -> None:
    """End a server and all that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, how)
            process.wait(SECONDS_TO_STOP)


def free_port(wanted: int) -> int:
    """Return the first port from `wanted` on that nobody listens on.

    Raises:
        UserError: A hundred ports are taken.
    """
    for port in range(wanted, wanted + 100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just closed counts as free
            probe.bind((HOST, port))
            return port
    raise UserError(f"no port from {wanted} to {wanted + 99} is free on {HOST}")
