"""Wrong settings: all told in one message, before any work starts."""

import sys

import pytest
import yaml
from chain import tiny
from chain.checkout import merged
from workspace import CHECKOUT

from fewstep.errors import UserError
from stages.settings.checks import check
from stages.settings.params import Params


def tiny_params():
    """Return the settings of the checkout in which the chain ran."""
    return tiny.shrink(yaml.safe_load((CHECKOUT / "params.yaml").read_text()))


def test_misspelt_settings_of_several_stages_are_reported_together_without_torch(settings):
    settings.set(
        pretrain={"base": {"train": {"lerning_rate": 1e-3}}},
        distill={"boss-4": {"nef": 4}},
        evaluate={"samples": 60, "bloks": 3},
    )
    said = settings.sh("python -X importtime -m stages.search base", ok=False)
    lines = said.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time")}
    assert "pydantic" in imported
    assert not {"torch", "mlflow", "sklearn"} & imported
    assert [line for line in lines if not line.startswith("import time")] == [
        "search@base: params.yaml has mistakes:",
        "  distill.boss-4.nef is not a setting; did you mean 'nfe'?",
        "  evaluate.bloks is not a setting; did you mean 'blocks'?",
        "  pretrain.base.train.lerning_rate is not a setting; did you mean 'learning_rate'?",
    ]


def test_no_stage_works_before_the_settings_of_all_are_right(settings, finished, tmp_path):
    settings.set(prepare={"held_out": 0.3}, evaluate={"bloks": 3})
    said = settings.refused("dvc repro")
    assert "prepare: params.yaml has mistakes:" in said
    assert "evaluate.bloks is not a setting" in said
    assert settings.locked() == finished.locked()
    assert not (tmp_path / "scratch").exists()


JITTERED = {"name": "straighten", "jitter": 0.2}
STUDENT = {"teacher": "base", "method": "coordinate_descent", "budgets": [4]}
PAIRS_OF_ITS_TEACHER = {"one-step": {"teacher": "base"}}


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (
            {"pretrain": {"base": {"train": {"steps": -5}}}},
            "pretrain.base.train: steps must be 1 or more, got -5",
        ),
        ({"evaluate": {"samples": 1}}, "evaluate.samples should be greater than or equal to 50, got 1"),
        ({"couple": {"round1": {"pairs": "many"}}}, "couple.round1.pairs should be a valid integer"),
        (
            {"couple": {"round1": {"solver": "huen"}}},
            "unknown solver 'huen'; did you mean 'heun'? (there ar",
        ),
        (
            {"pretrain": {"base": {"method": "flow_maching"}}},
            "unknown method 'flow_maching'; did you mean 'flow_match",
        ),
        (
            {"pretrain": {"base": {"model": "unett"}}},
            "pretrain.base.model: unknown model 'unett'; did you mean 'unet'? (th",
        ),
        (
            {"pretrain": {"base": {"path": "lineer"}}},
            "pretrain.base.path: unknown path 'lineer'; did you mean 'linear'? (there",
        ),
        ({"search": {"base": {"method": "belman"}}}, "unknown search 'belman'; did you mean 'bellman'?"),
        (
            {"search": {"base": {"teacher": "round1"}}},
            "search.base.teacher 'round1' must be 'base', the model itself",
        ),
        ({"search": {"base": {"method": "best"}}}, "report_noises 32 is too few to tell the best search"),
        ({"search": {"base": {"solver": "heun"}}}, "distill.boss-4 learns Euler steps, but search.base"),
        (
            {"search": {"boss-4": STUDENT}},
            "search.boss-4: 'boss-4' is trained only at the timesteps of its grid",
        ),
        (
            {"search": {"boss-4": STUDENT | {"method": "tan"}}, "distill": {"boss-4": {"method": JITTERED}}},
            "search.boss-4.method tan asks for velocities at all times, but a student knows those near",
        ),
        (
            {"search": {"boss-4": STUDENT | {"budgets": [2]}}, "distill": {"boss-4": {"method": JITTERED}}},
            "search.boss-4 is of a student of 4 euler steps: set budgets to [4], solver to euler",
        ),
        (
            {"distill": {"boss-4": {"method": JITTERED}}},
            "states between the timesteps; set trajectories.base.k",
        ),
        ({"search": {"base": {"budgets": [1, 4, 99]}}}, "budget 99 does not fit a fine grid of 16 steps"),
        ({"search": {"base": {"budgets": [1, 4, 4]}}}, "budgets [1, 4, 4] name a number twice"),
        (
            {"couple": {"round1": {"model": "bas"}}},
            "couple.round1.model: 'bas' is no model; did you mean 'base'?",
        ),
        (
            {"reflow": {"round1": {"init": "bas"}}},
            "reflow.round1.init: 'bas' is no model; did you mean 'base'?",
        ),
        (
            {"search": {"x": {"teacher": "x", "method": "bellman", "budgets": [1]}}},
            "search.x: 'x' is no model; there are: base",
        ),
        ({"trajectories": {"x": {"samples": 9}}}, "trajectories.x: 'x' is no model; there are: base, ro"),
        (
            {"trajectories": {"boss-4": {"samples": 9}}},
            "trajectories.boss-4 has no timesteps: add search.boss-4",
        ),
        (
            {"distill": {"boss-4": {"teacher": "round2"}}},
            "boss-4.teacher 'round2' is no model; did you mean 'round1'?",
        ),
        ({"distill": {"boss-4": {"train_on": "couple/x"}}}, "'couple/x' does not exist; there are: couple/r"),
        ({"distill": {"boss-4": {"train_on": "couple/round1"}}}, "straighten learns from trajectories, "),
        ({"distill": {"boss-4": {"teacher": "round1"}}}, "is not of its teacher; use trajectories/round1"),
        (
            {"distill": {"boss-4": {"nfe": 3}}},
            "boss-4.nfe 3 is not among the budgets searched for base, [1",
        ),
        ({"distill": PAIRS_OF_ITS_TEACHER, "search": {"base": {"guidance": 2.0}}}, "has 2.0; make them "),
    ],
)
def test_impossible_settings_are_named_with_what_exists(sections, says):
    """In this process; the tests above tell that each stage begins with this check."""
    with pytest.raises(UserError) as refused:
        check(Params(merged(tiny_params(), sections)))
    assert says in str(refused.value)


def test_an_unknown_source_is_named_by_the_stage_that_reads_it(settings):
    settings.set(prepare={"source": "digts"})
    said = settings.refused("python -m stages.prepare")
    assert "unknown source 'digts'; did you mean 'digits'? (there are: " in said


def test_an_interpreter_without_the_locked_packages(settings):
    libraries = '${LD_LIBRARY_PATH:+"LD_LIBRARY_PATH=$LD_LIBRARY_PATH"}'  # where some have libpython
    said = settings.refused(f"env -i {libraries} {sys.base_prefix}/bin/python3 -S -m stages.prepare")
    assert "lacks the locked packages: torch is missing, needs 2." in said
    assert "`make run` creates .venv with them; or put .venv/bin first on PATH" in said


def test_guided_pairs_of_another_model_are_no_mismatch():
    """Guidance is in the weights of the round that learnt from them, so its own grid has none."""
    method = {"name": "flow_matching", "label_dropout": 0.1}
    teacher = {"base": {"conditional": True, "method": method}}
    sections = {"pretrain": teacher, "couple": {"round1": {"guidance": 2.0}}}
    sections["distill"] = {"one-step": {"teacher": "round1"}}
    check(Params(merged(tiny_params(), sections)))
