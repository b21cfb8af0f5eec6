"""Prefect, MLflow and S3 each taken down in the middle of a run of the real chain, and what that costs.

Run `python -m benchmarks.outages [seconds]` (30). The servers are real ones: Prefect's and MLflow's are
killed and started again on the same records and port, S3 is moto behind a proxy that is closed; it holds
shards while they are made, and DVC's remote. They go away while a stage works and come back when others
have begun; then MLflow is away for the whole run. Every run shall end well, with the bytes of the run that
nobody disturbed, and in the end the servers shall know as much as they know of that.
"""

import os
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import s3
from chain.checkout import Checkout
from outages import Program, Proxy
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from processes import wait_for

from flows.server import login

SETTINGS = {"pretrain": {"base": {"train": {"steps": 600}}}, "couple": {"round1": {"nfe": 32}}}
"""So much that an outage begins and ends in the middle of the chain."""


OUTAGES = (
    ("Prefect", "pretrain@base: train, step"),
    ("Prefect", "evaluate: entries"),
    ("MLflow", "pretrain@base: train, step"),
    ("S3", "couple@round1: sample"),
    ("S3", "pretrain@base: train, step 600/600"),
)
"""Which server goes away, and what the log says then."""
METRICS = """
select runs.name, metrics.key, metrics.step from metrics
join runs using (run_uuid) join experiments using (experiment_id) join tags using (run_uuid)
where experiments.name = ? and tags.key = 'fewstep.outcome' and tags.value = 'ran'
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run went, and what the servers know of it in the end."""

    seconds: float
    said: str
    files: dict[str, bytes]
    metrics: set[tuple[str, str, int]]
    """Stage, name and step of each number in MLflow."""
    late: int
    """How many of them it knew only after the next run, which delivers what waits."""
    shown: set[tuple[str, str]]
    """Stages that Prefect knows to be completed, and those of which it has a page."""

    def failures(self) -> int:
        """Return how many tries of a stage ended badly."""
        return self.said.count("will run") + self.said.count("Failed(")


@dataclass(frozen=True)
class Place:
    """The servers, and a chain of which nothing ran."""

    folder: Path
    template: Checkout
    servers: dict[str, Program | Proxy]

    def run(self, name: str, away: str = "", when: str = "", seconds: float = 0.0) -> Outcome:
        """Run the chain with a server away for so many seconds from when it says so, or (0) all the time."""
        checkout, said = self.template.copy(self.folder / name), self.folder / f"{name}.log"
        bucket = s3.make_bucket(self.servers["S3"].address, name)
        checkout.environment.pop("FEWSTEP_TRACKING")
        checkout.environment |= s3.ACCESS | {
            "AWS_ENDPOINT_URL_S3": self.servers["S3"].address,
            "FEWSTEP_SHARDS": f"{bucket}/shards",
            "MLFLOW_TRACKING_URI": self.servers["MLflow"].address,
            "MLFLOW_EXPERIMENT_NAME": name,
            "PREFECT_API_URL": f"{self.servers['Prefect'].address}/api",
            "PYTHONUNBUFFERED": "1",
        }
        checkout.sh(f"dvc remote add -q --default team {bucket}/dvc")
        if away and not seconds:
            self.servers[away].stop()
        began = time.monotonic()
        run = checkout.begin("fewstep", "run", said=said)
        if away and seconds:
            wait_for(lambda: run.poll() is not None or when in said.read_text(), seconds=3600)
            if when not in said.read_text():
                raise RuntimeError(
                    f"the run ended and never said {when!r}, so no outage was measured: {said}"
                )
            self.servers[away].stop()
            time.sleep(seconds)
            self.servers[away].start()
        run.wait()
        took = time.monotonic() - began
        if away and not seconds:
            self.servers[away].start()
        shown, known = self.shown(), self.metrics(name)
        checkout.sh("fewstep run")  # has nothing to do but deliver what waits
        checkout.wait_for_senders()
        metrics = self.metrics(name)
        return Outcome(
            seconds=took,
            said=said.read_text(),
            files=checkout.files("artifacts"),
            metrics=metrics,
            late=len(metrics - known),
            shown=shown,
        )

    def metrics(self, experiment: str) -> set[tuple[str, str, int]]:
        """Return what MLflow knows of an experiment."""
        with sqlite3.connect(self.folder / "MLflow/.fewstep/mlflow.db") as database:
            return set(database.execute(METRICS, [experiment]))

    def shown(self) -> set[tuple[str, str]]:
        """Return what Prefect shows of the last run; it hears of the stages a little later."""
        time.sleep(5)
        with (
            temporary_settings(
                {
                    PREFECT_API_URL: f"{self.servers['Prefect'].address}/api",
                    PREFECT_API_AUTH_STRING: os.environ[login.CLIENT],
                }
            ),
            get_client(sync_client=True) as client,
        ):
            (last,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[last.id]))
            tasks = client.read_task_runs(flow_run_filter=mine)
            artifacts = client.read_artifacts(flow_run_filter=mine)
        states = {(task.name, str(task.state_name)) for task in tasks}
        return states | {(str(a.key), "page") for a in artifacts if a.type == "markdown"}


def told(name: str, outcome: Outcome, calm: Outcome) -> str:
    """Return a line of the table."""
    return " | ".join(
        (
            f"{name:40}",
            "same bytes" if outcome.files == calm.files else "OTHER BYTES",
            f"{outcome.failures():2} tries failed",
            f"{len(outcome.metrics):5} of {len(calm.metrics)} metrics, {outcome.late:5} after the run",
            f"{len(outcome.shown & calm.shown):2} of {len(calm.shown)} states and pages",
            f"{outcome.seconds:6.1f} s, {outcome.seconds - calm.seconds:+6.1f} s",
        )
    )


def main(seconds: float) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        programs = {name: Program(name, folder / name) for name in ("Prefect", "MLflow")}
        os.environ["PREFECT_HOME"] = str(folder / "Prefect")
        os.environ[login.CLIENT] = login.login(folder / "Prefect")
        servers = {name: stack.enter_context(program) for name, program in programs.items()}
        servers["S3"] = stack.enter_context(Proxy(stack.enter_context(s3.server())))
        template = Checkout.create(folder / "template")
        template.set(**SETTINGS)
        template.sh("git commit -qam longer")
        place = Place(folder, template, servers)
        calm = place.run("calm")
        print(told("nothing", calm, calm), flush=True)
        for number, (away, when) in enumerate(OUTAGES):
            outcome = place.run(f"outage-{number}", away, when, seconds)
            print(told(f"{away}, {seconds:g} s from '{when}'", outcome, calm), flush=True)
        outcome = place.run("untracked", "MLflow")
        print(told("MLflow, from begin to end", outcome, calm), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 30.0)
