"""Servers that go away and come back: real ones that are killed, and a proxy to one that can be closed."""

import os
import random
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from flows.server import programs


def free_port() -> int:
    """Return a port that stays ours while nobody listens there: the kernel gives none of these away."""
    return programs.free_port(random.SystemRandom().randrange(20_000, 30_000))


class Program:
    """MLflow's or Prefect's server; killed and started again, it has the same records and port."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.server = programs.mlflow(folder) if name == "MLflow" else programs.prefect(folder)
        self.log = folder / f"{name}.log"
        self.port = free_port()
        self.address = f"http://{programs.HOST}:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start; return when it answers."""
        self.process = programs.start(self.server, self.port, self.log)
        programs.wait_until_ready(self.server, self.port, self.log, self.process)

    def stop(self) -> None:
        """Be killed without warning, with all it started."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.stop()


class Proxy:
    """A port that leads to a server until it is closed: then connections break and new ones are refused."""

    def __init__(self, address: str) -> None:
        scheme, _, rest = address.partition("://")
        place, slash, path = rest.partition("/")
        host, _, port = place.rpartition(":")
        self.there = (host, int(port))
        self.listener: socket.socket
        self.connections: set[socket.socket] = set()
        self.port = free_port()
        self.address = f"{scheme}://{programs.HOST}:{self.port}{slash}{path}"

    def start(self) -> None:
        """Be open."""
        self.listener = socket.create_server((programs.HOST, self.port))
        threading.Thread(target=self._accept, args=[self.listener], daemon=True).start()

    def stop(self) -> None:
        """Be closed."""
        for end in [self.listener, *self.connections]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
            end.close()
        self.connections.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(self.there)
                self.connections |= {here, there}
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            self.connections.discard(end)
