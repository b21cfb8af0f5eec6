"""What a stage shows in Prefect, and that none of it can fail one."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import wait_for

from flows import pipeline
from flows.server import artifacts, page, tracker
from flows.system import records
from stages.process.progress import StageProgress
from stages.settings import checks

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(autouse=True)
def server(prefect_api, monkeypatch):
    monkeypatch.setattr(checks, "check", lambda params: None)  # the toy's are no real stages'
    monkeypatch.setenv("FEWSTEP_TRACKING", "off")
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api


def shown_by(flow_run):
    """Return the artifacts of a flow run by key."""
    with get_client(sync_client=True) as client:
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
        return {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=mine)}


def logs(flow_run):
    """Return the messages in a flow run's log."""
    with get_client(sync_client=True) as client:
        mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run]))
        return [log.message for log in client.read_logs(log_filter=mine)]


def in_a_flow(body):
    """Run `body` in a flow; return the id of its run."""
    return flow(body, name="test")(return_state=True).state_details.flow_run_id


def manifest(**facts):
    fields = dict.fromkeys(("stage", "key", "config", "inputs", "files"))
    return fields | {"version": 1, "seed": 0, "fingerprint": "f" * 64, "facts": facts}


@pytest.fixture
def result(tmp_path):
    """The folder of a result with a picture."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest(held_out={"loss": 0.123456})))
    Image.new("RGB", (20, 10), "red").save(tmp_path / "out/samples.png")
    return tmp_path / "out"


def test_a_flow_shows_progress_and_a_page_of_each_stage_that_ran(toy):
    work = (toy.root / "work.py").read_text()
    told = "write_progress(630, 1500, 41)\nwrite_progress(645, 1500, 39)\n"
    page = f"pathlib.Path(out, 'manifest.json').write_text({json.dumps(manifest(samples=7))!r})\n"
    (toy.root / "work.py").write_text(work + told + page)
    state = pipeline.pipeline(toy.root, return_state=True)
    assert state.is_completed()
    shown = shown_by(state.state_details.flow_run_id)
    stages = ("first", "middle-left", "middle-right", "last")
    assert shown.keys() == {*stages, *(f"{stage}-progress" for stage in stages)}
    assert "| samples | 7 |" in shown["middle-left"].data
    assert shown["middle-left"].task_run_id
    bar = shown["middle-left-progress"]
    assert (bar.type, bar.data) == ("progress", 43)
    assert bar.description == "middle@left: step 645/1500, 0:39 left"

    said = wait_for(
        lambda: ready if "last: at work" in (ready := logs(state.state_details.flow_run_id)) else None
    )
    for stage in toy.stages:
        assert [line for line in said if f"{stage}: at work" in line] == [f"{stage}: at work"]  # once

    state = pipeline.pipeline(toy.root, return_state=True)
    assert shown_by(state.state_details.flow_run_id) == {}  # nothing is new


def record(label, unit, done, total, seconds_left):
    fixed = {"stage": "couple@round1", "values": {"loss": 0.5}}
    return fixed | {"label": label, "unit": unit, "done": done, "total": total, "seconds_left": seconds_left}


def test_a_stage_has_one_bar_that_tells_what_it_is_at():
    def body():
        progress = artifacts.ProgressArtifact("couple@round1")
        progress.move(record("couple", "shard", 1, 4, 6.0))
        progress.move(record("couple", "shard", 4, 4, 0.0))
        progress.move(record("checks", "batch", 1, 2, 61.4))

    shown = shown_by(in_a_flow(body))
    assert {key: (bar.data, bar.description) for key, bar in shown.items()} == {
        "couple-round1-progress": (50, "couple@round1: checks: batch 1/2, 1:01 left")
    }


def test_the_newest_record_that_a_stage_writes_is_what_a_bar_shows(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setenv("FEWSTEP_PROGRESS_FILE", str(tmp_path / "records"))
    monkeypatch.setattr(records, "SECONDS_BETWEEN_LOOKS", 0.01)
    with records.followed(tmp_path / "records", heard.append):
        progress = StageProgress("distill@boss-4")
        progress.start("trajectories", 10)
        wait_for(lambda: heard)
        for _ in range(10):
            progress.advance(1, loss=0.5)
        progress.finish()
    shown = [artifacts.described(record) for record in heard]
    assert shown[0] == "distill@boss-4: trajectories: step 0/10"
    assert shown[-1] == "distill@boss-4: trajectories: step 10/10, 0:00 left"


def test_a_bar_moves_once_for_all_records_since_the_last_look(tmp_path):
    (tmp_path / "records").write_text('{"done": 1}\n{"done": 2}\n{"done": 3')
    heard = []
    with records.followed(tmp_path / "records", heard.append):
        pass
    assert heard == [{"done": 2}]


def test_the_time_left_is_reported_where_it_is_known():
    assert artifacts.described(record("couple@round1", "shard", 0, 4, None)) == "couple@round1: shard 0/4"


def test_a_page_has_the_picture_the_facts_and_the_tracked_run(result):
    shown = page.page("pretrain@base", result, manifest(held_out={"loss": 0.123456}), "http://t/#/runs/1")
    assert "![samples.png](data:image/png;base64," in shown
    assert "| held_out.loss | 0.1235 |" in shown
    assert "[MLflow run](http://t/#/runs/1)" in shown


def test_a_large_picture_is_shrunk(result):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(result / "samples.png")
    assert (result / "samples.png").stat().st_size > 400_000
    assert 1000 < len(page.data_url(result / "samples.png")) < 200_000


def test_an_evaluation_shows_its_headline_and_where_the_report_is(result):
    rows = {"boss-4@4": {"fd_over_teacher": 1.23456, "fd_over_teacher_se": 0.1, "outside": None}}
    (result / "metrics.json").write_text(json.dumps({"headline": rows}))
    (result / "report.html").write_text("")
    shown = page.page("evaluate", result, manifest(), "http://t/#/experiments/1/runs/2")
    assert "| boss-4@4 | 1.235 | 0.1 | - | - | - |" in shown
    assert f"`{result / 'report.html'}`" in shown
    assert "(http://t/#/experiments/1/runs/2/artifacts/output/report.html)" in shown


@pytest.mark.parametrize("broken", ["create_markdown_artifact", "create_progress_artifact", "page"])
def test_what_cannot_be_shown_is_a_line_in_the_log(result, monkeypatch, broken):
    def fail(*arguments, **named):
        raise ConnectionError("no\nserver")

    def body():
        artifacts.ProgressArtifact("one").move(record("one", "step", 1, 2, 39.0))
        artifacts.show("one", result.parent, ("out",))

    monkeypatch.setattr(artifacts, broken, fail)
    warnings = []
    monkeypatch.setattr(
        artifacts, "get_run_logger", lambda: SimpleNamespace(info=print, warning=warnings.append)
    )
    in_a_flow(body)
    (told,) = warnings
    assert told.endswith("is not shown (ConnectionError: no)")


def test_a_damaged_manifest_fails_no_stage(result, monkeypatch):
    (result / "manifest.json").write_text("{")
    warnings = []
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: SimpleNamespace(warning=warnings.append))
    artifacts.show("one", result.parent, ("out",))
    assert "manifest.json is damaged" in warnings[0]


def test_a_tracker_that_is_down_costs_the_link_only(result, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    flow_run = in_a_flow(lambda: artifacts.show("one", result.parent, ("out",)))
    assert "MLflow run" not in shown_by(flow_run)["one"].data


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db"])
def test_a_database_has_no_page_to_link_to(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracker.run_page("f" * 64) is None
