"""Registers the pools and deployments of infra/prefect.yaml with the Prefect server."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from fewstep.errors import UserError
from flows.server import connection
from flows.workers import driver, pools


def deploy(root: Path) -> None:
    """Register everything, again where it is registered already.

    Raises:
        UserError: The server does not answer or refuses.
    """
    pools.address()
    connection.check()
    job = json.loads((root / pools.JOB).read_text())
    with get_client(sync_client=True) as client:
        for pool in sorted({pools.CHAINS, *driver.pools_of(root).values()}):
            wanted = WorkPoolCreate(name=pool, type="process", base_job_template=job)
            try:
                client.create_work_pool(wanted, overwrite=True)
            except httpx.HTTPError as error:
                raise UserError(
                    f"the Prefect server does not take pool {pool}: {error}; remove what has its name "
                    f"there, or rename it in {driver.FILE}"
                ) from None
            print(f"Pool {pool} is registered; `fewstep worker {pool}` starts a worker of it")
    prefect(root, "--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect.yaml")


def prefect(root: Path, *arguments: str) -> None:
    """Run a command of Prefect.

    Raises:
        UserError: It failed; it has said why.
    """
    if subprocess.run([sys.executable, "-m", "prefect", *arguments], cwd=root).returncode:
        raise UserError(
            f"prefect {' '.join(arguments)} failed; correct what it says above, then run the command again"
        )
