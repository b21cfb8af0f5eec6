"""Guidance across sections: what samples show, and settings that would teach two kinds of it."""

import pytest
from test_across_sections import GUIDED, changed

from fewstep.errors import UserError
from flows.sweep import combinations
from stages.settings import checks
from stages.settings.models import shown_guidance, unguidable
from stages.settings.params import Params

FRESH = {"init": "base", "teacher": "round1", "train_on": "prepare", "nfe": "any", "train": {"steps": 10}}
"""A student of a model of guided pairs."""
PAIRS = FRESH | {"teacher": "base", "train_on": "couple/round1", "nfe": 1}


def told(**settings) -> str:
    """Return what is said of settings with guided pairs, nothing if all is well."""
    try:
        checks.check(Params(changed(**GUIDED | {"search__base__guidance": 2.0} | settings)))
    except UserError as error:
        return str(error)
    return ""


def test_a_model_of_guided_pairs_shows_their_guidance_and_is_guided_again_if_labels_were_hidden():
    raw = changed(**GUIDED)
    raw["couple"]["round2"] = raw["couple"]["round1"] | {"model": "round1", "guidance": 1.0}
    raw["reflow"]["round2"] = raw["reflow"]["round1"] | {"init": "round1"}
    shown = {name: shown_guidance(Params(raw), name) for name in ("base", "round1", "round2", "endpoint")}
    assert shown == {"base": 1.0, "round1": 2.0, "round2": 2.0, "endpoint": 2.0}
    told = unguidable(Params(raw), [("here", 3.0, "round2"), ("there", 1.0, "round2")])
    assert told == [
        "here 3.0 needs a model that was trained with hidden labels, and round2 was taught guidance 2 "
        "without: set reflow.round2.method.label_dropout, such as to 0.1"
    ]
    for key in ("round1", "round2"):
        raw["reflow"][key] = raw["reflow"][key] | {"method": {"name": "reflow", "label_dropout": 0.1}}
    assert unguidable(Params(raw), [("here", 3.0, "round2")]) == []
    raw["couple"]["round2"]["guidance"] = 1.5
    assert shown_guidance(Params(raw), "round2") == 3.0
    assert shown_guidance(Params(raw), "round2", 2.0) == 6.0
    raw["couple"]["round1"]["model"] = "round2"  # in a circle, which is refused, but not here
    raw["couple"]["round1"]["guidance"] = raw["couple"]["round2"]["guidance"] = 1.0
    assert shown_guidance(Params(raw), "round1") == 1.0


def test_the_guidance_that_an_init_was_taught_is_not_undone():
    assert "distill.boss-4.method.guidance 1.0 would undo the guidance 2 that its init straight" in told(
        couple__round1__guidance=1.0
    )
    assert "distill.one-step.method.guidance 1.0 would undo the guidance 2 that its init endpoint" in told(
        distill__boss_at_4__method={"name": "dmd", "guidance": 3.0}, search__base__guidance=1.0
    )


@pytest.mark.parametrize("method", ["flow_map_distillation", "consistency"])
def test_a_teacher_of_guided_pairs_teaches_their_guidance(method):
    nfe = 1 if method == "consistency" else "any"
    raw = changed(**GUIDED, distill__fresh=FRESH | {"method": method, "nfe": nfe})
    assert shown_guidance(Params(raw), "fresh") == 2.0
    own = FRESH | {"method": method, "nfe": nfe, "init": "round1"}  # which shows what it is to learn
    searched = {"method": "uniform", "teacher": "round1", "budgets": [1]}
    assert "distill.fresh" not in told(distill__fresh=own, search__round1=searched)
    asked = own | {"method": {"name": method, "guidance": 2.0}}
    assert "method.guidance 2.0 needs a model that was trained with hidden labels, and round1 was" in told(
        distill__fresh=asked
    )


@pytest.mark.parametrize("name", ["flow_guided", "dmd", "sim"])
def test_pairs_and_a_teacher_in_one_loss_have_one_guidance(name):
    method = {"name": name} | ({} if name == "flow_guided" else {"regression_weight": 1.0})
    for guidance in (1.0, 3.0):
        asked = PAIRS | {"method": method | {"guidance": guidance}}
        assert f"distill.both.method.guidance {guidance}: couple/round1 has guidance 2" in told(
            distill__both=asked
        )
    assert "distill.both" not in told(distill__both=PAIRS | {"method": method | {"guidance": 2.0}})


def test_trajectories_and_scores_in_one_loss_have_one_guidance():
    settings = {
        "trajectories__base__keep": "all",
        "distill__map": PAIRS | {"method": "flow_map", "train_on": "trajectories/base", "nfe": "any"},
    }
    near = {"name": "anyflow", "map_weight": 1.0}
    student = PAIRS | {"init": "map", "train_on": "trajectories/base", "nfe": "any"}
    said = told(**settings, distill__near=student | {"method": near})
    assert "distill.near.method.guidance 1.0: trajectories/base has guidance 2" in said
    said = told(**settings, distill__near=student | {"method": near | {"guidance": 2.0}})
    assert "distill.near" not in said


@pytest.mark.parametrize("section", ["couple__round1", "search__base"])
def test_a_list_of_guidances_is_refused_with_both_ways_to_compare_them(section):
    said = told(**{f"{section}__guidance": [1.5, 4]})
    where = section.replace("__", ".")
    assert f"{where}.guidance: one key takes one scale, got [1.5, 4]; write a key for each" in said
    assert "fewstep sweep --grid SETTING=[1.5,4]" in said
    assert combinations({f"{where}.guidance": [1.5, 4]}, []) == [
        {f"{where}.guidance": 1.5},
        {f"{where}.guidance": 4},
    ]


def test_guidance_of_meanflow_is_its_own_and_asks_for_classes_and_a_reference_that_can_show_it():
    method = {"name": "meanflow", "learn_from": "data", "label_dropout": 0.1, "guidance": 2.0}
    student = {"init": "base", "teacher": "base", "train_on": "prepare", "nfe": "any", "train": {"steps": 10}}
    classes = {"pretrain__base__conditional": True}
    hidden = {"pretrain__base__method": {"name": "flow_matching", "label_dropout": 0.1}}
    raw = changed(**classes, **hidden, distill__guided=student | {"method": method})
    checks.check(Params(raw))
    assert shown_guidance(Params(raw), "guided") == 2.0
    with pytest.raises(UserError) as refused:
        checks.check(Params(changed(**classes, distill__guided=student | {"method": method})))
    assert "evaluate holds guided against its reference base: guidance 2.0 needs a model that was" in str(
        refused.value
    )
    assert (
        "set pretrain.base.method.label_dropout, such as to 0.1; or set distill.guided.method.guidance to 1"
        in str(refused.value)
    )
    with pytest.raises(UserError, match=r"distill\.guided\.method meanflow.*classes"):
        checks.check(Params(changed(distill__guided=student | {"method": method})))


def test_phases_that_are_solved_in_training_have_the_guidance_of_the_method():
    method = {"name": "phased", "learn_from": "data", "guidance": 2.0}
    student = PAIRS | {"train_on": "prepare", "nfe": 4, "method": method}
    assert "distill.phases" not in told(distill__phases=student)
    assert shown_guidance(Params(changed(**GUIDED, distill__phases=student)), "phases") == 2.0
    unhidden = told(pretrain__base__method="flow_matching", distill__phases=student)
    assert "distill.phases.method.guidance 2.0 needs a model that was trained with hidden labels" in unhidden
    stored = told(distill__phases=student | {"train_on": "trajectories/base"})
    assert "method phased with learn_from data learns from prepare, not from trajectories/base" in stored
