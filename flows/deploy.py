"""Registers the pools and deployments of infra/prefect.yaml with the Prefect server."""

import subprocess
import sys
from pathlib import Path

from fewstep.errors import UserError
from flows.server import connection
from flows.workers import driver, pools


def deploy(root: Path) -> None:
    """Register everything, anew where it is registered already.

    Raises:
        UserError: The server does not answer or refuses.
    """
    pools.address()
    connection.check()
    for pool in sorted({pools.CHAINS, *driver.pools_of(root).values()}):
        made = ("work-pool", "create", "--overwrite", "--type", "process", "--base-job-template", pools.JOB)
        prefect(root, *made, pool)
    prefect(root, "--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect.yaml")


def prefect(root: Path, *arguments: str) -> None:
    """Run a command of Prefect.

    Raises:
        UserError: It failed; it has said why.
    """
    if subprocess.run([sys.executable, "-m", "prefect", *arguments], cwd=root).returncode:
        raise UserError(f"prefect {' '.join(arguments)} failed")
