"""infra/compose.yaml, and its services as processes of this machine."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from processes import wait_for
from workspace import CHECKOUT

from flows import ui

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
        told = self.services[service]["environment"]
        text = {name: str(value) for name, value in told.items()}
        for there, here in self.hosts.items():
            text = {
                name: re.sub(rf"(?<=//|.@){re.escape(there)}\b", here, value) for name, value in text.items()
            }
        return text

    def process(self, service: str, command: list[str], **more: str) -> subprocess.Popen:
        with (self.folder / f"{service}.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ
                | self.environment(service)
                | {"PREFECT_HOME": str(self.folder / service)}
                | more,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, service: str) -> None:
        """Run a service that ends by itself."""
        process = self.process(service, self.services[service]["command"])
        assert process.wait(60) == 0, self.log(service)

    @contextmanager
    def running(self, *services: str, **more: str) -> Iterator[dict[str, subprocess.Popen]]:
        """Run services until their health checks say that they are ready, and end them afterwards."""
        processes = {
            service: self.process(service, self.services[service]["command"], **more) for service in services
        }
        try:
            for service, process in processes.items():
                wait_for(
                    lambda s=service, p=process: p.poll() is not None or self.healthy(s, **more), 120, 0.5
                )
                assert process.poll() is None, self.log(service)
            yield processes
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                ui.stop(process)

    def healthy(self, service: str, **more: str) -> bool:
        """Ask as compose would."""
        how, *command = self.services[service]["healthcheck"]["test"]
        assert how == "CMD"
        return self.process(service, command, **more).wait(60) == 0

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()[-4000:]
