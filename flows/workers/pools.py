"""The pools of workers: which job a flow run is there, and that nobody who starts one can make it another.

Prefect fills a pool's job with variables of whoever starts a flow run, such as its command, its environment
and its folder. The job of infra/job.json has none, so the server refuses them and a worker uses none.
"""

import json
import os
from pathlib import Path

import httpx

from fewstep.errors import UserError
from flows.server import login

CHAINS = "driver"
"""The pool whose worker runs whole chains; the others run stages."""
JOB = "infra/job.json"
SECONDS = 30


def address() -> str:
    """Return the address of the Prefect server.

    Raises:
        UserError: None is named.
    """
    if found := os.environ.get("PREFECT_API_URL"):
        return found
    raise UserError(
        "workers and deployments need the address of the Prefect server: "
        "export PREFECT_API_URL=http://HOST:4200/api (`fewstep ui` starts one here)"
    )


def check_closed(pool: str, root: Path) -> None:
    """Refuse to work for a pool whose job is another; one that does not exist yet gets the right one.

    Raises:
        UserError: It has another job, or the server does not answer.
    """
    server = address()
    name, _, secret = os.environ.get(login.CLIENT, "").partition(":")
    try:
        found = httpx.get(f"{server}/work_pools/{pool}", auth=(name, secret), timeout=SECONDS)
        if found.status_code == httpx.codes.NOT_FOUND:
            return
        job = found.raise_for_status().json()["base_job_template"]
    except httpx.HTTPStatusError as error:
        wrong = error.response.status_code == httpx.codes.UNAUTHORIZED
        advice = f"; {login.CLIENT} is missing or wrong: export it" if wrong else "; see its log"
        raise UserError(
            f"the Prefect server at {server} answers {error.response.status_code}{advice}"
        ) from None
    except httpx.HTTPError as error:
        raise UserError(
            f"the Prefect server at {server} does not answer ({type(error).__name__}); start it, or set "
            "PREFECT_API_URL to one that runs"
        ) from None
    if job != json.loads((root / JOB).read_text()):
        raise UserError(
            f"pool {pool} at {server} has another job than {JOB}, so whoever starts a run could choose its "
            "command; run `fewstep deploy`, then start the worker again"
        )
