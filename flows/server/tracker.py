"""The address of a result's run on MLflow's page, found over HTTP, since importing mlflow takes seconds."""

import os
from urllib.parse import quote

import httpx

from fewstep.secrets import scrub
from stages.tracking import outboxes

SECONDS = 3.0  # a tracker that does not answer delays a flow no longer


def run_page(fingerprint: str) -> str | None:
    """Return the address of the page of the run that made a result.

    A run that is not delivered yet has no page: then it is a page that searches for it when opened.

    Returns:
        None if the tracker has no page, or does not have the experiment yet.

    Raises:
        httpx.HTTPError: The tracker does not answer.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not server.startswith("http"):
        return None
    wanted = f"tags.`fewstep.fingerprint` = '{fingerprint}'"
    with httpx.Client(base_url=f"{server}/api/2.0/mlflow", timeout=SECONDS, **access()) as client:
        found = client.get("/experiments/get-by-name", params={"experiment_name": outboxes.experiment()})
        if found.status_code == httpx.codes.NOT_FOUND:
            return None
        experiment = found.raise_for_status().json()["experiment"]["experiment_id"]
        ran = f"{wanted} and tags.`fewstep.outcome` = 'ran'"
        asked = {"experiment_ids": [experiment], "filter": ran, "max_results": 1}
        runs = client.post("/runs/search", json=asked).raise_for_status().json().get("runs")
    page = f"{scrub(server)}/#/experiments/{experiment}/runs"
    return f"{page}/{runs[0]['info']['run_id']}" if runs else f"{page}?searchFilter={quote(wanted)}"


def access() -> dict:
    """Return a client's credentials, from the variables that MLflow's own client reads."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"headers": {"Authorization": f"Bearer {token}"}}
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    return {"auth": (name, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))} if name else {}
