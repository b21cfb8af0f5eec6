"""Several pretrained teachers: what settings say of each, and which of them a setting means."""

import copy
from pathlib import Path

import pytest
import yaml
from students import with_own_starts

from fewstep.errors import UserError
from stages import pretrain
from stages.sampling import pair_checks
from stages.settings import checks
from stages.settings.params import Params

RAW = with_own_starts(yaml.safe_load(Path("params.yaml").read_text()))
(FIRST,) = RAW["pretrain"]
TEACHER = RAW["pretrain"][FIRST]


def settings(second, **changes):
    """Return settings with a second teacher, `small`, and what is changed in sections."""
    raw = copy.deepcopy(RAW)
    raw["pretrain"]["small"] = TEACHER | second
    raw["evaluate"]["reference"] = FIRST
    for section, keys in changes.items():
        raw[section] |= keys
    return Params(raw)


def test_each_pretrained_model_has_its_own_stages():
    params = settings(
        {"model": {"name": "unet", "width": 8}, "prediction": "noise"},
        couple={"small": {"model": "small", "pairs": 128}},
        reflow={"small-straight": RAW["reflow"]["round1"] | {"init": "small"}},
        search={"small": RAW["search"][FIRST] | {"teacher": "small"}},
        trajectories={"small": {"samples": 64}},
        distill={
            "small-4": RAW["distill"]["straight-4"]
            | {"init": "small", "teacher": "small", "train_on": "trajectories/small"}
        },
    )
    params.raw["couple"]["small-straight"] = params.raw["couple"].pop("small")
    checks.check(params)
    assert params.outputs()["artifacts/models/small"] == ("pretrain", "small")
    assert params.inputs("distill", "small-4")["teacher"] == "artifacts/models/small"
    read = params.inputs("evaluate")
    assert read["reference"] == read[f"model {FIRST}"] != read["model small"]


@pytest.mark.parametrize("reference", ["small", FIRST])
def test_each_pretrained_model_may_be_the_reference(reference):
    params = settings({}, evaluate={"reference": reference})
    checks.check(params)
    assert params.inputs("evaluate")["reference"] == f"artifacts/models/{reference}"


def test_without_a_name_the_only_pretrained_one_is():
    params = Params(RAW | {"adopt": {"mine": {"folder": "data/mine"}}})
    checks.check(params)
    assert params.inputs("evaluate")["reference"] == f"artifacts/models/{FIRST}"


STUDENT_T = {"noise": "student_t"}
OF_SMALL = {"small": {"model": "small", "pairs": 64}}
GUIDED = {"small": OF_SMALL["small"] | {"guidance": 2.0}}


@pytest.mark.parametrize(
    ("second", "changes", "told"),
    [
        (
            {},
            {"evaluate": {"reference": None}},
            f"missing: name the teacher to compare with, {FIRST} or small",
        ),
        ({}, {"evaluate": {"reference": "smal"}}, "'smal' is no teacher; did you mean 'small'?"),
        ({"method": "reflow"}, {}, "  pretrain.small.method reflow learns from pairs, not from data"),
        ({"path": {"name": "linear", "gamma": 2}}, {}, "  pretrain.small.prediction velocity has no bound"),
        (STUDENT_T | {"prediction": "score"}, {}, "  pretrain.small.noise: prediction score, "),
        (
            {},
            {"couple": {"small": {"model": "smal", "pairs": 9}}},
            "'smal' is no model; did you mean 'small'?",
        ),
        (
            {},
            {"couple": GUIDED},
            "couple.small.guidance 2.0 needs class-conditional models: set pretrain.small.conditional to",
        ),
        (
            {"conditional": True},
            {"couple": GUIDED},
            "trained with hidden labels: set pretrain.small.method.label_dropout, such as to 0.1",
        ),
        (
            STUDENT_T,
            {
                "search": {"small": RAW["search"][FIRST] | {"teacher": "small"}},
                "distill": {
                    "boss-8": RAW["distill"]["boss-8"] | {"teacher": "small", "init": "small"},
                },
            },
            "  distill.boss-8.method dmd compares scores, but pretrain.small.noise, student_t",
        ),
        (
            {},
            {"adopt": {"small": {"folder": "data/mine"}}},
            "  pretrain.small and adopt.small would both be the model 'small'; rename one",
        ),
        (
            {},
            {"distill": {"small": RAW["distill"]["straight-4"]}},
            "  pretrain.small and distill.small would both be the model 'small'; rename one",
        ),
        ({"train": None}, {}, "  pretrain.small: a training needs train; or name a checkpoint"),
    ],
)
def test_a_message_names_the_teacher_that_is_meant(second, changes, told):
    with pytest.raises(UserError) as caught:
        checks.check(settings(second, **changes))
    assert told in str(caught.value)


def test_the_velocity_of_a_path_with_gamma_is_trained_with_noise_of_both_signs():
    checks.check(
        settings(
            {"path": {"name": "linear", "gamma": 2}, "method": {"name": "flow_matching", "antithetic": True}}
        )
    )


def test_a_problem_of_one_teacher_does_not_refuse_students_of_another():
    """Noise that tells no score is no matter to students of the other teacher."""
    checks.check(settings(STUDENT_T, couple=OF_SMALL))


def test_a_checkpoint_needs_no_training():
    params = settings(
        {"method": None, "model": None, "train": None, "checkpoint": "data/other"}, couple=GUIDED
    )
    checks.check(params)  # whether it can be guided, it says itself
    assert not pair_checks.learnt_independent({"stage": "pretrain", "config": {"method": None}})


@pytest.mark.parametrize("folder", ["", ".", "data", "/etc", "data/../artifacts/models/boss-4"])
def test_a_checkpoint_lies_where_dvc_sees_it_change(folder):
    with pytest.raises(
        UserError, match=rf"pretrain\.small\.checkpoint '{folder}' must be a folder under data/"
    ):
        checks.check(settings({"checkpoint": folder}))


def test_settings_of_one_model_without_a_name_are_refused_with_their_new_place():
    with pytest.raises(UserError) as caught:
        checks.check(Params(RAW | {"pretrain": TEACHER}))
    (line,) = str(caught.value).splitlines()[1:]
    assert line == (
        "  pretrain.method is pretrain.KEY.method, pretrain.model is pretrain.KEY.model, "
        "pretrain.train is pretrain.KEY.train now; KEY is the model's name"
    )


def test_every_setting_of_pretrain_is_known_as_moved():
    from fewstep.renamed import MOVED

    moved = {place for place in MOVED if place.startswith("pretrain.")}
    assert moved == {f"pretrain.{name}" for name in pretrain.Config.model_fields}
