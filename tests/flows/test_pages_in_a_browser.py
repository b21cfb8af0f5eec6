"""The pages people look at, opened in a real browser: one test, for its servers take seconds to start."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from outages import free_port
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import pipeline
from flows.server import login, programs
from flows.server.tracker import run_page
from stages.settings import checks
from stages.tracking import outboxes, sender
from stages.tracking.outboxes import Outbox

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SHOTS = os.environ.get("SHOTS")  # a folder for pictures of the pages, to look at

CHANCES = 6  # of a page to be ready, on a machine that is busy

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium here: apt-get install chromium")


@pytest.fixture
def mlflow_server(tmp_path, monkeypatch):
    """The address of a real MLflow server."""
    server = programs.mlflow(tmp_path)
    (tmp_path / ".fewstep").mkdir()
    port = free_port()
    process = programs.start(server, port, tmp_path / "log")
    try:
        programs.wait_until_ready(server, port, tmp_path / "log", process)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{programs.HOST}:{port}")
        yield f"http://{programs.HOST}:{port}"
    finally:
        programs.stop(process)


def browse(folder: Path, name: str, address: str, awaited: list[str]) -> str:
    """Return the text of a page once its scripts have put there what is awaited, or have had many chances."""
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1400,1600",
        *(
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ),
    ]
    options += [f"--user-data-dir={folder / name}", "--virtual-time-budget=20000", "--disable-dev-shm-usage"]
    if SHOTS:
        shot = f"--screenshot={SHOTS}/{name}.png"
        subprocess.run([CHROMIUM, *options, shot, address], capture_output=True, timeout=120)
    for _ in range(CHANCES):
        done = subprocess.run(
            [CHROMIUM, *options, "--dump-dom", address], capture_output=True, text=True, timeout=120
        )
        if all(word in done.stdout for word in awaited):
            break
    return done.stdout


def evaluated(tracker, root, name, fd_clf):
    """Deliver a run of a student, its model, and what an evaluation found of it."""
    (root / "model.safetensors").write_text(name)
    outbox = Outbox(root, name)
    tags = {"fewstep.fingerprint": name * 8, "fewstep.outcome": "ran"}
    outbox.add("begin", params={"steps": 7}, pipeline="p", pipeline_name="p", address=name, tags=tags)
    outbox.add("measure", step=4, values={"result.fd_clf": fd_clf})
    files = [outbox.keep("model", "model.safetensors", root / "model.safetensors")]
    outbox.add("model", name=name, files=files, tags=tags)
    row = {"model": name, "fingerprint": name * 8, "nfe": 4, "fd_clf": fd_clf, "fd_clf_se": 0.1}
    outbox.add("scores", rows=[row | {"yardstick": "y"}])
    outbox.add("end", status="FINISHED")
    outbox.close()
    sender.deliver(tracker, outbox.file, live=False)
    return tracker.origin(tags)


def test_the_pages_show_what_happened(toy, tmp_path, finished, prefect_api, mlflow_server, monkeypatch):
    from stages.tracking.mlflow_runs import Tracker

    tracker = Tracker(tmp_path, mlflow_server, outboxes.experiment())
    runs = [evaluated(tracker, tmp_path, "alpha", 2.0), evaluated(tracker, tmp_path, "beta", 1.0)]
    assert run_page("alpha" * 8).endswith(f"/runs/{runs[0]}")

    work = (toy.root / "work.py").read_text()
    fields = dict.fromkeys(("stage", "key", "config", "inputs", "files"))
    manifest = fields | {
        "version": 1,
        "seed": 0,
        "fingerprint": "beta" * 8,
        "facts": {"held_out_loss": 0.4321},
    }
    page = f"pathlib.Path(out, 'manifest.json').write_text({json.dumps(manifest)!r})\n"
    picture = f"shutil.copy({str(finished / 'artifacts/prepare/samples.png')!r}, out)\n"
    told = "write_progress(640, 1500, 39)\n"
    (toy.root / "work.py").write_text(work + told + page + picture)
    monkeypatch.setattr(checks, "check", lambda params: None)
    monkeypatch.setenv("FEWSTEP_TRACKING", "off")
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        state = pipeline.pipeline(toy.root, return_state=True)
        ours = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
        with get_client(sync_client=True) as client:
            found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ours))
        shown = {artifact.key: artifact.id for artifact in found}

    prefect = prefect_api.removesuffix("/api")
    compared = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([tracker.experiment]))}"
    pages = {
        "run": f"{prefect}/enter/runs/flow-run/{state.state_details.flow_run_id}#{login.login(tmp_path)}",
        "artifact": f"{prefect}/enter/artifacts/artifact/{shown['last']}#{login.login(tmp_path)}",
        "comparison": f"{mlflow_server}/#/compare-runs?{compared}",
        "report": (finished / "artifacts/evaluate/report.html").resolve().as_uri(),
    }
    link = f"{mlflow_server}/#/experiments/{tracker.experiment}/runs/{runs[1]}"
    awaited = {
        "run": ["Completed", "middle@left"],
        "artifact": ["held_out_loss", "data:image/png;base64,", link],
        "comparison": ["result.fd_clf", "alpha"],
        "report": ["one-step"],
    }
    for name, words in awaited.items():
        text = browse(tmp_path, name, pages[name], words)
        assert [word for word in words if word not in text] == [], name
