"""infra/compose.yaml, and its services as processes of this machine."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from processes import wait_for
from workspace import CHECKOUT

from flows.server import programs
from flows.system import processes

INFRA = CHECKOUT / "infra"
FILE = INFRA / "compose.yaml"
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^${}]*))?\}")


def substitute(text: str, values: dict[str, str]) -> str:
    """Put values in the place of variables, from the innermost outwards, as compose does."""

    def value(found: re.Match) -> str:
        name, how, rest = found.groups()
        if values.get(name):
            return values[name]
        assert how == "-", f"{name}: {rest}"
        return rest

    while VARIABLE.search(text):
        text = VARIABLE.sub(value, text)
    return text


@dataclass
class Team:
    """The services of a compose file, each to be run as a process that finds the others on this machine."""

    folder: Path
    values: dict[str, str]
    hosts: dict[str, str]
    """Where `name:port` of the network between the containers is here."""

    def __post_init__(self) -> None:
        self.services = yaml.safe_load(substitute(FILE.read_text(), self.values))["services"]

    def environment(self, service: str) -> dict[str, str]:
        """Return what a container of the service is told."""
        text = {name: str(value) for name, value in self.services[service]["environment"].items()}
        for there, here in self.hosts.items():
            address = re.compile(rf"(?<=//|.@){re.escape(there)}\b")
            text = {name: address.sub(here, value) for name, value in text.items()}
        return text

    def start(self, service: str, command: list[str], log: Path, **more: str) -> subprocess.Popen:
        """Start a command as in a container of the service."""
        home = {"PREFECT_HOME": str(self.folder / service)}
        follow = [sys.executable, "-IS", "-c", processes.FOLLOW, str(os.getpid())]  # also to its death
        with log.open("a") as out:
            return subprocess.Popen(
                [*follow, shutil.which(command[0]) or command[0], *command[1:]],
                cwd=CHECKOUT,  # where containers start too
                env=os.environ | self.environment(service) | home | more,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, service: str, **more: str) -> subprocess.Popen:
        """Start what a container of the service runs."""
        return self.start(service, self.services[service]["command"], self.log(service), **more)

    def finish(self, service: str) -> None:
        """Run a service that ends by itself."""
        assert self.run(service).wait(60) == 0, self.log(service).read_text()

    @contextmanager
    def running(self, *services: str, **more: str) -> Iterator[dict[str, subprocess.Popen]]:
        """Run services until their health checks say that they are ready, and end them afterwards."""
        processes = {service: self.run(service, **more) for service in services}
        try:
            for service, process in processes.items():
                self.wait(service, process, **more)
            yield processes
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                programs.stop(process)

    def wait(self, service: str, process: subprocess.Popen, **more: str) -> None:
        wait_for(lambda: self.healthy(service, **more) or process.poll() is not None, every=0.5)
        assert process.poll() is None, self.log(service).read_text()

    def healthy(self, service: str, **more: str) -> bool:
        """Ask as compose would."""
        how, *command = self.services[service]["healthcheck"]["test"]
        assert how == "CMD"
        return self.start(service, command, self.folder / "health.log", **more).wait(60) == 0

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"
