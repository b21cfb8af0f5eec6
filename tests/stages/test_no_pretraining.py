"""A chain whose teachers are adopted alone: `pretrain: {}` trains nothing."""

import json
from pathlib import Path

import pytest
import yaml
from jobs import Listener, job_in
from students import STRAIGHT

from fewstep.errors import UserError
from stages import evaluate, pretrain
from stages.artifacts import manifests
from stages.sampling import pair_checks
from stages.settings import checks
from stages.settings.params import Params

RAW = yaml.safe_load(Path("params.yaml").read_text())
SEARCH = RAW["search"]["pretrain"] | {"teacher": "mine"}


def settings(**sections):
    """Return settings of a chain with an adopted teacher, and these sections."""
    student = STRAIGHT | {"teacher": "mine", "init": "mine", "train_on": "trajectories/mine"}
    chain = {"pretrain": {}, "adopt": {"mine": {"folder": "data/mine"}}, "couple": {}, "reflow": {}}
    chain |= {"search": {"mine": SEARCH}, "trajectories": {"mine": {"samples": 64}}}
    chain |= {"distill": {"four": student}, "evaluate": RAW["evaluate"] | {"reference": "mine"}}
    return Params(RAW | chain | sections)


def test_it_names_no_model():
    params = settings()
    checks.check(params)
    read = params.inputs("evaluate")
    assert "model pretrain" not in read
    assert read["no model"] == "artifacts/models/pretrain"


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"evaluate": RAW["evaluate"]}, r"evaluate\.reference 'pretrain' is no teacher; there are: mine"),
        ({"adopt": {}, "evaluate": RAW["evaluate"]}, "'pretrain' is no teacher; there are: none"),
        ({"couple": {"a": {"model": "pretrain", "pairs": 9}}}, "'pretrain' is no model; there are: mine"),
        ({"search": RAW["search"]}, r"search\.pretrain: 'pretrain' is no model; there are: mine"),
        ({"distill": {"four": STRAIGHT}}, r"distill\.four\.teacher 'pretrain' is no model; there are: mine"),
        (
            {"pretrain": {"method": "flow_matching"}},
            "pretrain: a training needs model, train; or name a chec",
        ),
        ({"pretrain": {"conditional": True}}, "pretrain: a training needs method, model, train; or name"),
        ({"pretrain": None}, "pretrain must be a mapping of settings"),
    ],
)
def test_what_needs_it_is_told(sections, told):
    with pytest.raises(UserError, match=told):
        checks.check(settings(**sections))


def test_a_checkpoint_needs_no_training():
    params = settings(pretrain={"checkpoint": "data/other"})
    checks.check(params)
    assert params.inputs("evaluate")["model pretrain"] == "artifacts/models/pretrain"
    assert not pair_checks.learnt_independent({"stage": "pretrain", "config": {"method": None}})


def test_the_stage_makes_nothing(tmp_path):
    job = job_in(tmp_path, "pretrain", progress=Listener(said := []))
    config = pretrain.Config()
    pretrain.run(config, job)
    assert said == ["trains nothing: pretrain is {}"]
    assert list(job.out.iterdir()) == []
    assert pretrain.gate(config, None, job.facts) is None
    assert pretrain.plan(config, job) is None


def test_the_evaluation_leaves_its_folder_alone(tmp_path, monkeypatch):
    """Else DVC would find it gone, and make it again in every run."""
    monkeypatch.chdir(tmp_path)
    inputs = {name: Path(path) for name, path in settings().inputs("evaluate").items()}
    for path in (*inputs.values(), Path("artifacts/models/old")):
        path.mkdir(parents=True)
        (path / manifests.NAME).write_text(json.dumps({}))
    job = job_in(tmp_path, "evaluate", inputs=inputs)
    evaluate.remove_models_no_longer_named(job)
    assert Path("artifacts/models/pretrain").exists()
    assert not Path("artifacts/models/old").exists()
