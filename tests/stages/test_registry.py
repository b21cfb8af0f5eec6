"""Models reach the registry, and the best student at each number of calls is its champion."""

import json
import shutil
from importlib.util import find_spec

import pytest
from tracked_project import TrackedProject

from stages.artifacts.plan import Input
from stages.tracking import lineage, outboxes, sender, tracking
from stages.tracking.outboxes import Outbox

# Not importorskip, which imports it, for seconds.
pytestmark = pytest.mark.skipif(find_spec("mlflow") is None, reason="no mlflow here")


@pytest.fixture
def tracker(mlflow_database, tmp_path):
    """An empty tracker, in this process."""
    from stages.tracking.mlflow_runs import Tracker

    (tmp_path / ".fewstep").mkdir()
    shutil.copy(mlflow_database, tmp_path / ".fewstep/mlflow.db")
    return Tracker(tmp_path, None, "fewstep")


def told(tracker, root, name, *events, begin=True):
    """Deliver what a stage tells; return the id of its run."""
    outbox = Outbox(root, name)
    tags = {"fewstep.fingerprint": name, "fewstep.outcome": "ran", "mlflow.source.git.commit": "c0ffee"}
    if begin:
        outbox.add("begin", params={}, pipeline="p", pipeline_name="p", address=name, tags=tags)
    for event, facts in events:
        outbox.add(event, **facts)
    outbox.add("end", status="FINISHED")
    outbox.close()
    sender.deliver(tracker, outbox.file, live=False)
    return tracker.origin(tags)


def model(tracker, root, name):
    """Deliver a run that made a model."""
    files = []
    for file in ("model.safetensors", "config.json"):
        (root / file).write_text(f"{file} of {name}")
        files.append(str(root / file))
    tags = {"fewstep.fingerprint": name, "fewstep.stage": "distill"}
    return told(tracker, root, name, ("model", {"name": name, "files": files, "tags": tags}))


def row(name, fd_clf, *, nfe=4, se=0.1, yardstick="y"):
    return {
        "model": name,
        "fingerprint": name,
        "nfe": nfe,
        "fd_clf": fd_clf,
        "fd_clf_se": se,
        "yardstick": yardstick,
    }


def evaluated(tracker, root, *rows):
    """Deliver an evaluation; return what became of each alias, and the tags of its run."""
    name = f"evaluate {[(row['model'], row['fd_clf'], row['yardstick']) for row in rows]}".replace("'", "")
    run = told(tracker, root, name, ("scores", {"rows": list(rows)}))
    aliases = tracker.client.get_registered_model("fewstep").aliases
    version = {alias: tracker.client.get_model_version("fewstep", at) for alias, at in aliases.items()}
    names = {alias: made.tags["fewstep.fingerprint"] for alias, made in version.items()}
    return names, tracker.client.get_run(run).data.tags


def test_a_model_becomes_a_version_with_its_files_and_the_run_that_made_it(tracker, tmp_path):
    run = model(tracker, tmp_path, "boss-4")
    (version,) = tracker.client.search_model_versions("name = 'fewstep'")
    assert version.run_id == run
    assert version.tags["fewstep.fingerprint"] == "boss-4"
    (kept,) = tracker.client.search_logged_models([tracker.experiment])
    assert (kept.name, kept.source_run_id, str(kept.status)) == ("boss-4", run, "READY")
    assert [made.model_id for made in tracker.client.get_run(run).outputs.model_outputs] == [kept.model_id]
    (weights,) = tmp_path.glob(f".fewstep/mlartifacts/models/{kept.model_id}/artifacts/model.safetensors")
    assert weights.read_text() == "model.safetensors of boss-4"
    assert (weights.parent / "config.json").exists()


def test_a_model_delivered_twice_or_made_again_is_one_version(tracker, tmp_path):
    model(tracker, tmp_path, "boss-4")
    model(tracker, tmp_path, "boss-4")
    assert len(tracker.client.search_model_versions("name = 'fewstep'")) == 1


def test_the_best_at_each_number_of_calls_is_the_champion(tracker, tmp_path):
    for name in ("a", "b", "c"):
        model(tracker, tmp_path, name)
    champions, tags = evaluated(tracker, tmp_path, row("a", 3.0), row("b", 2.0), row("c", 9.0, nfe=1))
    assert champions == {"champion-4": "b", "champion-1": "c"}
    assert tags["fewstep.champion-1"] == "version 3, c, fd_clf 9: became the champion"


def test_the_first_champion_is_the_best_though_another_is_within_the_interval(tracker, tmp_path):
    for name in ("a", "b"):
        model(tracker, tmp_path, name)
    assert evaluated(tracker, tmp_path, row("a", 2.0), row("b", 1.9))[0] == {"champion-4": "b"}


def test_a_champion_is_replaced_only_by_a_version_better_beyond_the_interval(tracker, tmp_path):
    for name in ("old", "near", "far"):
        model(tracker, tmp_path, name)
    evaluated(tracker, tmp_path, row("old", 2.0))
    champions, tags = evaluated(tracker, tmp_path, row("near", 1.8))  # 1.96 * 0.14 = 0.28
    assert champions == {"champion-4": "old"}
    assert (
        "has an fd_clf 0.2 lower than the champion's; it must be lower by more than 0.28"
        in tags["fewstep.champion-4"]
    )
    champions, tags = evaluated(tracker, tmp_path, row("far", 1.7))
    assert champions == {"champion-4": "far"}
    assert "in place of version 1" in tags["fewstep.champion-4"]


