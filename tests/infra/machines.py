"""Machines of a team, each a clone of its project with a worker, and what people do on Prefect's page."""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import preloaded
from chain.checkout import Checkout
from composed import Team
from processes import Process, below, everyone, kill, wait_for

from flows.server import programs

HURRY = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Machine(Checkout):
    """A clone, and its worker."""

    def work(self, pool: str) -> None:
        """Start the worker."""
        self.said = self.folder.with_suffix(".log")
        self.worker = self.begin("fewstep", "worker", pool, said=self.said)

    def die(self) -> None:
        """Lose all that runs here at once, as when the power fails."""
        pids = [self.worker.pid, *below(self.worker.pid)]
        for how in (signal.SIGSTOP, signal.SIGKILL):  # first, that none sees another die
            for pid in pids:
                kill(pid, how)
        self.worker.wait()


class Office:
    """The team's servers, project and machines."""

    def __init__(self, team: Team, project: Checkout, folder: Path) -> None:
        self.team, self.project, self.folder = team, project, folder
        self.machines: dict[str, Machine] = {}
        address = f"http://{programs.HOST}:{team.values['PREFECT_PORT']}/api"
        login = tuple(team.values["PREFECT_LOGIN"].split(":"))
        self.prefect = httpx.Client(base_url=address, auth=login, timeout=60)

    def add(self, name: str, pool: str, *, sooner: bool = False) -> Machine:
        """Add a machine, whose worker serves a pool; what its stages ask of DVC begins sooner, if wanted."""
        self.project.sh(f"git clone -q . {self.folder / name}")
        made = self.machines[name] = Machine(self.folder / name)
        made.environment |= self.team.environment(f"{pool}-worker") | HURRY
        for ours in ("FEWSTEP_TRACKING", "PREFECT_HOME"):
            made.environment.pop(ours, None)
        # At every step, on a disk that all share.
        made.environment |= {
            "FEWSTEP_CHECKPOINT_SECONDS": "0",
            "FEWSTEP_SCRATCH": str(self.folder / "scratch"),
        }
        if sooner:
            made.environment["PYTHONPATH"] = preloaded.BEGUN
        made.work(pool)
        return made

    def close(self) -> None:
        for machine in self.machines.values():
            machine.die()
        self.prefect.close()

    def ask(self, path: str, **body: Any) -> Any:
        """Ask Prefect's API, as its page does."""
        return self.prefect.post(path, json=body).raise_for_status().json()

    def start(self, name: str = "fewstep/chain", **parameters: Any) -> str:
        """Start a deployment by its button, and return the flow run's id."""
        deployment = self.prefect.get(f"/deployments/name/{name}").raise_for_status().json()["id"]
        return self.ask(f"/deployments/{deployment}/create_flow_run", parameters=parameters)["id"]

    def cancel(self, run: str) -> None:
        """Stop a flow run by its button."""
        self.ask(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})

    def wait_for(self, condition: Callable[[], Any], **how: float) -> Any:
        """Wait until something holds; else say what runs, how flow runs stand and what machines said."""
        try:
            return wait_for(condition, **how)
        except AssertionError as error:
            error.add_note("\n".join(["what runs:", *filter(None, map(self._command, everyone()))]))
            for run in self.ask("/flow_runs/filter"):
                error.add_note(f"{run['name']}, pool {run['work_pool_name']}: {run['state_name']}")
            for machine in self.machines.values():
                error.add_note(f"{machine.said}:\n{machine.said.read_text()[-5000:]}")
            raise

    def end_of(self, run: str) -> dict[str, Any]:
        """Wait for the end of a flow run and return its state."""

        def state() -> dict[str, Any]:
            return self.prefect.get(f"/flow_runs/{run}").raise_for_status().json()["state"]

        return self.wait_for(lambda: (found := state())["type"] in FINAL and found, seconds=900, every=0.5)

    def stage_runs(self, run: str) -> list[tuple[str, str, str]]:
        """Return what a chain gave to workers, sorted: the stage, the pool, and the name of its state."""
        tasks = self.ask("/task_runs/filter", task_runs={"flow_run_id": {"any_": [run]}})
        below = {"parent_task_run_id": {"any_": [task["id"] for task in tasks]}}
        found = self.ask("/flow_runs/filter", flow_runs=below)
        return sorted((turn["name"], turn["work_pool_name"], turn["state"]["name"]) for turn in found)

    def tracked(self, chain: str) -> list[dict[str, Any]]:
        """Return the tracker's runs of a chain, each as its tags and status."""
        server = f"http://{programs.HOST}:{self.team.values['MLFLOW_PORT']}/api/2.0/mlflow"
        with httpx.Client(base_url=server, timeout=60) as mlflow:
            named = mlflow.get("/experiments/get-by-name", params={"experiment_name": "fewstep"})
            experiment = named.raise_for_status().json()["experiment"]["experiment_id"]
            found = mlflow.post("/runs/search", json={"experiment_ids": [experiment], "max_results": 1000})
        runs = found.raise_for_status().json()["runs"]
        tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} | run["info"] for run in runs]
        return [run for run in tags if run["fewstep.pipeline"].endswith(chain)]

    def scratch(self, stage: str, files: str) -> list[Path]:
        """Return files of the unfinished work on a stage."""
        folders = (self.folder / "scratch").glob(f"{stage}.*")
        return [
            file
            for folder in folders
            if not (folder / "manifest.json").exists()
            for file in folder.glob(files)
        ]

    def at_work(self) -> list[str]:
        """Return the commands of DVC and of stages that run on any machine."""
        work = re.compile(r"-m (dvc|stages\.[a-z])|flows/dvc/reproduce")
        return [command for process in everyone() if work.search(command := self._command(process))]

    def _command(self, process: Process) -> str:
        """Return a process's command if it runs on one of the machines, else nothing."""
        entry = Path(f"/proc/{process.pid}")
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            here = (entry / "cwd").readlink().is_relative_to(self.folder)
        except OSError:
            return ""
        return command if here else ""
