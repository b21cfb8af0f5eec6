"""The pages of MLflow and Prefect on this machine, until Ctrl-C."""

import os
import signal
from contextlib import ExitStack, suppress
from pathlib import Path

from fewstep.secrets import scrub
from flows.server import programs
from stages.artifacts import places

ENDS = (signal.SIGTERM, signal.SIGHUP)  # beside Ctrl-C: a closed terminal must leave nothing running either


def serve(root: Path) -> None:
    """Start the servers, print their addresses, and stop them at Ctrl-C.

    Raises:
        UserError: One ended by itself or was not ready in time; the message has the end of its log.
    """
    logs = root / places.LOGS
    logs.mkdir(parents=True, exist_ok=True)
    for number in ENDS:
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        started = []
        for server in (programs.mlflow(root), programs.prefect(root)):
            if (address := os.environ.get(server.elsewhere, "")).startswith("http"):
                print(f"{server.name:8} {scrub(address)} (from {server.elsewhere})", flush=True)
                continue
            port, log = programs.free_port(server.port), logs / f"{server.name.lower()}.log"
            process = programs.start(server, port, log)
            stack.callback(programs.stop, process)
            started.append((server, port, log, process))
        for server, port, log, process in started:
            programs.wait_until_ready(server, port, log, process)
            address = f"http://{programs.HOST}:{port}"
            page, use = (text.replace("{}", address) for text in (server.page, server.use))
            print(f"{server.name:8} {page}{use}", flush=True)
        if started:
            print("Ctrl-C stops them.", flush=True)
        for _, _, _, process in started:
            process.wait()