def test_numbers_of_another_yardstick_compare_once_the_champion_is_measured_anew(tracker, tmp_path):
    for name in ("old", "new"):
        model(tracker, tmp_path, name)
    evaluated(tracker, tmp_path, row("old", 2.0))
    champions, tags = evaluated(tracker, tmp_path, row("new", 0.1, yardstick="other"))
    assert champions == {"champion-4": "old"}
    assert "another yardstick" in tags["fewstep.champion-4"]
    both = (row("old", 1.0, yardstick="other"), row("new", 0.1, yardstick="other"))
    assert evaluated(tracker, tmp_path, *both)[0] == {"champion-4": "new"}


def test_a_student_that_is_not_in_the_registry_is_passed_over(tracker, tmp_path):
    model(tracker, tmp_path, "a")
    assert evaluated(tracker, tmp_path, row("a", 2.0), row("untracked", 1.0))[0] == {"champion-4": "a"}


@pytest.mark.parametrize("se", [0.0, 0.1])
def test_an_equal_student_does_not_replace_the_champion(se):
    from stages.tracking.mlflow_runs import why_not

    champion = {f"fewstep.{name}": str(value) for name, value in row("a", 2.0, se=se).items()}
    assert "has an fd_clf 0 lower than the champion's; it must be lower" in why_not(
        row("b", 2.0, se=se), champion
    )
    assert "has an fd_clf 0.1 higher than" in why_not(row("b", 2.1, se=se), champion)


def test_data_and_pairs_are_inputs_of_the_run_and_models_are_not(tracker, tmp_path):
    def made(stage, key):
        return Input(tmp_path / stage, f"{stage}-digest" * 5, {"stage": stage, "key": key})

    inputs = {
        "data": made("prepare", None),
        "pairs": made("couple", "round1"),
        "init": made("pretrain", "base"),
    }
    run = told(tracker, tmp_path, "reflow", ("samples", {"samples": lineage.samples(inputs)}))
    used = [item.dataset for item in tracker.client.get_run(run).inputs.dataset_inputs]
    assert sorted(item.name for item in used) == ["couple@round1", "prepare"]
    (data,) = [item for item in used if item.name == "prepare"]
    assert data.digest == ("prepare-digest" * 5)[:36]
    assert json.loads(data.source)["sha256"] == "prepare-digest" * 5


def test_a_pipelines_run_tells_the_commit_and_the_lock_it_left(tracker, tmp_path):
    told(tracker, tmp_path, "make")
    (parent,) = tracker.find(**{"fewstep.outcome": "pipeline"})
    assert parent.data.tags["mlflow.source.git.commit"] == "c0ffee"
    told(tracker, tmp_path, "rest", ("locked", {"pipeline": "p", "digest": "d1"}), begin=False)
    (parent,) = tracker.find(**{"fewstep.outcome": "pipeline"})
    assert parent.data.tags["fewstep.dvc_lock"] == "d1"


def test_an_evaluation_offers_its_students_and_says_what_they_were_held_against(tmp_path):
    base = {
        "backends": {"classes-32": "clf"},
        "samples": 100,
        "blocks": 2,
        "seed": 0,
        "fd_clf": 1.5,
        "fd_clf_se": 0.1,
    }
    rows = [base | {"model": "boss-4", "grid": "own", "nfe": 4}]
    rows += [base | {"model": "base", "grid": "uniform", "nfe": 4}]
    (tmp_path / "metrics.json").write_text(json.dumps({"rows": rows}))
    inputs = {"data": {"fingerprint": "d"}, "model boss-4": {"fingerprint": "b4"}}
    (offered,) = tracking.scores(tmp_path, {"version": 1, "inputs": inputs})
    assert (offered["fingerprint"], offered["nfe"], offered["fd_clf"]) == ("b4", 4, 1.5)
    (elsewhere,) = tracking.scores(
        tmp_path, {"version": 1, "inputs": inputs | {"data": {"fingerprint": "e"}}}
    )
    assert offered["yardstick"] != elsewhere["yardstick"]


@pytest.fixture(scope="module")
def chain(mlflow_database, tmp_path_factory):
    """A project one of whose stages makes a model, which ran with a tracker."""
    project = TrackedProject(tmp_path_factory.mktemp("chain") / "project", mlflow_database)
    project.write("dvc.lock", "schema: '2.0'\n")
    project.sh("python -m stages.make", FEWSTEP_TRACKING="off")
    files = (
        '(job.out / "model.safetensors").write_text("weights"); (job.out / "config.json").write_text("{}")'
    )
    project.edit("stages/use.py", "    parts = sorted(", f"    {files}\n    parts = sorted(")
    project.sh("python -m stages.use one")
    project.send()
    return project


def test_a_stage_that_makes_a_model_registers_it_and_tells_where_it_ran(chain):
    from stages.tracking.mlflow_runs import Tracker

    tracker = Tracker(chain.folder, None, outboxes.experiment())
    (version,) = tracker.client.search_model_versions("name = 'fewstep'")
    run = tracker.client.get_run(version.run_id)
    assert run.info.run_name == "use@one"
    manifest = json.loads((chain / "artifacts/use/one/manifest.json").read_text())
    assert version.tags["fewstep.fingerprint"] == manifest["fingerprint"]
    assert run.data.params["environment.device"] == "cpu"
    assert {"environment.torch", "environment.python", "environment.platform"} <= run.data.params.keys()
    assert len(run.data.tags["fewstep.dvc_lock"]) == 64
    attached = tracker.client.list_artifacts(version.run_id, "output")
    assert [file.path for file in attached] == ["output/config.json", "output/manifest.json"]  # no weights


def test_no_fact_of_the_machine_is_in_the_result(chain):
    text = (chain / "artifacts/use/one/manifest.json").read_text()
    assert "environment" not in text
    assert "dvc_lock" not in text
