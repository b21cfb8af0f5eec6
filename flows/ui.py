"""The pages of MLflow and Prefect on this machine, until Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from fewstep.errors import UserError
from fewstep.secrets import scrub

HOST = "127.0.0.1"
SECONDS_TO_START = 90
SECONDS_TO_STOP = 10
ENDS = (signal.SIGTERM, signal.SIGHUP)  # beside Ctrl-C: a closed terminal must leave nothing running either


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
    use: str = ""
    """What to type in another terminal so that it shows runs started there; {} is its address."""
    environment: dict[str, str] = field(default_factory=dict)
    """Its variables. Secrets belong here, since others on this machine can read its command line."""


def servers(root: Path) -> list[Server]:
    """Return the servers that show what lies under `root`/.fewstep."""
    kept = root.resolve() / ".fewstep"
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{kept / 'mlflow.db'}"
    return [
        Server(
            name="MLflow",
            elsewhere="MLFLOW_TRACKING_URI",
            port=5000,
            arguments=(
                *("mlflow", "server", "--workers=1"),
                *("--artifacts-destination", str(kept / "mlartifacts")),
            ),
            health="/health",
            environment={
                "MLFLOW_BACKEND_STORE_URI": store,  # it may hold a password
                # MLflow's job workers, eight processes, serve features that nothing here uses.
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        ),
        Server(
            name="Prefect",
            elsewhere="PREFECT_API_URL",
            port=4200,
            arguments=("prefect", "server", "start"),
            health="/api/health",
            # MLflow needs no such line: by default, stages write to the database that it shows.
            use="  (to watch `fewstep run` there: export PREFECT_API_URL={}/api)",
            environment={"PREFECT_UI_API_URL": "/api"},  # else its page asks port 4200, whatever its own is
        ),
    ]


def serve(root: Path) -> None:
    """Start the servers, print their addresses, and stop them at Ctrl-C.

    Raises:
        UserError: One ended by itself or was not ready in time; the message has the end of its log.
    """
    logs = root / ".fewstep" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for number in ENDS:
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        started = []
        for server in servers(root):
            if (address := os.environ.get(server.elsewhere, "")).startswith("http"):
                print(f"{server.name:8} {scrub(address)} (from {server.elsewhere})", flush=True)
                continue
            port, log = free_port(server.port), logs / f"{server.name.lower()}.log"
            process = start(server, port, log)
            stack.callback(stop, process)
            started.append((server, port, log, process))
        for server, port, log, process in started:
            wait_until_ready(server, port, log, process)
            address = f"http://{HOST}:{port}"
            print(f"{server.name:8} {address}{server.use.format(address)}", flush=True)
        if started:
            print("Ctrl-C stops them.", flush=True)
        for _, _, _, process in started:
            process.wait()


def start(server: Server, port: int, log: Path) -> subprocess.Popen:
    """Start a server in its own session, so that Ctrl-C reaches us alone and `stop` all that it starts."""
    command = [sys.executable, "-m", *server.arguments, "--host", HOST, "--port", str(port)]
    environment = os.environ | server.environment
    with log.open("w") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
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
    end = scrub("\n".join(log.read_text().splitlines()[-8:]))
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
